"""Paths in a run's settings, made absolute. No TensorFlow is imported here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from vse_tf.config import Paths, Settings

T = TypeVar("T", str, list[str], str | None, Paths)


def absolute_paths(settings: Settings) -> Settings:
    """The settings with all paths made absolute, so that the run folder works from any directory.

    Args:
        settings: the settings; a relative path is meant from the current directory.

    Example:
        >>> absolute_paths(Settings(train=TrainSettings(init_from="runs/base"))).train.init_from
        '/home/ada/runs/base'
    """
    data, image = settings.data, settings.image
    data = replace(
        data,
        annotations=_absolute(data.annotations),
        images=_absolute(data.images),
        cache_dir=_absolute(data.cache_dir),
        split_ids=data.split_ids and {name: _absolute(files) for name, files in data.split_ids.items()},
        tfds=replace(data.tfds, data_dir=_absolute(data.tfds.data_dir)),
    )
    # `imagenet` and `none` are no files.
    weights = _absolute(image.weights) if Path(image.weights).expanduser().is_file() else image.weights
    return replace(
        settings,
        data=data,
        image=replace(image, encoder=_absolute_preset(image.encoder), weights=weights),
        text=replace(settings.text, encoder=_absolute_preset(settings.text.encoder)),
        train=replace(settings.train, init_from=_absolute(settings.train.init_from)),
    )


def _absolute(paths: T) -> T:
    if isinstance(paths, list):
        return [str(Path(path).expanduser().absolute()) for path in paths]
    return paths and str(Path(paths).expanduser().absolute())


def _absolute_preset(encoder: str) -> str:
    kind, _, preset = encoder.partition(":")
    return f"hub:{_absolute(preset)}" if kind == "hub" and Path(preset).expanduser().is_dir() else encoder
