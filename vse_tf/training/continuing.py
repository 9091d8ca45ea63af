"""Whether settings and data continue a run: what is done already, what may differ, what may not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from vse_tf.artifacts.checkpoints import Checkpoint, Checkpoints
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings, TrainSettings
from vse_tf.errors import UserError
from vse_tf.removed_settings import REMOVED
from vse_tf.settings_parser import changed_removed_settings, differences, flat
from vse_tf.training.schedules import learning_rate

# A continued run may differ in these: they change what is shown and kept, or how far it goes, not what a step does.
MAY_DIFFER = {
    "data.cache_dir",
    "data.verify",
    "data.workers",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.collapse_steps",
    "train.epochs",
    "train.examples",
    "train.keep_checkpoints",
    "train.log_steps",
    "train.patience",
    "train.projector",
    "train.resume",
    "train.run_dir",
}
# And in these as long as every finished step had the learning rate that they give it.
RATES = {
    "train.decay_epochs",
    "train.decay_factor",
    "train.learning_rate",
    "train.schedule",
    "train.warmup_epochs",
}


def finished_results(run: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """The results of a run that has nothing left to do under these settings; None where there is work.

    Raises:
        UserError: the folder holds a run that these settings do not continue.
    """
    if not run.exists:
        return None
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
    # Not config.yaml: an attempt to go on may have replaced that and got no further.
    before = results["provenance"]["settings"]["train"]
    stopped = results["stopped"] is not None and stays_stopped(train, before["epochs"], before["patience"])
    return results if stopped or results["last"]["epoch"] == train.epochs else None


def stays_stopped(train: TrainSettings, epochs: int, patience: int) -> bool:
    """Whether a run that stopped early under `epochs` and `patience` is not asked for more now."""
    return train.patience == patience and train.epochs <= epochs


def facts(settings: Settings, data_sha256: str, steps_per_epoch: int) -> dict[str, Any]:
    """What a checkpoint keeps of settings and data, for `check_continues`.

    Args:
        settings: the run's settings.
        data_sha256: fingerprint of its data.
        steps_per_epoch: steps in an epoch.
    """
    # With the removed settings, which this version has at their defaults: checkpoints of earlier versions stay valid.
    values = {key: removed.default for key, removed in REMOVED.items()} | flat(settings)
    fixed = {k: v for k, v in values.items() if k not in MAY_DIFFER | RATES}
    return {
        "seed": settings.train.seed,
        "settings_sha256": hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest(),
        "data_sha256": data_sha256,
        "steps_per_epoch": steps_per_epoch,
        "epochs": settings.train.epochs,
        "patience": settings.train.patience,
    }


def check_continues(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    """Refuse a checkpoint of other settings or data.

    Args:
        checkpoint: the one to continue from.
        now: what `facts` gives for this run.

    Raises:
        UserError: they differ.
    """
    told = {
        "data_sha256": "the data (images or captions) have changed since this run began",
        "settings_sha256": "it was written under other settings than config.yaml holds",
    }
    for key, what in told.items():
        if checkpoint.progress.get(key) != now[key]:
            raise UserError(
                f"{checkpoint.folder}: {what}; restore them, choose another --train.run_dir, or continue all the same "
                "with --train.resume force"
            )


def _differing(run: RunFolder, settings: Settings) -> dict[str, tuple[Any, Any]]:
    before = run.settings()
    differing = {k: v for k, v in differences(before, settings).items() if k not in MAY_DIFFER}
    if RATES & differing.keys() and _same_rates_so_far(run, before.train, settings.train):
        differing = {k: v for k, v in differing.items() if k not in RATES}
    return differing


def _same_rates_so_far(run: RunFolder, before: TrainSettings, now: TrainSettings) -> bool:
    """Whether every finished step of a run would have had the same learning rate under other settings."""
    try:
        checkpoint = Checkpoints(run.checkpoints).last()
    except UserError:
        return False
    steps_per_epoch = checkpoint.progress.get("steps_per_epoch") if checkpoint else None
    if checkpoint is None or not steps_per_epoch:
        return False
    steps = np.arange(checkpoint.position.step, dtype=np.float32)
    # The length of a cosine may change: that is what growing `epochs` means.
    before = dataclasses.replace(before, epochs=now.epochs)
    first, second = (_rates(train, steps, steps_per_epoch) for train in (before, now))
    return np.array_equal(first, second)


def _rates(train: TrainSettings, steps: np.ndarray, steps_per_epoch: int) -> np.ndarray:
    rate = learning_rate(train, steps_per_epoch)
    return np.broadcast_to(rate(steps) if callable(rate) else rate, steps.shape)
