"""The models that embed: a run or its exported towers, known by their files and loaded when first used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vse_tf.artifacts import manifest
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_paths import absolute, typed
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.versions import versions
from vse_tf.config import OnBad
from vse_tf.data.records import Problem, unreadable
from vse_tf.data.sources.files import short_repr
from vse_tf.errors import UserError
from vse_tf.files import read_regular
from vse_tf.indexing.embedding import Encoder
from vse_tf.preprocessing.image_limits import MAX_BYTES

if TYPE_CHECKING:
    from vse_tf.embedder import Embedder


BATCH = 64
# Fewer photos at a time where their files are larger than this together.
LOT_BYTES = 2**28
# How the exported image tower names those that it cannot read.
_BAD = re.compile(r"image_bytes\[(\d+)\]: ([^;\n\]]+)")


class RunEncoder:
    """The model of a run.

    Args:
        run: the run folder.
        checkpoint: `best` or `last`.
        batch_size: photos or sentences at a time (default: the run's `train.eval_batch_size`).

    Raises:
        UserError: no run there.

    Example:
        >>> RunEncoder("runs/shapes-convse-0").encode_texts(["a red circle"]).shape
        (1, 128)
    """

    def __init__(self, run: str | Path, checkpoint: str = "best", batch_size: int | None = None) -> None:
        self.run = Path(run)
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.dim = RunFolder(run).settings().model.dim

    def __reduce__(self) -> tuple[type[RunEncoder], tuple[Any, ...]]:
        # Travels to other processes by name; each loads the model itself.
        return type(self), (self.run, self.checkpoint, self.batch_size)

    @cached_property
    def model(self) -> dict[str, Any]:
        """The run, its checkpoint, and a hash of both."""
        identity = RunFolder(self.run).identity(self.checkpoint)
        path = self.run.resolve()
        return {"kind": "run", "name": path.name, "path": str(path), "checkpoint": self.checkpoint, "id": identity}

    def encode_files(
        self, paths: Sequence[str], on_bad: OnBad, advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Vectors of the photos that can be read, their positions in `paths`, and the problems of the others.

        Raises:
            UserError: a photo cannot be read and `on_bad` is `fail`, or the model takes no photos.
        """
        from vse_tf.data.bad_images import BadImages  # noqa: PLC0415

        bad = BadImages(on_bad, self._embedder.view.max_pixels, remedy="--on_bad skip")
        vectors, rows = self._embedder.encode_files(paths, bad, self.batch_size, advance)
        return vectors, rows, list(bad.problems.values())

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of sentences, float32 `(len(texts), dim)`."""
        return self._embedder.encode_texts(texts, self.batch_size)

    @cached_property
    def _embedder(self) -> Embedder:
        import vse_tf  # noqa: PLC0415

        return vse_tf.load(self.run, self.checkpoint)


class ModelsEncoder:
    """The exported towers of a run: `image_tower` and `text_tower` below a folder, the newest version of each.

    Args:
        models: the folder that `python -m vse_tf.export` wrote.
        batch_size: photos or sentences at a time.

    Raises:
        UserError: no such models there, or towers of different runs.

    Example:
        >>> ModelsEncoder("models").encode_texts(["a red circle"]).shape
        (1, 128)
    """

    def __init__(self, models: str | Path, batch_size: int | None = None) -> None:
        self.models = Path(models)
        self.batch_size = batch_size or BATCH
        self._folders = {name: _newest(self.models / name) for name in ("image_tower", "text_tower")}
        manifests = {name: manifest.read(folder) for name, folder in self._folders.items()}
        if len({(one["id"], one["dim"]) for one in manifests.values()}) > 1:
            raise UserError(f"{self.models}: its towers are of different runs; export again")
        self.dim: int = manifests["image_tower"]["dim"]
        path = self.models.resolve()
        self.model = {
            "kind": "models",
            "name": manifests["image_tower"].get("run") or path.name,
            "path": str(path),
            "id": manifests["image_tower"]["id"],
        }
        inputs = manifests["image_tower"]["signatures"]["serving_default"]["inputs"]
        self._takes_photos = "image_bytes" in inputs

    def __reduce__(self) -> tuple[type[ModelsEncoder], tuple[Any, ...]]:
        return type(self), (self.models, self.batch_size)

    def encode_files(
        self, paths: Sequence[str], on_bad: OnBad, advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Vectors of the photos that can be read, their positions in `paths`, and the problems of the others.

        Raises:
            UserError: a photo cannot be read and `on_bad` is `fail`, or the model takes no photos.
        """
        if not self._takes_photos:
            raise UserError("this model takes precomputed features, not image files")
        vectors, rows, problems = [np.zeros([0, self.dim], np.float32)], [np.zeros([0], np.int64)], []
        for start, contents in _read_ahead(paths, self.batch_size):
            found, got, reasons = self._photos(contents)
            for place, reason in reasons.items():
                problems.append(Problem(paths[start + place], reason))
                if on_bad == "fail":
                    raise UserError(f"{problems[-1]}; mend it, or leave such images out with --on_bad skip")
            vectors.append(found)
            rows.append(got + start)
            advance(len(contents))
        return np.concatenate(vectors), np.concatenate(rows), problems

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of sentences, float32 `(len(texts), dim)`."""
        import tensorflow as tf  # noqa: PLC0415

        starts = range(0, len(texts), self.batch_size)
        parts = [tf.constant(list(texts[start : start + self.batch_size]), tf.string) for start in starts]
        return np.concatenate(
            [np.zeros([0, self.dim], np.float32), *(self._text_tower(text=part)["embedding"].numpy() for part in parts)]
        )

    def _photos(self, contents: list[bytes | OSError]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Vectors and places of those that can be read, reasons of the others."""
        import tensorflow as tf  # noqa: PLC0415

        reasons = {place: unreadable(one) for place, one in enumerate(contents) if isinstance(one, OSError)}
        rows = np.array([place for place in range(len(contents)) if place not in reasons], np.int64)
        while rows.size:
            try:
                found = self._image_tower(image_bytes=tf.constant([contents[row] for row in rows], tf.string))
                return found["embedding"].numpy(), rows, dict(sorted(reasons.items()))
            except tf.errors.InvalidArgumentError as error:
                named = _BAD.findall(error.message)
                if not named:
                    raise
                reasons |= {int(rows[int(place)]): f"undecodable: {reason}" for place, reason in named}
                rows = np.array([row for row in rows if row not in reasons], np.int64)
        return np.zeros([0, self.dim], np.float32), rows, dict(sorted(reasons.items()))

    @cached_property
    def _image_tower(self) -> Any:
        return self._load("image_tower")

    @cached_property
    def _text_tower(self) -> Any:
        return self._load("text_tower")

    def _load(self, name: str) -> Any:
        # A SavedModel is a program: its hashes come first.
        manifest.verify(self._folders[name])
        import tensorflow as tf  # noqa: PLC0415

        loaded = tf.saved_model.load(str(self._folders[name]))
        signature = loaded.signatures["serving_default"]
        signature.owner = loaded  # the variables live as long as their model
        return signature


def _newest(model: Path) -> Path:
    found = versions(model)
    if not found:
        raise UserError(f"--models: {model} holds no version; name the folder that python -m vse_tf.export wrote")
    return model / str(found[-1])


def _read_ahead(paths: Sequence[str], size: int) -> Iterator[tuple[int, list[bytes | OSError]]]:
    """The contents of files lot by lot, the error where there are none to read, the next lot read meanwhile."""

    def read(path: str) -> bytes | OSError:
        try:
            return read_regular(path, MAX_BYTES)
        except OSError as error:
            return error

    def read_lot(start: int) -> list[bytes | OSError]:
        lot, left = [], LOT_BYTES
        for path in paths[start : start + size]:
            lot.append(found := read(path))
            left -= len(found) if isinstance(found, bytes) else 0
            if left <= 0:
                break
        return lot

    at = 0
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read_lot, 0)
        while contents := coming.result():
            coming = reader.submit(read_lot, at + len(contents))
            yield at, contents
            at += len(contents)


