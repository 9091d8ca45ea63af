"""Runs the towers of a trained model in the plain space, without the hubness correction; on splits above all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.trained_model import StoredModel, TrainedModel
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.features import CachedFeatures
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.pipeline import array_batches
from vse_tf.data.records import EncodedImages, Images, Split
from vse_tf.display import phase_if, track
from vse_tf.errors import UserError
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.inference_tower import inference_tower, mean_of_views
from vse_tf.models.projection import head_of
from vse_tf.preprocessing import text

Encode: TypeAlias = Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class EncodedSplit:
    """The embeddings of one split: of the plain space, or corrected.

    Args:
        image: float32 `(images, dim)`.
        text: float32 `(captions, dim)`.
        image_id: int64 `(captions,)`, the position in `image` of each caption's image.
        rows: int64 `(images,)`, the split's row of each image; images that could not be read are missing.
    """

    image: np.ndarray
    text: np.ndarray
    image_id: np.ndarray
    rows: np.ndarray

    def of_rows(self, rows: np.ndarray) -> EncodedSplit:
        """The embeddings of some images and their captions.

        Args:
            rows: int64 `(n,)`, rows of the split in rising order.
        """
        if np.array_equal(rows, self.rows):
            return self
        kept = np.flatnonzero(np.isin(self.rows, rows))
        place = np.full(len(self.rows), -1, np.int64)
        place[kept] = np.arange(len(kept))
        seen = np.flatnonzero(place[self.image_id] >= 0)
        return EncodedSplit(self.image[kept], self.text[seen], place[self.image_id[seen]], self.rows[kept])


class PlainEmbedder:
    """Embeds files, texts and splits as unit vectors of the plain space.

    Args:
        model: the dual encoder with its tokenizer and its view of images.
        settings: the run's settings.

    Example:
        encoded = PlainEmbedder(model, settings).encode_split(split, BadImages("fail", 10**8))
    """

    def __init__(self, model: TrainedModel | StoredModel, settings: Settings) -> None:
        self._parts = model
        self.view = model.view
        self.settings = settings
        self._files: ImageReader | None = None
        self._batches: tuple[Images, int, tf.data.Dataset] | None = None

    @property
    def model(self) -> DualEncoder:
        """The dual encoder."""
        return self._parts.dual_encoder

    @property
    def tokenizer(self) -> text.Tokenizer:
        """Captions to token ids."""
        return self._parts.tokenizer

    @property
    def image_tower(self) -> keras.Model:
        """Pixels float32 `(batch, h, w, 3)` in 0..255 (or features) to unit vectors of the plain space."""
        return self._parts.image_tower

    @property
    def text_tower(self) -> keras.Model:
        """Token ids int32 `(batch, length)`, −1 as padding, to unit vectors of the plain space."""
        return self._parts.text_tower

    @property
    def plain_dim(self) -> int:
        """Dimensions of the space, `model.dim`."""
        return self.settings.model.dim

    def encode_split(self, split: Split, bad: BadImages, progress: bool = False) -> EncodedSplit:
        """Embed a split in the plain space: every image and every caption once.

        Args:
            split: the split.
            bad: what to do with images that cannot be read.
            progress: show bars.

        Raises:
            UserError: the images are of another kind or shape than the model takes, or cannot be read.
        """
        image, rows = self.encode_rows(split.images, bad, progress)
        place = np.full(len(split), -1, np.int64)
        place[rows] = np.arange(len(rows))
        image_id = place[np.array(split.caption_rows, np.int64)]
        seen = np.flatnonzero(image_id >= 0)
        return EncodedSplit(image, self.encode_captions(split, seen, progress), image_id[seen], rows)

    def encode_rows(self, images: Images, bad: BadImages, progress: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Embed the images of a split in the plain space.

        Args:
            images: the images, or their cached features.
            bad: what to do with images that cannot be read.
            progress: show a bar.

        Returns:
            float32 `(read, dim)`, and int64 `(read,)`: the row of each.

        Raises:
            UserError: the images are of another kind or shape than the model takes, or cannot be read.
        """
        self.check_images(images)
        size = self.settings.train.eval_batch_size
        if isinstance(images, EncodedImages):
            with phase_if(progress, "images", len(images), "images") as bar:
                return self._encode_readable(images, bad, size, bar.update)
        # A split is encoded after each epoch, and its pipeline traced once.
        if self._batches is None or self._batches[0] is not images or self._batches[1] != size:
            self._batches = images, size, array_batches(images, self.view, size)
        vectors, done = [np.zeros([0, self.plain_dim], np.float32)], 0
        with phase_if(progress, "images", len(images), "images") as bar:
            for batch in self._batches[2]:
                if isinstance(images, CachedFeatures):
                    vectors.append(self._encode_cached(images, batch, np.arange(done, done + len(batch))))
                else:
                    vectors.append(self._encode_image(batch).numpy())
                done += len(batch)
                bar.update(len(batch))
        return np.concatenate(vectors), np.arange(len(images))

    def _encode_cached(self, images: CachedFeatures, centre: tf.Tensor, rows: np.ndarray) -> np.ndarray:
        vectors = self._encode_features(tf.cast(centre, tf.float32))
        if self.view.eval_flip:
            mirrored = images.load_views(rows, np.ones(len(rows), np.int64)).astype(np.float32)
            vectors = mean_of_views(vectors, self._encode_features(mirrored))
        return vectors.numpy()

    def encode_captions(self, split: Split, captions: np.ndarray, progress: bool = False) -> np.ndarray:
        """Embed some of a split's captions in the plain space.

        Args:
            split: the split.
            captions: positions in `split.captions`, int64 `(n,)`.
            progress: show a bar.

        Returns:
            float32 `(n, dim)`.
        """
        features, size = split.caption_features, self.settings.train.eval_batch_size
        if features is None:
            texts = split.captions
            return self._encode_texts([texts[i] for i in captions], progress=progress)
        parts = [captions[start : start + size] for start in range(0, len(captions), size)]
        vectors = [self._encode_caption_features(features.load(part).astype(np.float32)).numpy() for part in parts]
        return np.concatenate([np.zeros([0, self.plain_dim], np.float32), *vectors])

    def check_images(self, images: Images) -> None:
        """Refuse images of another kind than the model takes, and features of another shape.

        Args:
            images: the images of a split, or their cached features.

        Raises:
            UserError: they do not fit; the message names both shapes.
        """
        if isinstance(images, CachedFeatures):
            return
        wanted = tuple(self.image_tower.input_shape[1:])
        if images.kind == "files":
            found, held = None, "image files"
        else:
            found = images.load(np.zeros([1], np.int64)).shape[1:]
            held = f"{'features' if images.kind == 'features' else 'images'} {found}"
        if self.view.size is None and (images.kind != "features" or found != wanted):
            raise UserError(f"the run takes precomputed features {wanted} per image, the data hold {held}")
        if self.view.size is not None and images.kind == "features":
            raise UserError(
                f"the run takes images, of which it sees {wanted}, the data hold precomputed {held} per image"
            )

    def _encode_readable(
        self, images: EncodedImages, bad: BadImages, batch_size: int | None, advance: Callable[[int], Any]
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.view.size is None:
            raise UserError("this model takes precomputed features, not image files")
        size = batch_size or self.settings.train.eval_batch_size
        if self._files is None:
            self._files = ImageReader(self.view, self.settings.data.workers)
        vectors, rows, done = [np.zeros([0, self.plain_dim], np.float32)], [np.zeros([0], np.int64)], 0
        for batch, positions in self._files.batches(images, size, bad):
            vectors.append(self._encode_image(batch).numpy())
            rows.append(positions)
            advance(int(positions[-1]) + 1 - done)
            done = int(positions[-1]) + 1
        advance(len(images) - done)
        return np.concatenate(vectors), np.concatenate(rows)

    def _encode_texts(self, texts: list[str], batch_size: int | None = None, progress: bool = False) -> np.ndarray:
        result = np.zeros([len(texts), self.plain_dim], np.float32)
        if not texts:
            return result
        values, splits = text.tokenise_all(self.tokenizer, texts)
        tokens = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        # Texts of similar length together, for little padding; the vectors do not depend on it.
        order = np.argsort(np.diff(splits), kind="stable")
        size = batch_size or self.settings.train.eval_batch_size
        for start in track(range(0, len(order), size), "captions", "batches", progress):
            part = order[start : start + size]
            ids = text.pad(tf.gather(tokens, part), self.settings.text.buckets, self.settings.text.max_tokens)
            result[part] = self._encode_text(ids).numpy()
        return result

    @cached_property
    def _encode_image(self) -> Encode:
        return _compiled(inference_tower(self.image_tower, self.view.eval_flip))

    @cached_property
    def _encode_features(self) -> Encode:
        return _compiled(head_of(self.image_tower))

    @cached_property
    def _encode_text(self) -> Encode:
        return _compiled(self.text_tower)

    @cached_property
    def _encode_caption_features(self) -> Encode:
        return _compiled(head_of(self.text_tower))


def _compiled(tower: keras.Model) -> Encode:
    spec = [tf.TensorSpec([None, *tower.input_shape[1:]], tower.inputs[0].dtype)]
    return tf.function(lambda inputs: tower(inputs, training=False), input_signature=spec, autograph=False)
