"""Which settings and data resume a run: what is finished already, what may differ, what may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from vse_tf.artifacts.checkpoint_files import Checkpoint, Position, find_checkpoint
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings, TrainSettings
from vse_tf.display import say
from vse_tf.errors import UserError
from vse_tf.removed_settings import REMOVED
from vse_tf.setting_types import OnResume, keys_marked
from vse_tf.settings_parser import changed_removed_settings, differences, flat
from vse_tf.training.builder import RunParts
from vse_tf.training.distribution import is_chief, same_everywhere
from vse_tf.training.progress import RunProgress
from vse_tf.training.schedules import learning_rate
from vse_tf.training.warm_start import warm_start

# Settings that runs of earlier versions do not have, with what these runs did.
ADDED = {"image.eval_views": "centre", "train.weight_decay": 0.0, "train.monitor": "rsum"}
ADDED |= {"train.unfreeze_epoch": 0, "train.layer_decay": 1.0, "loss.nested_dims": []}
ADDED |= {"train.sync_to": None}
FREE, RATE = (keys_marked(Settings(), mark) for mark in (OnResume.FREE, OnResume.RATE))


def finished_results(run: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do under these settings; None where it has.

    Raises:
        UserError: the folder holds a run that these settings do not resume.
    """
    if not run.exists:
        return None
    run.check_format()
    train = settings.train
    if train.resume == "never":
        raise UserError(
            f"train.run_dir: {run.path} holds a run already and train.resume is never; choose another folder"
        )
    removed = changed_removed_settings(run.config)
    if removed:
        named = ", ".join(f"{key} {value!r}" for key, value in removed.items())
        raise UserError(
            f"{run.path} holds a run with {named}, which this version no longer has, so it cannot be continued; "
            "choose another --train.run_dir"
        )
    differing = _differing(run, settings)
    if differing and train.resume != "force":
        named = ", ".join(f"{key} (was {was!r}, is {now!r})" for key, (was, now) in differing.items())
        raise UserError(
            f"{run.path} holds a run with other settings: {named}; choose another --train.run_dir, or continue it "
            "all the same with --train.resume force"
        )
    results = run.read_results()
    if not results or not results["finished"]:
        return None
    if train.epochs < results["last"]["epoch"]:
        raise UserError(
            f"train.epochs: {train.epochs}, but the run in {run.path} has finished {results['last']['epoch']} epochs"
        )
    if settings.model.hubness_correction != (run.hubness_of() is not None):
        return None
    # Not config.yaml: a resumed run may have replaced it and got no further.
    before = results["provenance"]["settings"]["train"]
    stopped = results["stopped"] is not None and stays_stopped(train, before["epochs"], before["patience"])
    return results if stopped or results["last"]["epoch"] == train.epochs else None


def stays_stopped(train: TrainSettings, epochs: int, patience: int) -> bool:
    """Whether these settings ask no more of a run that stopped early under `epochs` and `patience`."""
    return train.patience == patience and train.epochs <= epochs


def resume_conditions(settings: Settings, data_sha256: str, steps_per_epoch: int) -> dict[str, Any]:
    """What a checkpoint stores of settings and data; a resumed run must agree with it.

    Args:
        settings: the run's settings.
        data_sha256: fingerprint of its data.
        steps_per_epoch: steps in an epoch.
    """
    # With the removed settings, which this version has at their defaults, and without the added ones at theirs:
    # checkpoints of earlier versions stay valid.
    values = {key: removed.default for key, removed in REMOVED.items()} | flat(settings)
    fixed = {k: v for k, v in values.items() if k not in FREE | RATE and (k, v) not in ADDED.items()}
    return {
        "seed": settings.train.seed,
        "settings_sha256": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest(),
        "data_sha256": data_sha256,
        "steps_per_epoch": steps_per_epoch,
        "epochs": settings.train.epochs,
        "patience": settings.train.patience,
    }