def named_encoder(
    run: str | None, models: str | None = None, checkpoint: str = "best", batch_size: int | None = None
) -> Encoder:
    """The model that a command's options name.

    Args:
        run: `--run`.
        models: `--models`.
        checkpoint: `--checkpoint`, of a run.
        batch_size: `--batch_size`.

    Raises:
        UserError: no model is named, or two, or there is none.
    """
    if (run is None) == (models is None):
        raise UserError("name the model: either --run with a run folder or --models with exported models")
    return ModelsEncoder(models, batch_size) if models is not None else RunEncoder(str(run), checkpoint, batch_size)


def index_encoder(index: Index, run: str | None = None, models: str | None = None) -> Encoder:
    """The model for queries to an index.

    A run folder is data, and an index may name it. Exported models are programs: they are loaded only from a folder
    that the user names.

    Args:
        index: the index.
        run: `--run`.
        models: `--models`; without either, the run that made the index.

    Raises:
        UserError: both are named, that run is no longer where it was, or the index was made by exported models.
    """
    checkpoint = "last" if index.model.get("checkpoint") == "last" else "best"
    if run is not None or models is not None:
        return named_encoder(run, models, checkpoint)
    path, name = index.model.get("path"), index.model.get("name")
    place = absolute(path, index.folder) if path else None
    called = short_repr(name or path or "an unknown model")
    if index.model.get("kind") == "models":
        raise UserError(
            f"{index.folder} was made by exported models ({called}), which are programs and loaded only where you name "
            f"them: --models {typed(place) if place else 'with their folder'}"
        )
    # Windows takes //host/share for a computer's name.
    local = place is not None and not place.startswith(("//", "\\\\"))
    if index.model.get("kind") != "run" or place is None or not local or not os.path.isdir(place):  # noqa: PTH112
        where = f" in {short_repr(place)}" if place else ""
        raise UserError(
            f"{called}: the model that made {index.folder} is not there{where}; name it with --run or --models"
        )
    return RunEncoder(place, checkpoint)
