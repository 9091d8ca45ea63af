"""Pretrained backbones inside the towers: what they share, and those of `keras.applications`."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from vse_tf.errors import UserError
from vse_tf.models.pooling import kept, last_stages, pooled_together

# Sizes that the classes of keras.applications were trained at; all others: 224. Keras keeps them inside its functions.
_SIZES = {
    "EfficientNetB1": 240,
    "EfficientNetB2": 260,
    "EfficientNetB3": 300,
    "EfficientNetB4": 380,
    "EfficientNetB5": 456,
    "EfficientNetB6": 528,
    "EfficientNetB7": 600,
    "EfficientNetV2B1": 240,
    "EfficientNetV2B2": 260,
    "EfficientNetV2B3": 300,
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
    "InceptionResNetV2": 299,
    "InceptionV3": 299,
    "NASNetLarge": 331,
    "Xception": 299,
}
_IMAGENET_STDDEV = (0.229, 0.224, 0.225)


@keras.saving.register_keras_serializable(package="vse_tf")
class PretrainedBackbone(keras.Model):
    """A pretrained model from a tower's own input to an item's feature, frozen or trainable.

    It holds the preset's preprocessing, the pretrained network and the pooling, so it is of use alone: for a cache of
    features, for instance. While `trainable` is false it runs in inference mode even inside a training step: BatchNorm
    keeps its statistics, and no dropout is drawn (Keras itself hands `training=True` down to frozen layers too).

    A functional model: `PretrainedBackbone(inputs, outputs, name=…, trainable=…)`.
    """

    def __init__(self, *args: Any, trainable: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not trainable:
            self.freeze()

    def freeze(self) -> None:
        """Make all weights non-trainable.

        Layer by layer: Keras passes a `trainable` that changes nothing on to no sublayer, and networks rebuilt from a
        config come with trainable layers inside frozen ones.
        """
        for layer in self._flatten_layers():
            layer.trainable = False

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=training if self.trainable else False, mask=mask)


@keras.saving.register_keras_serializable(package="vse_tf")
class ApplicationsPreprocessing(keras.layers.Layer):
    """The `preprocess_input` of a family of `keras.applications`, as a layer of TensorFlow's core ops.

    Args:
        family: module of `keras.applications`, for example `resnet_v2`.

    Call arguments:
        inputs: float32 `(batch, h, w, 3)`, RGB in 0..255.

    Returns:
        float32 `(batch, h, w, 3)` as the family's networks expect it.
    """

    def __init__(self, family: str, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.family = family

    def call(self, inputs: Any) -> Any:
        return getattr(keras.applications, self.family).preprocess_input(inputs, data_format="channels_last")

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "family": self.family}


def backbone_of(tower: keras.Model) -> PretrainedBackbone | None:
    """The pretrained backbone of a tower; None where the tower's encoder is trained from scratch or precomputed.

    Args:
        tower: an image or text tower.

    Example:
        >>> backbone_of(image_tower).trainable
        False
    """
    return next((layer for layer in tower.layers if isinstance(layer, PretrainedBackbone)), None)


def split_encoder(encoder: str, key: str, plain: Iterable[str], prefixed: Iterable[str]) -> tuple[str, str]:
    """Split an encoder's setting into its kind and the name behind the colon.

    Args:
        encoder: the setting's value, for example `applications:VGG19`.
        key: the setting's key, for the message.
        plain: kinds that stand alone.
        prefixed: kinds that a name follows.

    Returns:
        Kind and name; the name of a plain kind is empty.

    Raises:
        UserError: it is none of them.

    Example:
        >>> split_encoder("hub:resnet_50_imagenet", "image.encoder", ["cnn"], ["hub"])
        ("hub", "resnet_50_imagenet")
    """
    kind, colon, name = encoder.partition(":")
    if (kind in prefixed and name) or (kind in plain and not colon):
        return kind, name
    forms = [*plain, *(f"{kind}:<name>" for kind in prefixed)]
    close = nearest(kind, [*plain, *prefixed])
    raise UserError(f"{key}: no encoder {encoder!r}{close}; give one of: {', '.join(forms)}")


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean a, b?` with the names that resemble this one; empty where none does."""
    names = list(names)
    lower = {candidate.lower(): candidate for candidate in names}
    found = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f" (did you mean {', '.join(found)}?)" if found else ""


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its message, for an error message of one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Layers built inside get this precision: for constructors that take no `dtype`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def applications() -> list[str]:
    """The names of the models of `keras.applications`."""
    return sorted(name for name, item in vars(keras.applications).items() if inspect.isfunction(item))


