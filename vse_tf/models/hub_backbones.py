"""Pretrained backbones from KerasHub presets, for both towers. Importing this module takes 3 to 13 s.

Some backbones of KerasHub (EfficientNet, CLIP in a dual preset) do not pass a `dtype` on to their layers: they stay
float32 under mixed precision, both when trained and when rebuilt from a config.
"""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any, Unpack

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from keras_hub.src.utils.preset_utils import load_json

from vse_tf.addresses import is_address
from vse_tf.config import ImageSettings, TextSettings
from vse_tf.downloads import preset_downloads
from vse_tf.errors import UserError
from vse_tf.files import read_json
from vse_tf.models.backbone_tail import CutBackbone, build_backbone
from vse_tf.models.backbones import PretrainedBackbone, first_line
from vse_tf.models.encoders import Encoder, nearest
from vse_tf.models.layer_types import LayerOptions
from vse_tf.models.masking import FillPadding, SplitPadding
from vse_tf.models.pooling import last_stages, pool, pool_maps, pool_tokens, rounded, spread_states
from vse_tf.remote.copies import local_path

_LOGITS = {"logit_scale", "logit_bias"}
_TEXT_INPUTS = {"token_ids", "padding_mask", "segment_ids"}


@keras.saving.register_keras_serializable(package="vse_tf")
class ClassToken(keras.layers.Layer):
    """The first state of `(batch, tokens, d)`, as float32 `(batch, d)`."""

    def __init__(self, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs[:, 0]


def image_size(preset: str) -> tuple[int, int] | None:
    """Height and width that a preset's image converter, or else its backbone, expects; None if neither has a size.

    Args:
        preset: preset name, handle or folder.

    Raises:
        UserError: there is no such preset, or it has no image converter.
    """
    size = _image_converter(preset).image_size
    if size is None:
        network = _network(preset, "image.encoder", "float32", load_weights=False)
        size = _image_shape(network)
    return (int(size[0]), int(size[1])) if size and None not in size else None


def hub_image_backbone(
    preset: str,
    size: tuple[int, int],
    trainable: bool | int,
    precision: str,
    stages: int = 1,
    pooling: str = "mean",
) -> PretrainedBackbone | CutBackbone:
    """An image backbone of KerasHub with the scaling of its preset: pixels to one feature vector.

    For a CLIP or SigLIP preset it is the vector that the preset itself compares with texts, for a vision transformer
    with a class token that token, and for all others the mean of the last map or of the tokens. The scaling is that of
    the preset's image converter; the images have the encoder's size already (see `vse_tf.preprocessing.images`).

    Args:
        preset: preset name (`resnet_50_imagenet`), handle (`hf://…`, `kaggle://…`) or folder.
        size: height and width of the images.
        trainable: the weights are fine-tuned, or the number of last blocks that are: see `build_backbone`.
        precision: numeric precision.
        stages: `image.stages`.
        pooling: `image.pooling`; ignored if the vector is the preset's own or the class token.

    Returns:
        A model named `backbone` from float32 RGB pixels `(batch, h, w, 3)` in 0..255 to float32 `(batch, d)`.

    Raises:
        UserError: there is no such preset, or it is not an image model, has another size or fewer stages.

    Example:
        >>> hub_image_backbone("resnet_50_imagenet", (224, 224), trainable=False, precision="float32")
    """
    converter = _image_converter(preset)
    network = _network(preset, "image.encoder", precision)
    dual = hasattr(network, "get_vision_embeddings")
    if not dual and len(network.inputs) != 1:
        raise UserError(f"image.encoder: preset {preset!r} ({type(network).__name__}) is not an image encoder")
    shape = _image_shape(network)
    if any(ours != own for ours, own in zip(size, shape, strict=True) if own is not None):
        network = _resized(preset, network, size, shape, precision)
    pixels = keras.Input((*size, 3), name="pixels")
    # As JSON stores them: floats, or lists of floats.
    scale = np.asarray(1.0 if converter.scale is None else converter.scale, np.float64).tolist()
    offset = np.asarray(0.0 if converter.offset is None else converter.offset, np.float64).tolist()
    x = keras.layers.Rescaling(scale, offset, dtype="float32", name="preprocessing")(pixels)
    if stages > 1 and not dual:
        maps = last_stages(_states(network), stages, f"preset {preset!r}")
        found = keras.Model(network.input, maps, name=network.name)(x)
        states, feature = found[0], pool_maps(found, pooling)
    elif stages > 1:
        raise UserError(f"image.stages: {stages}, but preset {preset!r} gives a vector, no maps; set it to 1")
    elif dual:
        states = network.get_vision_embeddings(x)
        feature = pool(states)
    else:
        states, feature = _image_feature(network, x, size, pooling)
    where = f"image.trainable preset {preset!r}"
    return build_backbone(pixels, rounded(feature, trainable), states, trainable, where)


def hub_text_backbone(
    preset: str,
    max_tokens: int,
    trainable: bool | int,
    precision: str,
    stages: int = 1,
    pooling: str = "mean",
) -> PretrainedBackbone | CutBackbone:
    """A text backbone of KerasHub: token ids to one feature vector.

    For a CLIP or SigLIP preset it is the vector that the preset itself compares with images (CLIP: the state at the end
    token; SigLIP: at the last position, captions filled up as in its training), for all others the mean of the states
    at tokens.

    Args:
        preset: preset name (`bert_small_en_uncased`), handle (`hf://…`, `kaggle://…`) or folder.
        max_tokens: length of the longest caption.
        trainable: the weights are fine-tuned, or the number of last blocks that are: see `build_backbone`.
        precision: numeric precision.
        stages: `text.stages`.
        pooling: `text.pooling`; ignored if the vector is the preset's own.

    Returns:
        A model named `backbone` from int32 `(batch, length)`, −1 as padding, to float32 `(batch, d)`. More padding
        does not change them.

    Raises:
        UserError: there is no such preset, or it is not a text encoder, has fewer layers, or fewer positions than
            `max_tokens`.

    Example:
        >>> hub_text_backbone("bert_small_en_uncased", max_tokens=64, trainable=False, precision="float32")
    """
    network = _network(preset, "text.encoder", precision)
    dual = hasattr(network, "get_text_embeddings")
    inputs = {tensor.name for tensor in network.inputs}
    if not dual and not {"token_ids", "padding_mask"} <= inputs <= _TEXT_INPUTS:
        raise UserError(f"text.encoder: preset {preset!r} ({type(network).__name__}) is not a text encoder with a mask")
    limit = getattr(network.text_encoder if dual else network, "max_sequence_length", None)
    if limit is not None and max_tokens > limit:
        raise UserError(f"text.max_tokens: {max_tokens}, but preset {preset!r} reads {limit}; give {limit} or less")
    if stages > 1 and dual:
        raise UserError(f"text.stages: {stages}, but preset {preset!r} gives a vector, no states; set it to 1")
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    where = f"text.trainable preset {preset!r}"
    if type(network).__name__ == "SigLIPBackbone" and limit is not None:
        filled = FillPadding(limit, _padding_id(preset), name="fill_padding")(ids)
        states = network.get_text_embeddings(filled)
        return build_backbone(ids, pool(states), states, trainable, where)
    tokens, mask = SplitPadding(name="split_padding")(ids)
    if dual:
        states = network.get_text_embeddings(tokens)
        feature = pool(states)
    else:
        feeds = {"token_ids": tokens, "padding_mask": keras.ops.cast(mask, "int32")}
        if "segment_ids" in inputs:
            feeds["segment_ids"] = keras.ops.zeros_like(tokens)
        network = _states(network)
        if stages > 1:
            every = spread_states(network, stages, f"preset {preset!r}")
            network = keras.Model(network.input, every, name=network.name)
        found = network(feeds) if stages > 1 else [network(feeds)]
        states, feature = found[0], pool_tokens(found, mask, pooling)
    return build_backbone(ids, rounded(feature, trainable), states, trainable, where)


def logit_scaling(preset: str) -> tuple[float, float | None]:
    """The temperature, and the bias if there is one, that a CLIP or SigLIP preset compares its vectors with.

    Args:
        preset: preset name, handle or folder.

    Raises:
        UserError: there is no such preset, or it does not compare images with texts.

    Example:
        >>> logit_scaling("siglip_base_patch16_224")
        (0.00853, -12.93)
    """
    network = _network(preset, "loss.temperature", "float32")
    found = {variable.name: float(variable) for variable in network.weights if variable.name in _LOGITS}
    if "logit_scale" not in found:
        raise UserError(
            f"loss.temperature: preset, but {preset!r} ({type(network).__name__}) does not compare images with texts "
            "and has none; give a number"
        )
    return math.exp(-found["logit_scale"]), found.get("logit_bias")


def _image_shape(network: keras.Model) -> tuple[int | None, int | None]:
    inputs = [tensor for tensor in network.inputs if len(tensor.shape) == 4]
    return tuple(inputs[0].shape[1:3]) if inputs else (None, None)


def _resized(preset: str, network: keras.Model, size: tuple[int, int], shape: tuple, precision: str) -> keras.Model:
    """The network for another image size, if its weights allow it."""
    wrong = f"image.size: {size[0]}x{size[1]}, but preset {preset!r} takes {shape[0]}x{shape[1]}; leave image.size out"
    parameters = inspect.signature(type(network).__init__).parameters
    if "image_shape" not in parameters:
        raise UserError(wrong)
    try:
        return _network(preset, "image.encoder", precision, image_shape=(*size, 3))
    except UserError as error:
        raise UserError(wrong) from error


def _image_feature(
    network: keras.Model, x: keras.KerasTensor, size: tuple[int, int], pooling: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The states of a network, and the feature that they are pooled to."""
    struct = network.input
    output = _states(network)(dict.fromkeys(struct, x) if isinstance(struct, dict) else x)
    patch = getattr(network, "patch_size", None)
    if len(output.shape) == 3 and patch is not None:
        height, width = (patch, patch) if isinstance(patch, int) else patch
        grid = (size[0] // height) * (size[1] // width)
        # More tokens than patches: a class token (and perhaps registers) come first.
        prefixed = output.shape[1] is None or output.shape[1] > grid
        if getattr(network, "use_class_token", prefixed):
            return output, ClassToken(name="pooling")(output)
    return output, pool_maps([output], pooling)


def _states(network: keras.Model) -> keras.Model:
    """The network up to its states, or up to the last of a pyramid of maps.

    Layers behind them (BERT's pooler) would have no gradient, and their weights would be stored for nothing.
    """
    outputs = network.output
    if not isinstance(outputs, dict):
        return network
    key = next((key for key in ("sequence_output", "last_hidden_state") if key in outputs), sorted(outputs)[-1])
    return keras.Model(network.input, outputs[key], name=network.name)


def _padding_id(preset: str) -> int:
    located = _located(preset, "text.encoder")
    with preset_downloads("text.encoder", preset):
        try:
            return int(keras_hub.tokenizers.Tokenizer.from_preset(located).pad_token_id)
        except Exception as error:  # as below
            raise UserError(
                f"text.encoder: preset {preset!r} needs its tokenizer's padding token; {first_line(error)}"
            ) from error


def _image_converter(preset: str) -> keras_hub.layers.ImageConverter:
    located = _located(preset, "image.encoder")
    with preset_downloads("image.encoder", preset):
        try:
            found = keras_hub.layers.ImageConverter.from_preset(located)
            return found or _converter_of_processor(located)
        except Exception as error:  # a missing file's and Keras' own errors have no class in common
            raise UserError(
                f"image.encoder: preset {preset!r} has no image converter, which holds the scaling of its pixels; "
                f"{first_line(error)}"
            ) from error


def _converter_of_processor(located: str) -> keras_hub.layers.ImageConverter:
    """The image converter that a model of `transformers` was saved with; KerasHub reads that of some families only."""
    name = "preprocessor_config.json"
    settings = read_json(Path(located) / name) if Path(located).is_dir() else load_json(located, name)
    scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    mean, deviation = np.zeros(3), np.ones(3)
    if settings.get("do_normalize", True):
        mean, deviation = np.array(settings["image_mean"]), np.array(settings["image_std"])
    size = settings["crop_size"] if settings.get("do_center_crop") else settings["size"]
    sides = [size, size] if isinstance(size, int) else [size[key] for key in ("height", "width")]
    return keras_hub.layers.ImageConverter(tuple(sides), (scale / deviation).tolist(), (-mean / deviation).tolist())


def _network(preset: str, key: str, precision: str, **kwargs: Any) -> keras.Model:
    located = _located(preset, key)
    with preset_downloads(key, preset):
        try:
            network = keras_hub.models.Backbone.from_preset(located, dtype=precision, **kwargs)
        except Exception as error:  # as above
            raise UserError(f"{key}: preset {preset!r} cannot be loaded; {first_line(error)}") from error
    if all(layer.dtype_policy.name == "float32" for layer in network.layers):
        # Its layers ignore the precision: the network's own policy would only round the pixels.
        network.dtype_policy = keras.dtype_policies.get("float32")
    return network


def _located(preset: str, key: str) -> str:
    """The preset as KerasHub takes it, checked as far as possible without network access."""
    if is_address(preset):
        preset = str(local_path(preset))
    elif "://" in preset:
        return preset
    folder = Path(preset).expanduser()
    if folder.is_dir():
        try:
            read_json(folder / "config.json")
        except (OSError, ValueError) as error:
            raise UserError(f"{key}: folder {preset!r} is not a KerasHub preset; {first_line(error)}") from error
        return str(folder)
    names = keras_hub.models.Backbone.presets
    if preset in names:
        return preset
    hint = nearest(preset, names)
    raise UserError(f"{key}: no KerasHub preset or folder {preset!r}{hint}; give a preset's name or its folder")


def image_encoder(preset: str, image: ImageSettings, input_shape: tuple[int, ...], precision: str) -> Encoder:
    """The image encoder that the settings describe."""
    size = (input_shape[0], input_shape[1])
    return hub_image_backbone(preset, size, image.trainable, precision, image.stages, image.pooling)


def text_encoder(preset: str, text: TextSettings, vocabulary_size: int, precision: str) -> Encoder:
    """The text encoder that the settings describe; it reads the ids of the preset's own tokenizer."""
    return hub_text_backbone(preset, text.max_tokens, text.trainable, precision, text.stages, text.pooling)
