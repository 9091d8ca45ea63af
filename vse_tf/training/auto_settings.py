"""What `auto` stands for where a run decides it once: config.yaml stores the choice, and a continued run keeps it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf

from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings
from vse_tf.data.records import Collection
from vse_tf.errors import shell_path
from vse_tf.models.feature_cache import FeatureCache, training_views
from vse_tf.models.gru import is_packed
from vse_tf.setting_types import OnResume, keys_marked
from vse_tf.settings_parser import flat
from vse_tf.training.distribution import worker_sum

CROPS, PATIENCE = 2, 10
# Share of the free space that features may take.
SHARE = 0.5
Kind = Literal["features", "text_features"]
_WHAT: dict[Kind, tuple[str, str]] = {"features": ("image", "images"), "text_features": ("text", "captions")}


def keep_choices(settings: Settings, run: RunFolder) -> Settings:
    """The settings with what the run in the folder has where these say `auto`; unchanged where there is none.

    Args:
        settings: settings to continue the run with.
        run: the run folder.

    Raises:
        UserError: the run's settings cannot be read.
    """
    if not run.exists:
        return settings
    before, now = flat(run.settings()), flat(settings)
    kept = keys_marked(settings, OnResume.KEPT)
    return _with(settings, {key: before[key] for key in kept if now[key] == "auto"})


def choose_text(settings: Settings) -> Settings:
    """Decide what `auto` stands for in the text tower, before it is built.

    Args:
        settings: the run's settings.

    Returns:
        The settings with `text.packed` true or false.
    """
    # XLA needs shapes that a packed GRU does not have.
    packed = settings.train.jit_compile is not True and is_packed(settings.text.packed)
    return _with(settings, {"text.packed": packed}) if settings.text.packed == "auto" else settings


def uses_xla(settings: Settings, on_features: bool, replicas: int) -> bool:
    """Whether XLA compiles the training step; `train.jit_compile` auto leaves it to what is known to gain.

    On a CPU XLA made the step on cached features four times slower (256 pairs, 4M weights) and helped no GRU, and it is
    slow to compile convolutions. It compiles neither a packed GRU nor that of cuDNN, and Keras keeps it from several
    replicas and from deterministic runs.

    Args:
        settings: the run's settings.
        on_features: the images are features.
        replicas: number of replicas.
    """
    train = settings.train
    if train.jit_compile != "auto":
        return train.jit_compile
    alone = replicas == 1 and not train.deterministic
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    return on_gpu and on_features and alone and settings.text.encoder != "gru"


def choose(
    settings: Settings,
    collection: Collection,
    caches: dict[Kind, FeatureCache | None],
    strategy: tf.distribute.Strategy,
) -> tuple[Settings, list[str]]:
    """Decide what `auto` stands for.

    Args:
        settings: the run's settings.
        collection: its data.
        caches: the caches of both towers; None where features cannot be cached.
        strategy: its strategy; all workers decide alike.

    Returns:
        The settings without `auto`, and lines that say what is cached, its size, and why if it is not.
    """
    chosen: dict[str, Any] = {}
    if settings.train.patience == "auto":
        chosen["train.patience"] = patience(settings)
    lines, promised = [], 0
    for kind, cache in caches.items():
        asked = getattr(settings.data, kind)
        if asked is False or cache is None:
            chosen[f"data.{kind}"] = False
            continue
        views = {"train": _views(settings)} if kind == "features" else {}
        sizes = [cache.bytes_of(split, views.get(name, ())) for name, split in collection.splits.items()]
        total, needed = (sum(each) for each in zip(*sizes, strict=True))
        place = _existing(cache.folder)
        space = cache.cache.available() - promised if needed and asked == "auto" else 0
        space = max(min(space, int(SHARE * shutil.disk_usage(place).free) - promised), 0)
        fits = not needed or (os.access(place, os.W_OK) and total <= space)
        # Each worker has a cache of its own, perhaps on a disk of its own.
        fits = not worker_sum(strategy, 1)([not fits])[0]
        tower, items = _WHAT[kind]
        folder = shell_path(cache.folder.parents[1])
        if asked is True or fits:
            promised += total
            chosen[f"data.{kind}"] = True
            if needed:
                lines.append(f"features of the {items}, computed once and cached in {folder}: {_size(needed)}")
        else:
            chosen[f"data.{kind}"] = False
            lines.append(
                f"features of the {items} are not cached: they take {_size(total)}, and {folder} has room for "
                f"{_size(space)}; every epoch runs the frozen {tower} backbone (raise --data.cache_size, or name a "
                f"larger disk with --data.cache_dir)"
            )
    if chosen["data.features"] and settings.data.feature_crops == "auto":
        chosen["data.feature_crops"] = _crops(settings)
    return _with(settings, chosen), lines


def patience(settings: Settings) -> int:
    """The number of epochs that `train.patience` auto stands for.

    The rsum of a few dozen validation images moves by ten from one epoch to the next, and stood still for five epochs
    before it rose by twenty; a cosine's last epochs are its best.
    """
    return 0 if settings.train.schedule == "cosine" else PATIENCE


def _views(settings: Settings) -> list[str]:
    return training_views(settings.image.flip, _crops(settings))


def _crops(settings: Settings) -> int:
    crops = settings.data.feature_crops
    return crops if crops != "auto" else CROPS * settings.image.random_crop


def _with(settings: Settings, values: dict[str, Any]) -> Settings:
    for key, value in values.items():
        section, name = key.split(".")
        settings = replace(settings, **{section: replace(getattr(settings, section), **{name: value})})
    return settings


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
