"""Checkpoints of a run, each with everything that its next step depends on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.checkpoint_files import (
    NAME,
    OPTIMIZER,
    POINTER,
    POSITION,
    STATE,
    Checkpoint,
    Position,
    check_state,
    description_text,
    read_description,
    read_pointer,
    required_checkpoint,
)
from vse_tf.atomic import atomic_file, atomic_folder, write_text
from vse_tf.display import say
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular, reason_of
from vse_tf.models.backbones import backbone_of
from vse_tf.models.dual_encoder import DualEncoder

Parts: TypeAlias = Mapping[str, keras.layers.Layer]

FROZEN = "frozen.h5"
# Layers of a tower's head: today's name and that of older versions. Only old files and models have `OLD_WEIGHTS`.
OLD_LAYERS = {"feature_units": "head_units", "head_units": "head_hidden"}
OLD_WEIGHTS = ("head_hidden/kernel", "head_units/bias")
ADVICE = "free some space and repeat the command: it continues from the checkpoint before"


class Checkpoints:
    """The checkpoints of a run: `step-<n>/` folders, a pointer to the last and the best, and the frozen weights once.

    A checkpoint holds the weights that can change with the states of the model's seed generators, and in a file of
    their own the optimizer's variables, so that a continued run equals an uninterrupted one. The best one is kept
    without the optimizer's variables once it is no longer among the most recent.

    Args:
        folder: the run's `checkpoints/`.
        keep: number of most recent checkpoints that a run can be continued from; the best weights stay in any case.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep
        self.pointer = folder / POINTER
        # The checkpoint that equals the model, after a save or a resume.
        self._current: Checkpoint | None = None

    def save(self, model: DualEncoder, position: Position, best: bool, progress: dict[str, Any] | None = None) -> None:
        """Write a checkpoint and make it the last one, and the best if it is.

        Args:
            model: the compiled model.
            position: where the run is.
            best: it is the best so far.
            progress: further values that a continued run needs, for JSON.

        Raises:
            UserError: it cannot be written; earlier checkpoints stay valid.
        """
        name = f"step-{position.step:09d}"
        best_name = name if best else read_pointer(self.folder).get("best")
        self._save_frozen(model)
        current = self._current
        if current is not None and current.folder.name == name:
            # The same step again, measured in the meantime: only the description is new.
            saved = replace(current, position=position, best=best_name, progress=progress or {})
            with file_errors(saved.folder, "written", ADVICE):
                write_text(saved.folder / POSITION, description_text(saved))
        else:
            # HDF5 must not write to the disk: a full one makes it crash the process instead of raising.
            weights, optimizer = _packed(_changing(model.parts)), _packed(_optimizer(model))
            digests = [hashlib.sha256(contents).hexdigest() for contents in (weights, optimizer)]
            saved = Checkpoint(self.folder / name, position, best_name, digests[0], progress or {}, digests[1])
            with atomic_folder(saved.folder, ADVICE) as temporary:
                (temporary / STATE).write_bytes(weights)
                (temporary / OPTIMIZER).write_bytes(optimizer)
                (temporary / POSITION).write_text(description_text(saved), encoding="utf-8")
        self._current = saved
        self._point_to(saved)
        self._sweep()

    def newest(self) -> Checkpoint | None:
        """The newest intact checkpoint; damaged ones are skipped with a printed line each. None if there are none.

        Raises:
            UserError: all checkpoints are damaged.
        """
        folders = self._folders()
        for folder in reversed(folders):
            try:
                found = read_description(folder, strict=True)
                check_state(found, training=True)
            except UserError as error:
                say(f"{error}; going back to the checkpoint before it")
            else:
                return found
        if folders:
            raise UserError(f"{self.folder}: all checkpoints are damaged; start again in another --train.run_dir")
        return None

    def resume(self, model: DualEncoder, checkpoint: Checkpoint, tidy: bool) -> None:
        """Put a checkpoint's values into a compiled model, its optimizer and its seed generators.

        Args:
            model: the model, its optimizer built.
            checkpoint: one that `newest` returned.
            tidy: make it the last one and remove the damaged ones after it.

        Raises:
            UserError: it does not fit the model.
        """
        self._fill(model, checkpoint, training=True)
        self._current = checkpoint
        if tidy:
            for folder in self._folders():
                if folder.name > checkpoint.folder.name:
                    shutil.rmtree(folder, ignore_errors=True)
            self._point_to(checkpoint)

    def restore(self, model: DualEncoder, which: str = "last", training: bool = True) -> Position:
        """Put a checkpoint's values into a model.

        Args:
            model: the model; if `training`, compiled with a built optimizer.
            which: `last` or `best`.
            training: restore the optimizer as well.

        Raises:
            UserError: there is no checkpoint, it is damaged, or it does not fit the model.
        """
        found = required_checkpoint(self.folder, which)
        check_state(found, training)
        self._fill(model, found, training)
        return found.position

    def finish(self) -> None:
        """Leave of a finished run's checkpoints the last one and the best weights."""
        self.keep = 1
        self._sweep()

    def check(self, parts: Parts, checkpoint: Checkpoint) -> None:
        """Check that a checkpoint holds the weights of parts of a model, each in its shape and with all its bytes.

        Args:
            parts: the parts by name; their weights need not be allocated.
            checkpoint: one of this run.

        Raises:
            UserError: the checkpoint cannot be read, or does not fit.
        """
        for path, variables in self._stored(parts, checkpoint):
            with _opened(path) as file:
                for _ in _fitting_values(file, path, variables):
                    pass

    def fill(self, parts: Parts, checkpoint: Checkpoint) -> None:
        """Put a checkpoint's weights into parts of a model, which are not trained further: the random state stays.

        Args:
            parts: the parts by name.
            checkpoint: one of this run, its hash compared (`check_state`).

        Raises:
            UserError: the checkpoint cannot be read, or does not fit.
        """
        for path, variables in self._stored(parts, checkpoint):
            _read(path, variables)

    def _stored(self, parts: Parts, checkpoint: Checkpoint) -> list[tuple[Path, dict[str, keras.Variable]]]:
        """The files of a checkpoint with the weights that they hold; seeds are left out."""
        found = ((self.folder / FROZEN, _frozen(parts)), (checkpoint.folder / STATE, _changing(parts, seeds=False)))
        return [(path, variables) for path, variables in found if variables]

    def _fill(self, model: DualEncoder, checkpoint: Checkpoint, training: bool) -> None:
        if _frozen(model.parts):
            _read(self.folder / FROZEN, _frozen(model.parts))
        _read(checkpoint.folder / STATE, _changing(model.parts))
        if training:
            file = STATE if checkpoint.optimizer_sha256 is None else OPTIMIZER
            _read(checkpoint.folder / file, _optimizer(model))

    def _save_frozen(self, model: DualEncoder) -> None:
        frozen = _frozen(model.parts)
        if not frozen or (self.folder / FROZEN).exists():
            return
        path = self.folder / FROZEN
        with file_errors(path, "written", ADVICE), atomic_file(path) as file:
            file.write(_packed(frozen))

    def _point_to(self, checkpoint: Checkpoint) -> None:
        pointer = {"last": checkpoint.folder.name, "best": checkpoint.best}
        with file_errors(self.pointer, "written", ADVICE):
            write_text(self.pointer, json.dumps(pointer, indent=2) + "\n")

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if NAME.fullmatch(path.name))

    def _sweep(self) -> None:
        folders = self._folders()
        needed = {folder.name for folder in folders[-self.keep :]} | set(read_pointer(self.folder).values())
        for folder in folders[-self.keep :]:
            # A run that goes back to this checkpoint needs the best model of that time.
            with contextlib.suppress(UserError):
                needed.add(read_description(folder).best or "")
        for folder in folders:
            if folder.name not in needed:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in folders[: -self.keep]:
            (folder / OPTIMIZER).unlink(missing_ok=True)
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _changing(parts: Parts, seeds: bool = True) -> dict[str, keras.Variable]:
    frozen = {id(variable) for variable in _frozen(parts).values()}
    return {key: value for key, value in named_variables(parts, seeds).items() if id(value) not in frozen}


