"""Checkpoints: everything that the next step depends on, written beside and renamed."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.training.run_folder import read_json, write_json

STATE = "state.h5"
FROZEN = "frozen.h5"


@dataclass(frozen=True)
class Position:
    """Where in the run a checkpoint was taken.

    Args:
        epoch: finished epochs.
        step: finished optimizer steps.
    """

    epoch: int
    step: int


class Checkpoints:
    """The checkpoints of a run: `step-<n>/` folders, a pointer to the last and the best, and the frozen weights once.

    A checkpoint holds the weights that can change, the optimizer's variables, and the state of every random seed of
    the model, so that a continued run does what an undisturbed one would have done.

    Args:
        folder: the run's `checkpoints/`.
        keep: last checkpoints kept besides the best.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.pointer = folder / "pointer.json"

    def save(self, model: DualEncoder, position: Position, best: bool) -> None:
        """Write a checkpoint and make it the last one, and the best where it is.

        Args:
            model: the compiled model.
            position: where it stands.
            best: it is the best so far.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        frozen = _frozen(model)
        if frozen and not (self.folder / FROZEN).exists():
            beside = self.folder / f".{FROZEN}.writing"
            _write(beside, frozen)
            beside.replace(self.folder / FROZEN)
        name = f"step-{position.step:09d}"
        beside = self.folder / f".{name}.writing"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        _write(beside / STATE, _changing(model) | _optimizer(model))
        write_json(beside / "position.json", {**asdict(position), "sha256": _sha256(beside / STATE)})
        shutil.rmtree(self.folder / name, ignore_errors=True)
        beside.replace(self.folder / name)
        pointer = self._pointer()
        write_json(self.pointer, {"last": name, "best": name if best else pointer.get("best", name)})
        self._sweep()

    def position(self, which: str = "last") -> Position | None:
        """Where the last (or best) checkpoint stands; None where there is none."""
        folder = self._find(which)
        if folder is None:
            return None
        values = read_json(folder / "position.json")
        return Position(values["epoch"], values["step"])

    def description(self, which: str = "last") -> dict[str, Any]:
        """Position and hash of the last (or best) checkpoint.

        Raises:
            UserError: there is none.
        """
        folder = self._find(which)
        if folder is None:
            raise UserError(f"{self.folder}: no checkpoint; the run ended before its first epoch did: train again")
        return read_json(folder / "position.json")

    def restore(self, model: DualEncoder, which: str = "last", training: bool = True) -> Position:
        """Put a checkpoint's values into a model.

        Args:
            model: the model; compiled, with a built optimizer, where `training`.
            which: `last` or `best`.
            training: restore the optimizer as well.

        Raises:
            UserError: there is no checkpoint, or it does not fit the model.
        """
        folder = self._find(which)
        if folder is None:
            raise UserError(f"{self.folder}: no checkpoint; the run ended before its first epoch did: train again")
        if _frozen(model):
            _read(self.folder / FROZEN, _frozen(model))
        _read(folder / STATE, _changing(model) | (_optimizer(model) if training else {}))
        position = self.position(which)
        assert position is not None
        return position

    def _pointer(self) -> dict[str, str]:
        return read_json(self.pointer) if self.pointer.exists() else {}

    def _find(self, which: str) -> Path | None:
        name = self._pointer().get(which)
        return self.folder / name if name else None

    def _sweep(self) -> None:
        kept = set(self._pointer().values())
        folders = sorted(self.folder.glob("step-*"))
        for folder in folders[: -self.keep]:
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def _changing(model: DualEncoder) -> dict[str, keras.Variable]:
    frozen = {id(variable) for variable in _frozen(model).values()}
    return {key: value for key, value in named_variables(model).items() if id(value) not in frozen}


def _frozen(model: DualEncoder) -> dict[str, keras.Variable]:
    backbones = [backbone_of(tower) for tower in (model.image_tower, model.text_tower)]
    frozen = {id(v) for backbone in backbones if backbone and not backbone.trainable for v in backbone.weights}
    return {key: value for key, value in named_variables(model).items() if id(value) in frozen}


def named_variables(model: DualEncoder) -> dict[str, keras.Variable]:
    """Every variable of the model, seeds included, by a name that a rebuilt model has too."""
    named: dict[str, keras.Variable] = {}
    for prefix, part in model.parts.items():
        weights = {id(weight) for weight in part.weights}
        for variable in part.weights + [v for v in part.variables if id(v) not in weights]:
            seed = id(variable) not in weights
            # Keras numbers seed generators through the whole process; their order within a model is fixed.
            key = f"model/{prefix}/{f'seed_generator/{len(named)}' if seed else variable.path}"
            if key in named:
                raise ValueError(f"two variables of the {prefix} are called {variable.path}")
            named[key] = variable
    return named


def _optimizer(model: DualEncoder) -> dict[str, keras.Variable]:
    return {f"optimizer/{i:05d}": variable for i, variable in enumerate(model.optimizer.variables)}


def _write(path: Path, variables: dict[str, keras.Variable]) -> None:
    with h5py.File(path, "w") as file:
        for key, variable in variables.items():
            # The checksum makes a flipped bit an error instead of a weight.
            value = keras.ops.convert_to_numpy(variable)
            file.create_dataset(key, data=value, fletcher32=value.ndim > 0 and value.size > 0)


def _read(path: Path, variables: dict[str, Any]) -> None:
    try:
        with h5py.File(path, "r") as file:
            for key, variable in variables.items():
                if key not in file or file[key].shape != tuple(variable.shape):
                    raise UserError(f"{path}: no {key} of shape {tuple(variable.shape)}; it is another model's")
                variable.assign(np.asarray(file[key]))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