def applications_size(name: str) -> tuple[int, int]:
    """Height and width that the weights of a `keras.applications` model were trained at.

    Raises:
        UserError: there is no such model.
    """
    _constructor(name)
    size = _SIZES.get(name, 224)
    return size, size


def applications_backbone(
    name: str,
    weights: str,
    size: tuple[int, int],
    trainable: bool,
    precision: str,
    stages: int = 1,
    pooling: str = "mean",
) -> PretrainedBackbone:
    """A model of `keras.applications` without its classifier: pixels to the mean over its last map.

    (The reference code takes VGG19's feature from its second dense layer, fc7. Here as for every other model it is the
    mean of the last convolution's map: 512 values instead of 4096, at any image size.)

    Args:
        name: name of the model, for example `ResNet152`.
        weights: `imagenet` (downloaded once by Keras), `none` (random), or a file of weights without classifier.
        size: height and width of the images.
        trainable: the weights are fine-tuned.
        precision: numeric precision.
        stages: `image.stages`.
        pooling: `image.pooling`.

    Returns:
        A model named `backbone` from float32 RGB pixels `(batch, h, w, 3)` in 0..255 to float32 `(batch, d)`.

    Raises:
        UserError: no such model, the weights cannot be had or do not fit, it has fewer stages, or the images are too
            small.

    Example:
        >>> applications_backbone("EfficientNetB0", "imagenet", (224, 224), False, "float32")
    """
    constructor = _constructor(name)
    source = _weights(weights)
    try:
        with dtype_policy(precision):
            network = constructor(include_top=False, weights=source, input_shape=(*size, 3))
    except Exception as error:  # a download's, HDF5's and Keras' own errors have no class in common
        what = f"image.encoder applications:{name} at image.size {size[0]}x{size[1]}"
        if source is not None:
            what += f" with image.weights {weights!r} (a file must hold the model's weights without classifier)"
        raise UserError(f"{what}: {first_line(error)}") from error
    network = _with_constant_normalization(network)
    family = constructor.__module__.rpartition(".")[2]
    pixels = keras.Input((*size, 3), name="pixels")
    if stages > 1:
        network = keras.Model(network.input, last_stages(network, stages, f"applications:{name}"), name=network.name)
    maps = network(ApplicationsPreprocessing(family, name="preprocessing")(pixels))
    feature = pooled_together(maps if stages > 1 else [maps], pooling)
    return PretrainedBackbone(pixels, kept(feature, trainable), name="backbone", trainable=trainable)


def _constructor(name: str) -> Any:
    names = applications()
    if name not in names:
        hint = nearest(name, names)
        raise UserError(f"image.encoder: keras.applications has no model {name!r}{hint}; it has: {', '.join(names)}")
    return getattr(keras.applications, name)


def _weights(weights: str) -> str | None:
    if weights == "none":
        return None
    path = Path(weights).expanduser()
    if weights == "imagenet" or path.is_file():
        return weights if weights == "imagenet" else str(path)
    hint = nearest(weights, ["imagenet", "none"])
    raise UserError(f"image.weights: no file {weights!r}{hint}; give imagenet, none, or a weights file")


def _with_constant_normalization(network: keras.Model) -> keras.Model:
    """The same network with the mean and variance of its input normalisation in the config, not in weights.

    EfficientNetB0..B7 keep them in variables whose values a Keras layer takes over when it is built, not when they
    change: a rebuilt network whose variables are assigned would run with mean 0 and variance 1.

    ImageNet's weights hold the standard deviation in the variance's place, and Keras divides by its root once more,
    but only with `weights="imagenet"`: read from a file, the same weights need that here.
    """
    rescaled = any(isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) for layer in network.layers)

    def constant(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Normalization) or not layer.variables:
            return layer
        variance = np.ravel(layer.variance)
        if not rescaled and variance.shape == (3,) and np.allclose(variance, _IMAGENET_STDDEV, atol=1e-4):
            variance = np.square(_IMAGENET_STDDEV)
        return keras.layers.Normalization(
            axis=layer.axis,
            mean=np.ravel(layer.mean).astype(float).tolist(),
            variance=variance.astype(float).tolist(),
            dtype="float32",
            name=layer.name,
        )

    if not any(isinstance(layer, keras.layers.Normalization) and layer.variables for layer in network.layers):
        return network
    return keras.models.clone_model(network, clone_function=constant)