def _frozen(parts: Parts) -> dict[str, keras.Variable]:
    backbones = [backbone_of(part) for part in parts.values() if isinstance(part, keras.Model)]
    frozen = {id(v) for backbone in backbones if backbone and not backbone.trainable for v in backbone.weights}
    return {key: value for key, value in named_variables(parts, seeds=False).items() if id(value) in frozen}


def named_variables(parts: Parts, seeds: bool = True) -> dict[str, keras.Variable]:
    """The variables of a model's parts, by names that are the same in a rebuilt model.

    Args:
        parts: the parts by name, see `DualEncoder.parts`.
        seeds: with the states of the seed generators; their names are right for all parts of a model together.
    """
    named: dict[str, keras.Variable] = {}
    for prefix, part in parts.items():
        weights = {id(weight) for weight in part.weights}
        for variable in part.weights + [v for v in part.variables if seeds and id(v) not in weights]:
            seed = id(variable) not in weights
            # Keras counts seed generators per process; their order in a model is fixed.
            # So are variables without a name, such as one of SigLIP's pooling; each layer has one at most.
            path = re.sub(r"(?<=/variable)_\d+$", "", variable.path)
            key = f"model/{prefix}/{f'seed_generator/{len(named)}' if seed else path}"
            if key in named:
                raise ValueError(f"two variables of the {prefix} are called {variable.path}")
            named[key] = variable
    if any(name.endswith(OLD_WEIGHTS) for name in named):
        current = {old: new for new, old in OLD_LAYERS.items()}
        named = {_renamed(name, current): variable for name, variable in named.items()}
    return named


