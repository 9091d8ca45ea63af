"""Image backbones from `keras.applications`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from vse_tf.config import ImageSettings
from vse_tf.downloads import downloads
from vse_tf.errors import UserError
from vse_tf.models.backbone_tail import CutBackbone, build_backbone
from vse_tf.models.backbones import ApplicationsPreprocessing, PretrainedBackbone, dtype_policy, first_line
from vse_tf.models.encoders import Encoder, nearest
from vse_tf.models.pooling import last_stages, pool_maps, rounded

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
_WITHOUT_NETWORK = (
    "without a network give a file of them (--image.weights FILE), a KerasHub preset's folder (--image.encoder "
    "hub:FOLDER), or train a small network from scratch (--image.encoder cnn)"
)


def applications() -> list[str]:
    """The names of the models of `keras.applications`."""
    return sorted(name for name, item in vars(keras.applications).items() if inspect.isfunction(item))


def image_size(name: str) -> tuple[int, int]:
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
    trainable: bool | int,
    precision: str,
    stages: int = 1,
    pooling: str = "mean",
) -> PretrainedBackbone | CutBackbone:
    """A model of `keras.applications` without its classifier: pixels to the mean of its last map.

    The reference code takes VGG19's feature from its second dense layer, fc7. Here it is the mean of the last
    convolution's map, as for all other models: 512 values instead of 4096, at any image size.

    Args:
        name: name of the model, for example `ResNet152`.
        weights: `imagenet` (which Keras downloads once), `none` (random), or a weights file without classifier.
        size: height and width of the images.
        trainable: the weights are fine-tuned, or the number of last blocks that are: see `build_backbone`.
        precision: numeric precision.
        stages: `image.stages`.
        pooling: `image.pooling`.

    Returns:
        A model named `backbone` from float32 RGB pixels `(batch, h, w, 3)` in 0..255 to float32 `(batch, d)`.

    Raises:
        UserError: no such model, its weights cannot be downloaded or loaded, it has fewer stages, or the images are too
            small.

    Example:
        >>> applications_backbone("EfficientNetB0", "imagenet", (224, 224), False, "float32")
    """
    constructor = _constructor(name)
    source = _weights(weights)
    with downloads(f"image.encoder applications:{name}: its weights", _WITHOUT_NETWORK):
        try:
            with dtype_policy(precision):
                network = constructor(include_top=False, weights=source, input_shape=(*size, 3))
        except Exception as error:  # HDF5's and Keras' own errors have no class in common
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
    feature = pool_maps(maps if stages > 1 else [maps], pooling)
    states = maps[0] if stages > 1 else maps
    where = f"image.trainable applications:{name}"
    return build_backbone(pixels, rounded(feature, trainable), states, trainable, where)


def _constructor(name: str) -> Callable[..., keras.Model]:
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
    """The network with the mean and variance of its input normalisation in the config instead of in weights.

    EfficientNetB0..B7 have them in variables, whose values a Keras layer reads when it is built, not when they change:
    a rebuilt network whose variables are assigned would run with mean 0 and variance 1.

    ImageNet's weights hold the standard deviation in place of the variance, and Keras divides by its root once more,
    but only with `weights="imagenet"`: the same weights from a file need that here.
    """
    rescaled = any(isinstance(layer, keras.layers.Rescaling) and np.ndim(layer.scale) for layer in network.layers)

    def constant(layer: keras.layers.Layer) -> keras.layers.Layer:
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


def image_encoder(name: str, image: ImageSettings, input_shape: tuple[int, ...], precision: str) -> Encoder:
    """The encoder that the settings describe."""
    size = (input_shape[0], input_shape[1])
    return applications_backbone(
        name, image.weights, size, image.trainable, precision, stages=image.stages, pooling=image.pooling
    )
