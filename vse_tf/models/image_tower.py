"""The image tower: pixels or precomputed features to unit vectors."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.data.records import Images
from vse_tf.errors import UserError
from vse_tf.models import backbones
from vse_tf.models.pooling import pooled_together
from vse_tf.models.projection import build_head

# The largest map that cnn flattens; larger ones are averaged down to at most this.
_GRID = 6
_PLAIN, _PREFIXED = ("cnn", "features"), ("applications", "hub")


def image_size(image: ImageSettings, images: Images | None = None) -> tuple[int, int] | None:
    """Height and width of the images that the encoder takes.

    `image.size` where it is set, else the encoder's own: the size that an `applications` model was trained at, or that
    of a preset's image converter. `cnn` has none of its own and takes the images' where they are arrays of one size.

    Args:
        image: settings of the tower.
        images: the images of a split.

    Returns:
        Height and width in pixels; None for precomputed features.

    Raises:
        UserError: the encoder does not exist, does not fit the images, or has no size.

    Example:
        >>> image_size(ImageSettings(encoder="applications:EfficientNetB3"))
        (300, 300)
    """
    kind, name = _split(image.encoder)
    if images is not None and (kind == "features") != (images.kind == "features"):
        if kind == "features":
            raise UserError("image.encoder: features needs precomputed features (data.source precomp), not images")
        raise UserError(f"image.encoder: {image.encoder} needs images; the data are features: give features")
    if kind == "features":
        return None
    if image.size is not None:
        height, width = (image.size, image.size) if isinstance(image.size, int) else image.size
        if min(height, width) < 1:
            raise UserError(f"image.size: {height}x{width} is no size in pixels")
        return height, width
    size: tuple[int, int] | None = None
    if kind == "applications":
        size = backbones.applications_size(name)
    elif kind == "hub":
        from vse_tf.models.hub_backbones import hub_image_size  # noqa: PLC0415 (keras_hub: 13 s)

        size = hub_image_size(name)
    elif images is not None and images.kind == "pixels" and len(images):
        height, width = images.load(np.zeros([1], np.int64)).shape[1:3]
        size = int(height), int(width)
    if size is None:
        raise UserError(f"image.size: the encoder {image.encoder} has no size of its own; give one, e.g. 224")
    return size


def build_image_tower(
    image: ImageSettings,
    model: ModelSettings,
    input_shape: tuple[int, ...] | None = None,
    name: str = "image_tower",
) -> keras.Model:
    """Build the image tower, its pretrained weights loaded.

    Encoders (`image.encoder`):

    - `cnn`: 3×3 convolutions with stride 2 and ReLU, one a number in `image.channels`; the map, averaged down to at
      most 6×6 where it is larger, is flattened and goes through Dense(`image.units`) with ReLU. Trained from scratch,
      without batch statistics.
    - `features`: precomputed, `(d,)` or `(regions, d)`, pooled by `image.pooling`.
    - `applications:<Name>`: a model of `keras.applications`, weights from `image.weights`, mean over its last map.
    - `hub:<preset>`: an image backbone of KerasHub with its own scaling, see `hub_image_backbone`.

    With `image.stages` above 1 the two pretrained kinds give the maps of a convolutional network's last stages, with
    `image.pooling` mean_max their maxima beside their means: each part of unit length, all side by side. With attention
    they give the maps' regions, see `regions`, and the head pools them by `image.queries` learned queries.

    Of the last three the feature is brought to unit length and goes through a linear Dense(`image.units`). All end in
    the head: see `build_head`.

    Args:
        image: settings of the tower.
        model: settings of the shared space.
        input_shape: shape of one item: pixels `(h, w, 3)`, or features `(d,)` or `(regions, d)`. Default: the
            encoder's own size.
        name: name of the model.

    Returns:
        A functional model from float32 RGB pixels `(batch, h, w, 3)` in 0..255, or features, to float32 unit vectors
        `(batch, model.dim)`. `backbone_of` gives its pretrained backbone, `head_of` the rest of it.

    Raises:
        UserError: the settings name something that does not exist or does not fit.

    Example:
        >>> tower = build_image_tower(ImageSettings(encoder="cnn", units=128), ModelSettings(dim=64), (48, 48, 3))
        >>> tower(pixels).shape
        (32, 64)
    """
    kind, preset = _split(image.encoder)
    if input_shape is None:
        size = image_size(image)
        if size is None:
            raise UserError("image.encoder: features needs the shape of the precomputed features")
        input_shape = (*size, 3)
    rank = len(input_shape)
    if (rank != 3 or input_shape[-1] != 3) if kind != "features" else rank not in (1, 2):
        wanted = "features (d,) or (regions, d)" if kind == "features" else "pixels (h, w, 3)"
        raise UserError(f"image.encoder: {image.encoder} takes {wanted}, the data have shape {tuple(input_shape)}")
    if kind == "features":
        inputs = keras.Input(input_shape, name="image")
        feature = pooled_together([inputs], image.pooling)
        head = build_head(feature.shape[1:], model, image.units, normalize=True, queries=image.queries)
        return keras.Model(inputs, head(feature), name=name)
    inputs = keras.Input(input_shape, name="image")
    if kind == "cnn":
        feature = _cnn(inputs, image, model.precision)
        return keras.Model(inputs, build_head(feature.shape[1:], model)(feature), name=name)
    size = (input_shape[0], input_shape[1])
    if kind == "applications":
        backbone = backbones.applications_backbone(
            preset, image.weights, size, image.trainable, model.precision, image.stages, image.pooling
        )
    else:
        from vse_tf.models.hub_backbones import hub_image_backbone  # noqa: PLC0415 (keras_hub: 13 s)

        backbone = hub_image_backbone(preset, size, image.trainable, model.precision, image.stages, image.pooling)
    head = build_head(backbone.output_shape[1:], model, image.units, normalize=True, queries=image.queries)
    return keras.Model(inputs, head(backbone(inputs)), name=name)


def _split(encoder: str) -> tuple[str, str]:
    return backbones.split_encoder(encoder, "image.encoder", _PLAIN, _PREFIXED)


def _cnn(inputs: Any, image: ImageSettings, dtype: str) -> Any:
    if not image.channels or None in inputs.shape[1:]:
        raise UserError("image.channels: cnn needs at least one convolution and images of one size")
    x = keras.layers.Rescaling(1 / 127.5, -1.0, dtype="float32", name="preprocessing")(inputs)
    for number, channels in enumerate(image.channels, start=1):
        x = keras.layers.Conv2D(
            channels, 3, strides=2, padding="same", activation="relu", dtype=dtype, name=f"conv_{number}"
        )(x)
    pool = tuple(math.ceil(side / _GRID) for side in x.shape[1:3])
    if max(pool) > 1:
        x = keras.layers.AveragePooling2D(pool, padding="same", dtype=dtype, name="pooling")(x)
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    if image.units:
        x = keras.layers.Dense(image.units, activation="relu", dtype=dtype, name="cnn_units")(x)
    return x
