"""What a checkpoint says about itself, and the pointer to the last and the best. No TensorFlow is imported here."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from vse_tf.errors import UserError
from vse_tf.files import open_regular, read_json

STATE = "state.h5"
POSITION = "position.json"
POINTER = "pointer.json"
PROGRESS_BYTES = 256 * 2**20
NAME = re.compile(r"step-\d{9}")


@dataclass(frozen=True)
class Position:
    """Where in the run a checkpoint was taken.

    Args:
        epoch: finished epochs, measured and recorded.
        step: finished optimizer steps.
        step_in_epoch: how many of them belong to the unfinished epoch; all of the epoch's where it only remains to
            measure.
    """

    epoch: int
    step: int
    step_in_epoch: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about itself.

    Args:
        folder: its folder.
        position: where the run stood.
        best: name of the best checkpoint of then; None before the first measurement.
        sha256: hash of its state.
        progress: what else a continued run needs, as it was handed to `Checkpoints.save`.
    """

    folder: Path
    position: Position
    best: str | None
    sha256: str
    progress: dict[str, Any] = field(default_factory=dict)


def read_pointer(folder: Path) -> dict[str, str]:
    """The names of the `last` and the `best` checkpoint of a folder, as far as its pointer holds such."""
    try:
        values = read_json(folder / POINTER)
    except (OSError, ValueError):
        return {}
    pairs = values.items() if isinstance(values, dict) else ()
    # Only a plain name: nothing in a run folder may point out of it.
    return {key: name for key, name in pairs if isinstance(name, str) and NAME.fullmatch(name)}


def described(checkpoint: Checkpoint) -> str:
    """The contents of a checkpoint's `position.json`, with a check sum of its own."""
    position = checkpoint.position
    values = {
        "epoch": position.epoch,
        "step": position.step,
        "within": position.step_in_epoch,
        "best": checkpoint.best,
        "sha256": checkpoint.sha256,
        "progress": checkpoint.progress,
    }
    return json.dumps({**values, "check": _check(values)}, indent=1, ensure_ascii=False) + "\n"


def _check(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_description(folder: Path, strict: bool = False) -> Checkpoint:
    """What a checkpoint says about itself.

    Args:
        folder: its folder.
        strict: ask for an intact check sum, as continuing needs every digit.

    Raises:
        UserError: it is damaged.
    """
    path = folder / POSITION
    try:
        # The progress holds a row per epoch.
        values = read_json(path, PROGRESS_BYTES)
        check = values.pop("check", None)
        if strict and check != _check(values):
            raise ValueError("its check sum is another")
        position = Position(int(values["epoch"]), int(values["step"]), int(values.get("within", 0)))
        return Checkpoint(folder, position, values.get("best"), str(values["sha256"]), values.get("progress", {}))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: damaged checkpoint ({' '.join(str(error).split())})") from None


def check_state(checkpoint: Checkpoint) -> None:
    """Compare a checkpoint's state with its hash.

    Raises:
        UserError: it is damaged.
    """
    path = checkpoint.folder / STATE
    try:
        with open_regular(path) as file:
            digest = hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: damaged checkpoint ({error.strerror})") from None
    if digest != checkpoint.sha256:
        raise UserError(f"{path}: damaged checkpoint (cut short or changed since it was written)")
