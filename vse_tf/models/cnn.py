"""A small convolutional image encoder, trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras

from vse_tf.config import ImageSettings
from vse_tf.errors import UserError
from vse_tf.models.encoders import Encoder

# The largest map that is flattened; larger ones are averaged down to at most this.
_GRID = 6


def cnn_encoder(channels: Sequence[int] = (16, 32, 64, 96), units: int = 1024, precision: str = "float32") -> Encoder:
    """3×3 convolutions with stride 2 and ReLU, flattened, and a dense layer with ReLU; no batch statistics.

    The last map is averaged down to at most 6×6 before it is flattened.

    Args:
        channels: output channels of each convolution.
        units: width of the dense layer; 0 leaves it out.
        precision: numeric precision, a Keras dtype policy.

    Returns:
        A function from float32 RGB pixels `(batch, h, w, 3)` in 0..255, of one size, to features `(batch, d)`.

    Raises:
        UserError: there is no convolution, or the images have no fixed size.

    Example:
        >>> build_image_tower(cnn_encoder(units=128), (48, 48, 3), dim=64)
    """

    def encode(pixels: keras.KerasTensor) -> keras.KerasTensor:
        if not channels or None in pixels.shape[1:]:
            raise UserError("image.channels: cnn needs at least one convolution and images of one size")
        x = keras.layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="preprocessing")(pixels)
        for number, width in enumerate(channels, start=1):
            x = keras.layers.Conv2D(
                width, 3, strides=2, padding="same", activation="relu", dtype=precision, name=f"conv_{number}"
            )(x)
        pool = tuple(math.ceil(side / _GRID) for side in x.shape[1:3])
        if max(pool) > 1:
            x = keras.layers.AveragePooling2D(pool, padding="same", dtype=precision, name="pooling")(x)
        x = keras.layers.Flatten(dtype=precision, name="flatten")(x)
        if units:
            x = keras.layers.Dense(units, activation="relu", dtype=precision, name="cnn_units")(x)
        return x

    return encode


def image_encoder(name: str, image: ImageSettings, input_shape: tuple[int, ...], precision: str) -> Encoder:
    """The encoder that the settings describe."""
    return cnn_encoder(image.channels, image.units, precision)
