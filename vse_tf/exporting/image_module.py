"""The image tower as a module for export: encoded images, pixels or features in, unit vectors out."""

from __future__ import annotations

import keras
import tensorflow as tf

from vse_tf.exporting.decoding import check_all_read, decode_readable
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.exporting.signature import Signatures, checked, signature
from vse_tf.exporting.slices import SLICE_SIZE, in_slices
from vse_tf.preprocessing.view import ImageView

# Pixels of a slice, ten images of 224 x 224: the outputs of a network's layers take a hundred times as much memory.
SLICE_PIXELS = 2**19
BYTES = tf.TensorSpec([None], tf.string)


class ImageModule(tf.Module):
    """The image tower with the preparation of its images.

    Core TensorFlow operations only. Images are decoded, turned upright, resized and normalised by the same functions as
    in training and evaluation.

    Args:
        tower: the image tower.
        view: how images are prepared; `view.size` is None for a tower of precomputed features.
        head: its head, to be exported too: the run trained on cached features of its frozen backbone.

    Example:
        >>> module = ImageModule(embedder.inference_tower("image"), embedder.view)
        >>> module.signatures()["serving_default"](image_bytes=tf.constant([jpeg]))["embedding"].shape
        TensorShape([1, 128])
    """

    def __init__(self, tower: keras.Model, view: ImageView, head: keras.Model | None = None) -> None:
        super().__init__(name="image_module")
        self.view = view
        self._encode = FrozenTower(tower)
        self._encode_features = self._encode if view.size is None else FrozenTower(head) if head is not None else None
        self.weights = self._encode.variables  # the head's are among them

    def signatures(self) -> Signatures:
        """The functions to export: `serving_default` of bytes, `pixels`, and `features` where the run used them.

        A tower of precomputed features has `features` alone, as `serving_default` too.
        """
        found: Signatures = {}
        if self.view.size is not None:
            of_bytes = signature(self.of_bytes, image_bytes=BYTES)
            of_pixels = signature(self.of_pixels, pixels=tf.TensorSpec([None, None, None, 3], tf.uint8))
            found = {"serving_default": of_bytes, "pixels": of_pixels}
        if self._encode_features is not None:
            found["features"] = signature(self.of_features, features=self._encode_features.spec)
            found.setdefault("serving_default", found["features"])
        return found

    def of_bytes(self, image_bytes: tf.Tensor) -> tf.Tensor:
        """Bytes of image files `(n,)` to unit vectors `(n, dim)`."""

        def encode(start: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
            read, images = decode_readable(image_bytes[start:end], self.view)
            # The images of a slice with a bad one are not encoded: the answer is an error.
            vectors = tf.cond(
                tf.size(read) == end - start,
                lambda: self._encode.run_slice(images),
                lambda: tf.zeros([tf.size(read), *self._encode.output_spec.shape], self._encode.output_spec.dtype),
            )
            return [read + tf.cast(start, tf.int64), vectors]

        specs = [tf.TensorSpec([], tf.int64), self._encode.output_spec]
        read, vectors = in_slices(tf.shape(image_bytes)[0], self._slice_size, encode, specs)
        with tf.control_dependencies([check_all_read(image_bytes, read, self.view)]):
            return tf.identity(vectors)

    def of_pixels(self, pixels: tf.Tensor) -> tf.Tensor:
        """uint8 `(n, h, w, 3)`, any size, to unit vectors `(n, dim)`."""
        sides = tf.shape(pixels)[1:3]
        size = tf.strings.reduce_join(tf.strings.as_string(sides), separator="x")
        pixels = checked(pixels, tf.reduce_all(sides > 0), "pixels: images of ", size)
        spec = tf.TensorSpec([*self.view.pixels, 3], tf.float32)

        def encode(start: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
            views = tf.map_fn(
                lambda image: self.view.of_pixels(image, None), pixels[start:end], fn_output_signature=spec
            )
            return [self._encode.run_slice(views)]

        (vectors,) = in_slices(tf.shape(pixels)[0], self._slice_size, encode, [self._encode.output_spec])
        return vectors

    @property
    def _slice_size(self) -> int:
        height, width = self.view.pixels
        return min(SLICE_SIZE, max(1, SLICE_PIXELS // (height * width)))

    def of_features(self, features: tf.Tensor) -> tf.Tensor:
        """float32 features, `(n, d)` or `(n, regions, d)`, to unit vectors `(n, dim)`."""
        assert self._encode_features is not None
        return self._encode_features(features)
