"""The description of a checkpoint, and the pointer to the last and the best one. No TensorFlow is imported here."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vse_tf.errors import UserError
from vse_tf.files import read_json, sha256_of

STATE = "state.h5"
OPTIMIZER = "optimizer.h5"
POSITION = "position.json"
POINTER = "pointer.json"
PROGRESS_BYTES = 256 * 2**20
NAME = re.compile(r"step-\d{9}")


@dataclass(frozen=True)
class Position:
    """Where in the run a checkpoint was taken.

    Args:
        epoch: number of finished epochs, measured and recorded.
        step: number of finished optimizer steps.
        step_in_epoch: number of those that belong to the unfinished epoch; all of its steps if only its measurement is
            missing.
    """

    epoch: int
    step: int
    step_in_epoch: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The description of a checkpoint.

    Args:
        folder: its folder.
        position: where the run was.
        best: name of the best checkpoint at that time; None before the first measurement.
        sha256: hash of its weights.
        progress: the further values that `Checkpoints.save` was given.
        optimizer_sha256: hash of its optimizer's variables; None where an earlier version wrote them among the weights.
    """

    folder: Path
    position: Position
    best: str | None
    sha256: str
    progress: dict[str, Any] = field(default_factory=dict)
    optimizer_sha256: str | None = None


def read_pointer(folder: Path) -> dict[str, str]:
    """The names of the `last` and the `best` checkpoint of a folder, as far as there are any."""
    try:
        values = read_json(folder / POINTER)
    except (OSError, ValueError):
        return {}
    pairs = values.items() if isinstance(values, dict) else ()
    # Only a name: no path leads out of the run folder.
    return {key: name for key, name in pairs if isinstance(name, str) and NAME.fullmatch(name)}


def description_text(checkpoint: Checkpoint) -> str:
    """The contents of a checkpoint's `position.json`, with their checksum."""
    position = checkpoint.position
    values = {
        "epoch": position.epoch,
        "step": position.step,
        "within": position.step_in_epoch,
        "best": checkpoint.best,
        "sha256": checkpoint.sha256,
        "progress": checkpoint.progress,
    }
    if checkpoint.optimizer_sha256 is not None:
        values["optimizer_sha256"] = checkpoint.optimizer_sha256
    return json.dumps({**values, "check": _check(values)}, indent=1, ensure_ascii=False) + "\n"


def _check(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path, strict: bool = False) -> Checkpoint:
    """The description of a checkpoint.

    Args:
        folder: its folder.
        strict: verify the checksum; a continued run needs every digit.

    Raises:
        UserError: it is damaged.
    """
    path = folder / POSITION
    try:
        # The progress holds one row per epoch.
        values = read_json(path, PROGRESS_BYTES)
        check = values.pop("check", None)
        if strict and check != _check(values):
            raise ValueError("its checksum differs")
        position = Position(int(values["epoch"]), int(values["step"]), int(values.get("within", 0)))
        weights, optimizer = str(values["sha256"]), values.get("optimizer_sha256")
        return Checkpoint(folder, position, values.get("best"), weights, values.get("progress", {}), optimizer)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: damaged checkpoint ({' '.join(str(error).split())})") from None


def find_checkpoint(folder: Path, which: str = "last") -> Checkpoint | None:
    """The last (or best) checkpoint of a run, its state unchecked; None if there is none.

    Args:
        folder: the run's `checkpoints/`.
        which: `last` or `best`.

    Raises:
        UserError: its description is damaged.
    """
    name = read_pointer(folder).get(which)
    return read_description(folder / name) if name else None


def required_checkpoint(folder: Path, which: str = "last") -> Checkpoint:
    """The last (or best) checkpoint of a run, as `find_checkpoint`.

    Raises:
        UserError: there is none, or its description is damaged.
    """
    found = find_checkpoint(folder, which)
    if found is None:
        raise UserError(f"{folder}: no checkpoint; the run ended before its first epoch did: train again")
    return found


def check_state(checkpoint: Checkpoint, training: bool = False) -> None:
    """Compare a checkpoint's weights with their hash.

    Args:
        checkpoint: the checkpoint.
        training: the optimizer's variables too.

    Raises:
        UserError: it is damaged, or its optimizer's variables were removed.
    """
    hashes = {STATE: checkpoint.sha256}
    if training and checkpoint.optimizer_sha256 is not None:
        hashes[OPTIMIZER] = checkpoint.optimizer_sha256
    for name, expected in hashes.items():
        path = checkpoint.folder / name
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise UserError(f"{path}: damaged checkpoint ({error.strerror})") from None
        if digest != expected:
            raise UserError(f"{path}: damaged checkpoint (truncated or changed since it was written)")
