"""The models that embed a collection: a run or its exported towers, loaded when they are first used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vse_tf.artifacts import manifest
from vse_tf.artifacts.hubness_bank import vector_width
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_paths import absolute
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.versions import versions
from vse_tf.config import OnBad
from vse_tf.data.photo_images import PhotoImages
from vse_tf.data.records import EncodedImages, Problem, unreadable
from vse_tf.data.sources.files import short_repr
from vse_tf.display import part
from vse_tf.errors import UserError, shell_path
from vse_tf.indexing.embedding import EmbeddingModel
from vse_tf.preprocessing.image_limits import SERVED_PIXELS
from vse_tf.quiet import quiet

if TYPE_CHECKING:
    import tensorflow as tf

    from vse_tf.embedder import Embedder

    Signature = Callable[..., Mapping[str, tf.Tensor]]

# The contents of a file, or why they cannot be read.
Read: TypeAlias = bytes | OSError | ValueError

BATCH = 64
# A batch is cut short when its files exceed this size together.
BATCH_BYTES = 2**28
# A word of no language, and how far vectors of equal tokens may be apart by rounding.
NO_WORD, ROUNDING = "\ua66e\ua66e\ua66e", 1e-5
UNKNOWN = "no word of {!r} is in the model's vocabulary; all such queries find the same"
# How an exported image tower names the images that it cannot read.
_BAD = re.compile(r"image_bytes\[(\d+)\]: ([^;\n\]]+)")


class RunModel:
    """The model of a run.

    Args:
        run: the run folder.
        checkpoint: `best` or `last`.
        batch_size: number of images or texts per batch (default: the run's `train.eval_batch_size`).

    Raises:
        UserError: there is no such run.

    Example:
        RunModel("runs/shapes-convse-0").encode_texts(["a red circle"]).shape  # (1, 128)
    """

    def __init__(self, run: str | Path, checkpoint: str = "best", batch_size: int | None = None) -> None:
        folder = RunFolder(run)
        self.run = folder.path
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self._settings = folder.settings()
        self.plain_dim = self._settings.model.dim
        self.dim = vector_width(folder, checkpoint)

    def __reduce__(self) -> tuple[type[RunModel], tuple[Path, str, int | None]]:
        # Pickled by path: each process loads the model itself.
        return type(self), (self.run, self.checkpoint, self.batch_size)

    @cached_property
    def identity(self) -> dict[str, str]:
        """The run, its checkpoint, and a hash of both."""
        model_id = RunFolder(self.run).identity(self.checkpoint)
        path = self.run.resolve()
        return {"kind": "run", "name": path.name, "path": str(path), "checkpoint": self.checkpoint, "id": model_id}

    def encode_files(
        self, paths: Sequence[str] | EncodedImages, on_bad: OnBad, advance: Callable[[int], object] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Embed image files; see `EmbeddingModel`."""
        from vse_tf.data.bad_images import BadImages  # noqa: PLC0415

        bad = BadImages(on_bad, self.embedder.view.max_pixels, remedy="--on_bad skip")
        vectors, positions = self.embedder.encode_files(paths, bad, self.batch_size, advance)
        return vectors, positions, list(bad.problems.values())

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; see `EmbeddingModel`."""
        return self.embedder.encode_texts(texts, self.batch_size)

    @cached_property
    def embedder(self) -> Embedder:
        """The run; it loads each tower when it is first used."""
        from vse_tf.startup import starting_tensorflow  # noqa: PLC0415

        with starting_tensorflow():
            from vse_tf.embedder import open_run  # noqa: PLC0415

        return open_run(self.run, self.checkpoint, self._settings)


class ExportedModel:
    """The exported towers of a run: the newest versions of `image_tower` and `text_tower` in a folder.

    Args:
        models: the folder that `python -m vse_tf.export` wrote.
        batch_size: number of images or texts per batch.

    Raises:
        UserError: a tower is missing, or the towers are of different runs.

    Example:
        ExportedModel("models").encode_texts(["a red circle"]).shape  # (1, 128)
    """

    def __init__(self, models: str | Path, batch_size: int | None = None) -> None:
        self.models = Path(models)
        self.batch_size = batch_size or BATCH
        self._folders = {name: _newest_version(self.models / name) for name in ("image_tower", "text_tower")}
        manifests = {name: manifest.read(folder) for name, folder in self._folders.items()}
        if len({(each["id"], each["dim"]) for each in manifests.values()}) > 1:
            raise UserError(f"{self.models}: its towers are of different runs; export them again")
        self.dim: int = manifests["image_tower"]["dim"]
        self.plain_dim: int = manifests["image_tower"].get("plain_dim", self.dim)
        path = self.models.resolve()
        self.identity = {
            "kind": "models",
            "name": manifests["image_tower"].get("run") or path.name,
            "path": str(path),
            "id": manifests["image_tower"]["id"],
        }
        inputs = manifests["image_tower"]["signatures"]["serving_default"]["inputs"]
        self._takes_images = "image_bytes" in inputs
        self.max_pixels: int = manifests["image_tower"].get("image", {}).get("max_pixels", SERVED_PIXELS)

    def __reduce__(self) -> tuple[type[ExportedModel], tuple[Path, int]]:
        return type(self), (self.models, self.batch_size)

    def encode_files(
        self, paths: Sequence[str] | EncodedImages, on_bad: OnBad, advance: Callable[[int], object] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Embed image files; see `EmbeddingModel`."""
        if not self._takes_images:
            raise UserError("this model takes precomputed features, not image files")
        vectors, positions, problems = [np.zeros([0, self.dim], np.float32)], [np.zeros([0], np.int64)], []
        images = PhotoImages(paths, self.max_pixels)
        for start, contents in _read_ahead(images, self.batch_size):
            encoded, readable, reasons = self._encode_images(contents)
            for position, reason in reasons.items():
                problems.append(Problem(images.names[start + position], reason))
                if on_bad == "fail":
                    raise UserError(f"{problems[-1]}; fix it, or skip such images with --on_bad skip")
            vectors.append(encoded)
            positions.append(readable + start)
            advance(len(contents))
        return np.concatenate(vectors), np.concatenate(positions), problems

    def encode_contents(self, contents: Sequence[bytes]) -> np.ndarray:
        """Embed a batch of image files by their contents.

        Raises:
            UserError: the model takes features, or one cannot be read.
        """
        if not self._takes_images:
            raise UserError("this model takes precomputed features, not image files")
        vectors, _, reasons = self._encode_images(list(contents))
        for position, reason in reasons.items():
            raise UserError(f"image {position}: {reason}")
        return vectors

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts; see `EmbeddingModel`."""
        import tensorflow as tf  # noqa: PLC0415

        vectors = [np.zeros([0, self.dim], np.float32)]
        for start in range(0, len(texts), self.batch_size):
            batch = tf.constant(list(texts[start : start + self.batch_size]), tf.string)
            vectors.append(self._text_tower(text=batch)["embedding"].numpy())
        return np.concatenate(vectors)

    def _encode_images(self, contents: list[Read]) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Vectors and positions of the readable images, and by position why the others are not."""
        import tensorflow as tf  # noqa: PLC0415

        reasons = {position: _reason(each) for position, each in enumerate(contents) if isinstance(each, Exception)}
        while rest := [position for position in range(len(contents)) if position not in reasons]:
            try:
                outputs = self._image_tower(image_bytes=tf.constant([contents[i] for i in rest], tf.string))
                return outputs["embedding"].numpy(), np.array(rest, np.int64), dict(sorted(reasons.items()))
            except tf.errors.InvalidArgumentError as error:
                named = _BAD.findall(error.message)
                if not named:
                    raise
                reasons |= {rest[int(position)]: f"undecodable: {reason}" for position, reason in named}
        return np.zeros([0, self.dim], np.float32), np.zeros([0], np.int64), dict(sorted(reasons.items()))

    @cached_property
    def _image_tower(self) -> Signature:
        return self._load("image_tower")

    @cached_property
    def _text_tower(self) -> Signature:
        return self._load("text_tower")

    def _load(self, name: str) -> Signature:
        import tensorflow as tf  # noqa: PLC0415

        with part("loading the model"), quiet():
            # A SavedModel is a program: its hashes are compared first.
            manifest.verify(self._folders[name])
            loaded = tf.saved_model.load(str(self._folders[name]))
        signature = loaded.signatures["serving_default"]
        signature.owner = loaded  # keeps the variables alive
        return signature


def _reason(error: Exception) -> str:
    return unreadable(error) if isinstance(error, OSError) else f"undecodable: {error}"


def _newest_version(model: Path) -> Path:
    numbers = versions(model)
    if not numbers:
        raise UserError(f"--models: {model} holds no version; name the folder that python -m vse_tf.export wrote")
    return model / str(numbers[-1])


def _read_ahead(images: EncodedImages, size: int) -> Iterator[tuple[int, list[Read]]]:
    """Batches of file contents, or of the errors on reading, with their start; a thread reads the next batch."""

    def read(row: int) -> Read:
        try:
            return images.read(row)
        except (OSError, ValueError) as error:
            return error

    def read_batch(start: int) -> list[Read]:
        batch, total = [], 0
        for row in range(start, min(start + size, len(images))):
            batch.append(contents := read(row))
            total += len(contents) if isinstance(contents, bytes) else 0
            if total >= BATCH_BYTES:
                break
        return batch

    start = 0
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(read_batch, 0)
        while batch := following.result():
            following = reader.submit(read_batch, start + len(batch))
            yield start, batch
            start += len(batch)


def named_model(
    run: str | None, models: str | None = None, checkpoint: str = "best", batch_size: int | None = None
) -> EmbeddingModel:
    """The model that the options of a command name.

    Args:
        run: `--run`.
        models: `--models`.
        checkpoint: `--checkpoint`, of a run.
        batch_size: `--batch_size`.

    Raises:
        UserError: none or two are named, or there is no such model.
    """
    if (run is None) == (models is None):
        raise UserError("name the model: either --run with a run folder or --models with exported models")
    return ExportedModel(models, batch_size) if models is not None else RunModel(str(run), checkpoint, batch_size)


def model_of_index(index: Index, run: str | None = None, models: str | None = None) -> EmbeddingModel:
    """The model that embeds queries to an index.

    A run folder is data, so an index may name it. Exported models are programs: they are loaded only from a folder that
    the user names.

    Args:
        index: the index.
        run: `--run`.
        models: `--models`; without either, the run that made the index.

    Raises:
        UserError: both are named, that run no longer exists, or the index was made by exported models.
    """
    checkpoint = "last" if index.model.get("checkpoint") == "last" else "best"
    if run is not None or models is not None:
        return named_model(run, models, checkpoint)
    path, name = index.model.get("path"), index.model.get("name")
    folder = absolute(path, index.folder) if path else None
    quoted = short_repr(name or path or "an unknown model")
    if index.model.get("kind") == "models":
        raise UserError(
            f"{index.folder} was made by exported models ({quoted}), which are programs and loaded only where you name "
            f"them: --models {shell_path(folder) if folder else 'with their folder'}"
        )
    # Windows reads //host/share as the name of another computer.
    local = folder is not None and not folder.startswith(("//", "\\\\"))
    if index.model.get("kind") != "run" or folder is None or not local or not os.path.isdir(folder):  # noqa: PTH112
        where = f" in {short_repr(folder)}" if folder else ""
        raise UserError(
            f"{quoted}: the model that made {index.folder} does not exist{where}; name it with --run or --models"
        )
    return RunModel(folder, checkpoint)


def unknown_texts(model: EmbeddingModel, texts: Sequence[str], vectors: np.ndarray) -> list[str]:
    """The texts that a model cannot tell from as many words that nobody knows.

    Args:
        model: the model.
        texts: the texts.
        vectors: their vectors, float32 `(len(texts), dim)`.
    """
    from vse_tf.preprocessing.words import normalise, to_tensor  # noqa: PLC0415 (TensorFlow)

    words = [text.decode().split() for text in normalise(to_tensor(texts)).numpy()]
    nonsense = model.encode_texts([" ".join([NO_WORD] * len(each)) for each in words])
    same = np.abs(nonsense - vectors).max(axis=1, initial=0) < ROUNDING
    return [text for text, each, unknown in zip(texts, words, same, strict=True) if each and unknown]
