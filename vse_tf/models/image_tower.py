"""The image tower: pixels or precomputed features to unit vectors."""

from __future__ import annotations

from typing import Unpack

import keras

from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.data.records import Images, array_size
from vse_tf.errors import UserError
from vse_tf.models.backbone_tail import CutBackbone
from vse_tf.models.encoders import Encoder, encoder_module, split_encoder
from vse_tf.models.projection import HeadOptions, build_head, head_options


def build_image_tower(
    encoder: Encoder,
    input_shape: tuple[int, ...],
    dim: int = 1024,
    *,
    name: str = "image_tower",
    **head: Unpack[HeadOptions],
) -> keras.Model:
    """Build an image tower: an encoder of pixels or precomputed features, and a head.

    Args:
        encoder: from inputs to features: `cnn_encoder`, `applications_backbone`, `hub_image_backbone`, or any other
            model.
        input_shape: shape of one image: pixels `(h, w, 3)`, or features `(d,)` or `(regions, d)`.
        dim: dimensions of the result.
        name: name of the model.
        **head: further arguments of `build_head`.

    Returns:
        A functional model from float32 `(batch, *input_shape)`, RGB pixels in 0..255 or features, to float32 unit
        vectors `(batch, dim)`. `backbone_of` returns its pretrained backbone, `head_of` the head.

    Example:
        >>> tower = build_image_tower(cnn_encoder(units=128), (48, 48, 3), dim=64)
        >>> tower(pixels).shape
        (32, 64)
    """
    inputs = keras.Input(input_shape, name="image")
    feature = encoder(inputs)
    tail = encoder.tail if isinstance(encoder, CutBackbone) else None
    head_model = build_head(feature.shape[1:], dim, tail=tail, **head)
    return keras.Model(inputs, head_model(feature), name=name)


def image_tower_from_settings(
    image: ImageSettings, model: ModelSettings, input_shape: tuple[int, ...] | None = None, name: str = "image_tower"
) -> keras.Model:
    """Build the image tower of a run, with the pretrained weights of its encoder.

    `cnn` has its dense layer of `image.units` inside the encoder. The features of all other encoders are scaled to unit
    length and go through a linear one in the head.

    Args:
        image: settings of the tower; `image.encoder` is a name in `encoders.ENCODERS`.
        model: settings of the shared space.
        input_shape: shape of one image: pixels `(h, w, 3)`, or features `(d,)` or `(regions, d)` (default: the
            encoder's own size).
        name: name of the model.

    Raises:
        UserError: the settings name something that does not exist or does not fit.

    Example:
        >>> tower = image_tower_from_settings(settings.image, settings.model, (*view.size, 3))
    """
    kind, preset = split_encoder(image.encoder, "image.encoder")
    if input_shape is None:
        size = image_size(image)
        if size is None:
            raise UserError("image.encoder: features needs the shape of the precomputed features")
        input_shape = (*size, 3)
    fits = len(input_shape) in (1, 2) if kind == "features" else len(input_shape) == 3 and input_shape[-1] == 3
    if not fits:
        wanted = "features (d,) or (regions, d)" if kind == "features" else "pixels (h, w, 3)"
        raise UserError(f"image.encoder: {image.encoder} takes {wanted}, the data have shape {tuple(input_shape)}")
    module = encoder_module(image.encoder, "image.encoder")
    encoder = module.image_encoder(preset, image, input_shape, model.precision)
    head = head_options(model)
    if kind != "cnn":
        head |= {"feature_units": image.units, "normalize": True, "queries": image.queries}
        head["maximum"] = image.pooling == "attention_max"
    return build_image_tower(encoder, input_shape, model.dim, name=name, **head)


def image_size(image: ImageSettings, images: Images | None = None) -> tuple[int, int] | None:
    """Height and width of the images that the encoder takes.

    `image.size` if it is set, else the encoder's own: the size that an `applications` model was trained at, or that of
    a preset's image converter. `cnn` has none and takes the size of the images if they are arrays of one size.

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
    kind, preset = split_encoder(image.encoder, "image.encoder")
    if images is not None and (kind == "features") != (images.kind == "features"):
        if kind == "features":
            raise UserError("image.encoder: features needs precomputed features (data.source precomp), not images")
        raise UserError(f"image.encoder: {image.encoder} needs images; the data are features: give features")
    if kind == "features":
        return None
    if image.size is not None:
        height, width = (image.size, image.size) if isinstance(image.size, int) else image.size
        if min(height, width) < 1:
            raise UserError(f"image.size: {height}x{width} is not a size in pixels")
        return height, width
    size = None
    own_size = getattr(encoder_module(image.encoder, "image.encoder"), "image_size", None)
    if own_size is not None:
        size = own_size(preset)
    elif images is not None:
        size = array_size(images)
    if size is None:
        raise UserError(f"image.size: the encoder {image.encoder} has no size of its own; give one, e.g. 224")
    return size
