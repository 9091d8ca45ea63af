"""Checkpoints: everything that the next step depends on, written beside and renamed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from vse_tf.artifacts.checkpoint_files import (
    NAME,
    POINTER,
    POSITION,
    STATE,
    Checkpoint,
    Position,
    check_state,
    described,
    read_description,
    read_pointer,
)
from vse_tf.atomic import replacing, whole_folder, write_text, writing
from vse_tf.errors import UserError
from vse_tf.files import open_regular, reason_of
from vse_tf.models.backbones import backbone_of
from vse_tf.models.dual_encoder import DualEncoder

FROZEN = "frozen.h5"
# Layers of a tower's head by the names they had before. Of the two that were called `head_units`, one has a bias.
OLD_LAYERS = {"feature_units": "head_units", "head_units": "head_hidden"}
OLD_WEIGHTS = ("head_hidden/kernel", "head_units/bias")
ADVICE = "free some space and repeat the command: it continues from the checkpoint before"


class Checkpoints:
    """The checkpoints of a run: `step-<n>/` folders, a pointer to the last and the best, and the frozen weights once.

    A checkpoint holds the weights that can change, the optimizer's variables, and the state of every random seed of
    the model, so that a continued run does what an undisturbed one would have done.

    Args:
        folder: the run's `checkpoints/`.
        keep: last checkpoints kept, each with the best of its time.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.pointer = folder / POINTER
        # The checkpoint that the model stands at, after a save or a resume.
        self._current: Checkpoint | None = None

    def save(self, model: DualEncoder, position: Position, best: bool, progress: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and make it the last one, and the best where it is.

        Args:
            model: the compiled model.
            position: where it stands.
            best: it is the best so far.
            progress: what else a continued run needs, as JSON can hold it.

        Raises:
            UserError: it cannot be written; the checkpoints before stay valid.
        """
        name = f"step-{position.step:09d}"
        what = f"the checkpoint of step {position.step}"
        best_name = name if best else read_pointer(self.folder).get("best")
        self._save_frozen(model)
        current = self._current
        if current is not None and current.folder.name == name:
            # The same step again, measured in the meantime: the weights are there.
            saved = Checkpoint(current.folder, position, best_name, current.sha256, progress or {})
            with writing(saved.folder, what, ADVICE):
                write_text(saved.folder / POSITION, described(saved))
        else:
            # Not by HDF5: on a full disk it does not raise but crashes the process.
            state = _packed(_changing(model) | _optimizer(model))
            digest = hashlib.sha256(state).hexdigest()
            saved = Checkpoint(self.folder / name, position, best_name, digest, progress or {})
            with whole_folder(saved.folder, what, ADVICE) as beside:
                (beside / STATE).write_bytes(state)
                (beside / POSITION).write_text(described(saved), encoding="utf-8")
        self._current = saved
        self._point_to(saved)
        self._sweep()

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, for continuing; damaged ones are passed over with a line each.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                found = read_description(folder, strict=True)
                check_state(found)
            except UserError as error:
                print(f"{error}; going back to the checkpoint before it")
            else:
                return found
        if folders:
            raise UserError(f"{self.folder}: no checkpoint is whole; choose another --train.run_dir to start again")
        return None

    def resume(self, model: DualEncoder, checkpoint: Checkpoint, tidy: bool) -> None:
        """Put a checkpoint's values into a compiled model, optimizer and random seeds included.

        Args:
            model: the model, its optimizer built.
            checkpoint: one that `newest` gave.
            tidy: make it the last one and remove damaged ones behind it.

        Raises:
            UserError: it does not fit the model.
        """
        self._fill(model, checkpoint.folder, _changing(model) | _optimizer(model))
        self._current = checkpoint
        if tidy:
            for folder in self._folders():
                if folder.name > checkpoint.folder.name:
                    shutil.rmtree(folder, ignore_errors=True)
            self._point_to(checkpoint)

    def last(self) -> Checkpoint | None:
        """What the last checkpoint says about itself, its state unchecked; None where there is none.

        Raises:
            UserError: it cannot be read.
        """
        folder = self._find("last")
        return None if folder is None else read_description(folder)

    def position(self, which: str = "last") -> Position | None:
        """Where the last (or best) checkpoint stands; None where there is none."""
        folder = self._find(which)
        return None if folder is None else read_description(folder).position

    def description(self, which: str = "last") -> dict[str, Any]:
        """Position and hash of the last (or best) checkpoint.

        Raises:
            UserError: there is none.
        """
        folder = self._find(which)
        if folder is None:
            raise UserError(f"{self.folder}: no checkpoint; the run ended before its first epoch did: train again")
        found = read_description(folder)
        return {"epoch": found.position.epoch, "step": found.position.step, "sha256": found.sha256}

    def restore(self, model: DualEncoder, which: str = "last", training: bool = True) -> Position:
        """Put a checkpoint's values into a model.

        Args:
            model: the model; compiled, with a built optimizer, where `training`.
            which: `last` or `best`.
            training: restore the optimizer as well.

        Raises:
            UserError: there is no checkpoint, it is damaged, or it does not fit the model.
        """
        folder = self._needed(which)
        found = read_description(folder)
        check_state(found)
        self._fill(model, folder, _changing(model) | (_optimizer(model) if training else {}))
        return found.position

    def check(self, model: DualEncoder, which: str = "last") -> None:
        """See that a checkpoint holds a model's weights, each in its shape and with all its bytes.

        Args:
            model: the model; its weights need not be allocated.
            which: `last` or `best`.

        Raises:
            UserError: there is no checkpoint, it cannot be read, or it does not fit the model.
        """
        folder = self._needed(which)
        for path, variables in ((self.folder / FROZEN, _frozen(model)), (folder / STATE, _changing(model))):
            if variables:
                with _opened(path) as file:
                    for _ in _fitting_values(file, path, variables):
                        pass

    def _needed(self, which: str) -> Path:
        folder = self._find(which)
        if folder is None:
            raise UserError(f"{self.folder}: no checkpoint; the run ended before its first epoch did: train again")
        return folder

    def _fill(self, model: DualEncoder, folder: Path, variables: dict[str, keras.Variable]) -> None:
        if _frozen(model):
            _read(self.folder / FROZEN, _frozen(model))
        _read(folder / STATE, variables)

    def _save_frozen(self, model: DualEncoder) -> None:
        frozen = _frozen(model)
        if not frozen or (self.folder / FROZEN).exists():
            return
        path = self.folder / FROZEN
        with writing(path, "the frozen weights", ADVICE), replacing(path) as file:
            file.write(_packed(frozen))

    def _point_to(self, checkpoint: Checkpoint) -> None:
        pointer = {"last": checkpoint.folder.name, "best": checkpoint.best}
        with writing(self.pointer, "the pointer to the last checkpoint", ADVICE):
            write_text(self.pointer, json.dumps(pointer, indent=2) + "\n")

    def _find(self, which: str) -> Path | None:
        name = read_pointer(self.folder).get(which)
        return self.folder / name if name else None

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name))

    def _sweep(self) -> None:
        folders = self._folders()
        kept = {folder.name for folder in folders[-self.keep :]} | set(read_pointer(self.folder).values())
        for folder in folders[-self.keep :]:
            try:
                # If it has to be gone back to, its best model must still be there.
                kept.add(read_description(folder).best or "")
            except UserError:
                continue
        for folder in folders:
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        for left_over in self.folder.glob(".step-*"):
            shutil.rmtree(left_over, ignore_errors=True)


def _changing(model: DualEncoder) -> dict[str, keras.Variable]:
    frozen = {id(variable) for variable in _frozen(model).values()}
    return {key: value for key, value in named_variables(model).items() if id(value) not in frozen}


def _frozen(model: DualEncoder) -> dict[str, keras.Variable]:
    backbones = [backbone_of(tower) for tower in (model.image_tower, model.text_tower)]
    frozen = {id(v) for backbone in backbones if backbone and not backbone.trainable for v in backbone.weights}
    return {key: value for key, value in named_variables(model).items() if id(value) in frozen}


def named_variables(model: DualEncoder) -> dict[str, keras.Variable]:
    """All variables of the model, seeds included, by a name that a rebuilt model has too."""
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
    if any(name.endswith(OLD_WEIGHTS) for name in named):
        current = {old: new for new, old in OLD_LAYERS.items()}
        named = {_renamed(name, current): variable for name, variable in named.items()}
    return named


def _renamed(name: str, layers: dict[str, str]) -> str:
    """The name of a weight of a tower, its layer renamed."""
    return re.sub(r"(?<=_tower/)\w+(?=/\w+$)", lambda layer: layers.get(layer[0], layer[0]), name)


def _optimizer(model: DualEncoder) -> dict[str, keras.Variable]:
    # The rate is the settings' word: it may change where a run continues, and a schedule has no variable.
    variables = [variable for variable in model.optimizer.variables if variable.name != "learning_rate"]
    return {f"optimizer/{i:05d}": variable for i, variable in enumerate(variables)}


def _packed(variables: dict[str, keras.Variable]) -> memoryview:
    """Variables as the contents of an HDF5 file."""
    contents = io.BytesIO()
    with h5py.File(contents, "w") as file:
        for key, variable in variables.items():
            # The check sum makes a flipped bit an error instead of a weight.
            value = keras.ops.convert_to_numpy(variable)
            file.create_dataset(key, data=value, fletcher32=value.ndim > 0 and value.size > 0)
    return contents.getbuffer()


def _read(path: Path, variables: dict[str, Any]) -> None:
    with _opened(path) as file:
        for variable, value in _fitting_values(file, path, variables):
            variable.assign(np.asarray(value))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with open_regular(path), h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read: {reason}") from None


def _fitting_values(
    file: h5py.File, path: Path, variables: dict[str, keras.Variable]
) -> Iterator[tuple[keras.Variable, h5py.Dataset]]:
    """Each variable with its stored value, which a file of an earlier version holds under an old name."""
    towers = ("image_tower", "text_tower")
    old = any(_dataset(file, f"model/{tower}/{name}") for tower in towers for name in OLD_WEIGHTS)
    for key, variable in variables.items():
        yield variable, _fitting(file, path, _renamed(key, OLD_LAYERS) if old else key, variable)


def _fitting(file: h5py.File, path: Path, key: str, variable: keras.Variable) -> h5py.Dataset:
    value = _dataset(file, key)
    if value is None or value.shape != tuple(variable.shape) or value.dtype.kind not in "fiub":
        raise UserError(f"{path}: no {key} of shape {tuple(variable.shape)}; it is another model's")
    # HDF5 announces any size without a byte of data, and compresses zeros a thousandfold.
    filters = value.id.get_create_plist()
    packed = any(filters.get_filter(i)[0] != h5py.h5z.FILTER_FLETCHER32 for i in range(filters.get_nfilters()))
    if packed or value.id.get_storage_size() < value.nbytes:
        raise UserError(f"{path}: {key} announces {value.nbytes} bytes and does not hold them; copy the run again")
    return value


def _dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    """A dataset that lies in this file; HDF5 would follow links into others, and read values out of any."""
    parts = key.split("/")
    for count in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:count]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            return None
    found = file[key]
    return found if isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual else None