def start_or_resume(parts: RunParts, fill: Callable[[RunParts], None] | None = None) -> RunProgress:
    """Resume from the newest intact checkpoint, or start: fresh, or from another run's weights.

    Args:
        parts: what the run is made of, its model compiled.
        fill: changes the weights that a new run starts from.

    Returns:
        Where the run stands.

    Raises:
        UserError: the checkpoint is of other settings or data, or the workers do not share the run folder.
    """
    train, chief = parts.settings.train, is_chief(parts.strategy)
    conditions = resume_conditions(parts.settings, parts.provenance["data_sha256"], parts.order.steps_per_epoch)
    checkpoint = parts.checkpoints.newest()
    if not same_everywhere(parts.strategy, checkpoint.position.step if checkpoint else -1):
        raise UserError(f"train.run_dir: the workers do not see the same {parts.run.path}; share the folder")
    if checkpoint is None:
        if train.init_from:
            loaded = warm_start(parts.model, getattr(parts.tokenizer, "vocabulary", None), train.init_from)
            if chief:
                say(f"init_from {train.init_from}: {loaded}")
        if fill:
            fill(parts)
        return RunProgress(Position(0, 0), conditions, train.monitor)
    if train.resume != "force":
        check_conditions(checkpoint, conditions)
    parts.checkpoints.resume(parts.model, checkpoint, tidy=chief)
    progress, stored = RunProgress.of(checkpoint, conditions, train.monitor), checkpoint.progress
    if stored.get("steps_per_epoch") != conditions["steps_per_epoch"]:
        # Forced: a step in an epoch of another length means nothing.
        progress.position = replace(progress.position, step_in_epoch=0)
    if progress.stopped and not stays_stopped(train, stored["epochs"], stored["patience"]):
        progress.stopped = None
    if chief:
        steps = progress.position.step_in_epoch
        into_next = f", {steps} steps into the next" if steps else ""
        say(f"continuing {parts.run.path} after epoch {progress.position.epoch}{into_next}")
    return progress


def check_conditions(checkpoint: Checkpoint, conditions: dict[str, Any]) -> None:
    """Refuse a checkpoint of other settings or data.

    Args:
        checkpoint: the one to resume from.
        conditions: what `resume_conditions` gives for this run.

    Raises:
        UserError: they differ.
    """
    problems = {
        "data_sha256": "the data (images or captions) have changed since this run began",
        "settings_sha256": "it was written under other settings than config.yaml holds",
    }
    for key, problem in problems.items():
        if checkpoint.progress.get(key) != conditions[key]:
            raise UserError(
                f"{checkpoint.folder}: {problem}; restore them, choose another --train.run_dir, or continue all the "
                "same with --train.resume force"
            )


def _differing(run: RunFolder, settings: Settings) -> dict[str, tuple[Any, Any]]:
    before = run.settings()
    differing = {k: v for k, v in differences(before, settings).items() if k not in FREE}
    if RATE & differing.keys() and _same_rates_so_far(run, before.train, settings.train):
        differing = {k: v for k, v in differing.items() if k not in RATE}
    return differing


def _same_rates_so_far(run: RunFolder, before: TrainSettings, now: TrainSettings) -> bool:
    """Whether every finished step of a run would have had the same learning rate under other settings."""
    try:
        checkpoint = find_checkpoint(run.checkpoints)
    except UserError:
        return False
    steps_per_epoch = checkpoint.progress.get("steps_per_epoch") if checkpoint else None
    if checkpoint is None or not steps_per_epoch:
        return False
    steps = np.arange(checkpoint.position.step, dtype=np.float32)
    # The length of a cosine may change: that is what growing `epochs` means.
    before = replace(before, epochs=now.epochs)
    first, second = (_rates(train, steps, steps_per_epoch) for train in (before, now))
    return np.array_equal(first, second)


def _rates(train: TrainSettings, steps: np.ndarray, steps_per_epoch: int) -> np.ndarray:
    rate = learning_rate(train, steps_per_epoch)
    return np.broadcast_to(rate(steps) if callable(rate) else rate, steps.shape)