def _renamed(name: str, layers: dict[str, str]) -> str:
    """The name of a tower's weight with its layer renamed."""
    return re.sub(r"(?<=_tower/)\w+(?=/\w+$)", lambda layer: layers.get(layer[0], layer[0]), name)


def sizes(model: DualEncoder) -> tuple[int, int, int]:
    """Bytes of a compiled model's frozen weights, its other weights, and its optimizer's variables."""
    frozen, weights, optimizer = (
        sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size for variable in variables.values())
        for variables in (_frozen(model.parts), _changing(model.parts), _optimizer(model))
    )
    return frozen, weights, optimizer


def _optimizer(model: DualEncoder) -> dict[str, keras.Variable]:
    # The settings give the learning rate: a continued run may have another, and a schedule has no variable.
    variables = [variable for variable in model.optimizer.variables if variable.name != "learning_rate"]
    return {f"optimizer/{i:05d}": variable for i, variable in enumerate(variables)}


def _packed(variables: dict[str, keras.Variable]) -> memoryview:
    """Variables as the contents of an HDF5 file."""
    contents = io.BytesIO()
    with h5py.File(contents, "w") as file:
        for key, variable in variables.items():
            # With a checksum a flipped bit is an error.
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
    """Each variable with its stored value; files of older versions have other names of layers."""
    towers = ("image_tower", "text_tower")
    old = any(_dataset(file, f"model/{tower}/{name}") for tower in towers for name in OLD_WEIGHTS)
    for key, variable in variables.items():
        yield variable, _fitting(file, path, _renamed(key, OLD_LAYERS) if old else key, variable)


def _fitting(file: h5py.File, path: Path, key: str, variable: keras.Variable) -> h5py.Dataset:
    value = _dataset(file, key)
    if value is None or value.shape != tuple(variable.shape) or value.dtype.kind not in "fiub":
        raise UserError(f"{path}: no {key} of shape {tuple(variable.shape)}; it is another model's")
    # HDF5 files can announce any size without data, and compress zeros a thousandfold.
    filters = value.id.get_create_plist()
    packed = any(filters.get_filter(i)[0] != h5py.h5z.FILTER_FLETCHER32 for i in range(filters.get_nfilters()))
    if packed or value.id.get_storage_size() < value.nbytes:
        raise UserError(f"{path}: {key} announces {value.nbytes} bytes and does not hold them; copy the run again")
    return value


def _dataset(file: h5py.File, key: str) -> h5py.Dataset | None:
    """A dataset that is in this file itself: HDF5 would follow links to other files."""
    parts = key.split("/")
    for count in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:count]), getlink=True)
        if not isinstance(link, h5py.HardLink):
            return None
    found = file[key]
    return found if isinstance(found, h5py.Dataset) and not found.external and not found.is_virtual else None
