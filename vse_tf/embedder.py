"""A trained model as its users call it: images and texts of any kind to vectors, with the hubness correction."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.hubness_bank import Bank, read_bank
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.trained_model import StoredModel, TrainedModel
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.photo_images import PhotoImages
from vse_tf.data.records import EncodedImages
from vse_tf.display import phase_if
from vse_tf.errors import tensorflow_reason
from vse_tf.models.folding import EXTRA, Modality, plain
from vse_tf.models.hubness import corrections
from vse_tf.models.inference_tower import inference_tower
from vse_tf.models.projection import head_of
from vse_tf.plain_embedder import EncodedSplit, PlainEmbedder
from vse_tf.preprocessing.image_inputs import (
    ImageInput,
    encoded_bytes,
    features,
    is_one_image,
    is_path,
    pixels,
    raise_unreadable,
)
from vse_tf.preprocessing.photo_formats import as_decodable

# Batches of images that `encode_images` takes from a sequence at a time.
AHEAD = 16


class Embedder(PlainEmbedder):
    """Embeds images and captions as unit vectors of one space.

    Args:
        model: the dual encoder with its tokenizer and its view of images.
        settings: the run's settings.
        run: the run folder, if it was loaded from one.
        epoch: the epoch of the loaded checkpoint, where it is known.
        metrics: the metrics that the run measured in the plain space, by split.
        bank: the vectors that the hubness correction compares with; None: no correction.

    Example:
        >>> model = vse_tf.load("runs/shapes-convse-0")
        >>> model
        Embedder(run='runs/shapes-convse-0', image='cnn', text='gru', dim=128, loss='convse', epoch=19, val_rsum=591.4)
        >>> images = model.encode_images(["a.jpg", "b.png"])
        >>> model.encode_texts(["two dogs in the snow"]) @ images.T
        >>> model.metrics["test"]["t2i_r1"]
        96.8
    """

    def __init__(
        self,
        model: TrainedModel | StoredModel,
        settings: Settings,
        run: Path | None = None,
        epoch: int | None = None,
        metrics: Mapping[str, dict[str, float]] | None = None,
        bank: Bank | None = None,
    ) -> None:
        super().__init__(model, settings)
        self.run = run
        self.epoch = epoch
        self.metrics = dict(metrics or {})
        self.corrections = {} if bank is None else corrections(bank.captions, bank.images)

    def __repr__(self) -> str:
        known: dict[str, Any] = {} if self.run is None else {"run": str(self.run)}
        known |= {"image": self.settings.image.encoder, "text": self.settings.text.encoder, "dim": self.dim}
        known |= {"loss": self.settings.loss.name}
        if self.epoch is not None:
            known["epoch"] = self.epoch
        rsum = self.metrics.get("val", {}).get("rsum")
        if isinstance(rsum, float):
            known["val_rsum"] = round(rsum, 1)
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in known.items())})"

    @property
    def dim(self) -> int:
        """Dimensions of the vectors: those of the space, and those of the hubness correction if there is one."""
        return self.plain_dim + (EXTRA if self.corrections else 0)

    def encode_images(
        self, images: ImageInput | Iterable[ImageInput], batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Embed images.

        Args:
            images: one image, or an iterable of images (a generator too). An image is the path of an image file, its
                bytes, a PIL image or a uint8 array `(h, w, 3)` of any size; for a model of features a float array
                `(d,)` or `(regions, d)`.
            batch_size: images at a time (default: the run's `train.eval_batch_size`).
            progress: show a bar.

        Returns:
            A unit vector float32 `(dim,)` of one image, or unit rows float32 `(n, dim)` of n images.

        Raises:
            TypeError: something else than an image.
            ValueError: an image that cannot be decoded, or an array of another shape.
            OSError: a file that cannot be read; `FileNotFoundError` if there is none.

        Example:
            >>> model.encode_images("dog.jpg").shape
            (128,)
            >>> model.encode_images(["dog.jpg", PIL.Image.open("cat.png")]).shape
            (2, 128)
        """
        shape = self.image_tower.input_shape[1:]
        single = is_one_image(images, len(shape))
        every: Any = [images] if single else images
        size = batch_size or self.settings.train.eval_batch_size
        vectors, start, waiting = [np.zeros([0, self.plain_dim], np.float32)], 0, iter(every)
        count = len(every) if isinstance(every, Sized) else None
        with phase_if(progress, "images", count, "images") as bar:
            # Files are read ahead; what a generator yields may be large.
            while part := list(islice(waiting, AHEAD * size if isinstance(every, Sequence) else size)):
                vectors.append(self._encode_some(part, "images" if single else "images[{}]", start, size, bar.update))
                start += len(part)
        found = self._corrected(np.concatenate(vectors), "image")
        return found[0] if single else found

    def encode_files(
        self,
        paths: Sequence[str] | EncodedImages,
        bad: BadImages,
        batch_size: int | None = None,
        advance: Callable[[int], Any] = lambda count: None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Embed the image files that can be read.

        Args:
            paths: the files, or encoded images that are parts of larger files.
            bad: what to do with the others.
            batch_size: images at a time (default: the run's `train.eval_batch_size`).
            advance: called after each batch with its number of images, for a progress bar.

        Returns:
            float32 `(read, dim)`, and int64 `(read,)`: the position in `paths` of each row.

        Raises:
            UserError: an image cannot be read and `bad` does not skip it, or the model takes no image files.

        Example:
            >>> vectors, rows = model.encode_files(["a.jpg", "cut.jpg"], BadImages("skip", 10**8))
        """
        vectors, rows = self._encode_readable(PhotoImages(paths, self.view.max_pixels), bad, batch_size, advance)
        return self._corrected(vectors, "image"), rows

    def encode_texts(
        self, texts: str | Iterable[str], batch_size: int | None = None, progress: bool = False
    ) -> np.ndarray:
        """Embed captions or text queries.

        Args:
            texts: one string, or an iterable of strings, in any language; a blank one has a vector too.
            batch_size: texts at a time (default: the run's `train.eval_batch_size`).
            progress: show a bar.

        Returns:
            A unit vector float32 `(dim,)` of one string, or unit rows float32 `(n, dim)` of n strings.

        Raises:
            TypeError: something else than strings.

        Example:
            >>> model.encode_texts("a red circle").shape
            (128,)
            >>> model.encode_texts(["a red circle", "ein roter Kreis"]).shape
            (2, 128)
        """
        if isinstance(texts, str):
            return self.encode_texts([texts], batch_size, progress)[0]
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise TypeError(f"texts is of the type {type(texts).__name__}; give a string or an iterable of strings")
        texts = list(texts)
        for number, each in enumerate(texts):
            if not isinstance(each, str):
                raise TypeError(f"texts[{number}] is of the type {type(each).__name__}; give strings")
        return self._corrected(self._encode_texts(texts, batch_size, progress), "caption")

    def corrected(self, encoded: EncodedSplit) -> EncodedSplit:
        """A split's embeddings with the hubness correction; the same where the model has none."""
        image, text = self._corrected(encoded.image, "image"), self._corrected(encoded.text, "caption")
        return replace(encoded, image=image, text=text)

    def plain(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors of `encode_images` or `encode_texts` without the hubness correction: unit vectors of the space.

        Args:
            vectors: float32 `(n, dim)`.
        """
        return plain(vectors, self.plain_dim)

    def inference_tower(self, modality: Modality, head: bool = False) -> keras.Model:
        """A tower as `encode_images` or `encode_texts` runs it: its views averaged, the correction appended.

        Args:
            modality: `image` or `caption`.
            head: only the head, from the features of one view.
        """
        tower = self.image_tower if modality == "image" else self.text_tower
        flip = modality == "image" and self.view.eval_flip and not head
        return inference_tower(head_of(tower) if head else tower, flip, self.corrections.get(modality))

    def _corrected(self, vectors: np.ndarray, modality: Modality) -> np.ndarray:
        """Plain vectors with the correction, if there is one: the last that happens to a vector."""
        if modality not in self.corrections:
            return vectors
        layer, size = self.corrections[modality], AHEAD * self.settings.train.eval_batch_size
        return np.concatenate([layer(vectors[start : start + size]) for start in range(0, len(vectors) or 1, size)])

    def _encode_some(
        self, images: list[Any], name: str, start: int, size: int, advance: Callable[[int], Any]
    ) -> np.ndarray:
        """The vectors of images of any kind; the name is that of an image, for messages."""
        result = np.empty([len(images), self.plain_dim], np.float32)
        files = [number for number, image in enumerate(images) if is_path(image)] if self.view.size else []
        if files:
            bad = BadImages("skip", self.view.max_pixels, lambda problem: raise_unreadable(problem.where, problem.what))
            paths = PhotoImages([os.fspath(images[i]) for i in files], self.view.max_pixels)
            result[files] = self._encode_readable(paths, bad, size, advance)[0]
        others = sorted(set(range(len(images))) - set(files))
        for first in range(0, len(others), size):
            batch = others[first : first + size]
            prepared = [self._prepared(images[i], name.format(start + i)) for i in batch]
            result[batch] = self._encode_image(tf.stack(prepared)).numpy()
            advance(len(batch))
        return result

    def _prepared(self, image: Any, name: str) -> tf.Tensor:
        """An image that is no file as the image tower takes it."""
        if self.view.size is None:
            return tf.constant(features(image, name, tuple(self.image_tower.input_shape[1:])))
        contents = encoded_bytes(image)
        if contents is None:
            return self.view.of_pixels(tf.constant(pixels(image, name)), None)
        try:
            return self.view.of_file(tf.constant(as_decodable(contents, self.view.max_pixels)), None)
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(f"{name} cannot be decoded: {tensorflow_reason(error)}") from None


def open_run(run: str | Path, checkpoint: str = "best", settings: Settings | None = None) -> Embedder:
    """Open a run; its towers are loaded when they are first used, and one that is damaged is an error then."""
    model, folder = StoredModel(run, checkpoint, settings), RunFolder(run)
    return Embedder(model, model.settings, folder.path, *folder.measured(checkpoint), read_bank(folder, checkpoint))


def load(run: str | Path, checkpoint: str = "best") -> Embedder:
    """Load a run with all its parts; `vse_tf.load` is its public name."""
    model, folder = StoredModel(run, checkpoint), RunFolder(run)
    loaded = TrainedModel(model.dual_encoder, model.tokenizer, model.view)
    return Embedder(loaded, model.settings, folder.path, *folder.measured(checkpoint), read_bank(folder, checkpoint))
