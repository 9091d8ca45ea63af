"""The view of an image: how its file or its array becomes the encoder's input, in training and in evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import tensorflow as tf

from vse_tf.config import ImageSettings
from vse_tf.preprocessing import images
from vse_tf.preprocessing.image_checks import checked


@dataclass(frozen=True)
class ImageView:
    """How an image becomes the encoder's input.

    Args:
        size: height and width in pixels; None for features, which are not prepared.
        resize: shorter side in pixels before the centre crop of evaluation; 0 resizes to the smallest image that covers
            `size`.
        random_crop: training takes random crops.
        crop_scale: smallest and largest share of the image's area in a random crop.
        flip: training mirrors images at random.
        max_pixels: images with more pixels, according to their header, are refused.
        eval_flip: evaluation takes the mean of the vectors of the centre view and of its mirror image.
    """

    size: tuple[int, int] | None
    resize: int | None = None
    random_crop: bool = False
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False
    max_pixels: int = 100_000_000
    eval_flip: bool = False

    @classmethod
    def of(
        cls,
        image: ImageSettings,
        size: tuple[int, int] | None,
        max_pixels: int,
        array_size: tuple[int, int] | None = None,
    ) -> ImageView:
        """The view that the settings describe.

        Args:
            image: settings of the tower.
            size: height and width that the encoder takes; None for features.
            max_pixels: `data.max_pixels`.
            array_size: height and width of images that are arrays. Those of the encoder's size are not resized, unless
                `image.resize` says so.
        """
        resize = image.resize
        if resize is None and array_size is not None and array_size == size:
            # For square ones the side itself, as in run folders of earlier versions.
            resize = array_size[0] if array_size[0] == array_size[1] else 0
        eval_flip = image.eval_views == "centre_flip" and size is not None
        return cls(size, resize, image.random_crop, image.crop_scale, image.flip, max_pixels, eval_flip)

    def to_dict(self) -> dict[str, Any]:
        """The view for JSON; `eval_flip` only where it is set, so that files of earlier versions stay as they are."""
        values = asdict(self)
        return values if self.eval_flip else {key: value for key, value in values.items() if key != "eval_flip"}

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> ImageView:
        """The view from the dictionary of `to_dict`, also after it was written as JSON."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def pixels(self) -> tuple[int, int]:
        """The size, of a view of pixels."""
        if self.size is None:
            raise ValueError("a view of features has no size in pixels")
        return self.size

    def of_file(self, contents: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Encoded bytes to float32 `(h, w, 3)` in 0..255; a seed `(2,)` asks for the training view.

        In a graph the header is read by operations, as an exported model needs it. Making such a graph ready takes
        seconds: where Python can read the header, use `of_checked`.
        """
        return self.of_checked(*checked(contents, self.max_pixels), seed)

    def of_checked(self, contents: tf.Tensor, layout: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """`of_file` for an image whose header was checked, with its layout `(9,)`; see `images.decode_checked`."""
        inputs = [contents, layout] if seed is None else [contents, layout, seed]
        if tf.executing_eagerly():
            return self._of_checked(*inputs)
        with tf.init_scope():
            run = self.traced(*(tf.TensorSpec(each.shape, each.dtype) for each in inputs))
        return run(*inputs)

    def traced(self, *inputs: tf.TensorSpec) -> Any:
        """The graph of `of_checked` for inputs of this kind, traced once per process."""
        return _traced(self).get_concrete_function(*inputs)

    def _of_checked(self, contents: tf.Tensor, layout: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        if seed is not None and self.random_crop:
            return images.random_view_checked(contents, layout, self.pixels, self.crop_scale, self.flip, seed)
        centre = images.centre_view(images.decode_checked(contents, layout), self.pixels, self.resize)
        return self._flipped(centre, seed)

    def all_of_checked(self, contents: tf.Tensor, layout: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Encoded bytes to the centre view and a random crop for each seed `(n, 2)`: float32 `(1 + n, h, w, 3)`.

        The header was checked, see `of_checked`. The image is decoded once; the pixels of a crop are those of
        `of_pixels`.
        """
        image = images.decode_checked(contents, layout)
        centre = images.centre_view(image, self.pixels, self.resize)
        spec = tf.TensorSpec([*self.pixels, 3], tf.float32)
        crops = tf.map_fn(
            lambda seed: images.random_view(image, self.pixels, self.crop_scale, seed=seed, flip=self.flip),
            seeds,
            fn_output_signature=spec,
        )
        return tf.concat([centre[None], crops], 0)

    def of_pixels(self, pixels: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """A uint8 image `(h, w, 3)` to float32 `(h, w, 3)`; a seed asks for the training view."""
        if seed is not None and self.random_crop:
            return images.random_view(pixels, self.pixels, self.crop_scale, flip=self.flip, seed=seed)
        return self._flipped(images.centre_view(pixels, self.pixels, self.resize), seed)

    def _flipped(self, image: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        if seed is None or not self.flip:
            return image
        return tf.image.stateless_random_flip_left_right(image, seed)


@lru_cache(maxsize=32)
def _traced(view: ImageView) -> Any:
    """The graph of a view, which every pass over a split needs: its concrete functions are traced once each."""
    return tf.function(view._of_checked, autograph=False)
