"""What the pretrained backbones of both towers share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Unpack

import keras
import tensorflow as tf

from vse_tf.models.layer_types import LayerOptions, Shape


@keras.saving.register_keras_serializable(package="vse_tf")
class PretrainedBackbone(keras.Model):
    """A pretrained model from the input of a tower to features, frozen or trainable.

    It consists of the preset's preprocessing, the pretrained network and the pooling, so it can be used alone, for
    example to cache features. If it is frozen it runs in inference mode even inside a training step: BatchNorm does not
    change its statistics and there is no dropout (Keras itself passes `training=True` to frozen layers too).

    A functional model: `PretrainedBackbone(inputs, outputs, name=…, trainable=…)`.

    Attributes:
        resting: it is trainable but not trained for now: inference mode too; see `DualEncoder.rest`.
    """

    resting = False

    def __init__(self, *args: Any, trainable: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not trainable:
            self.freeze()

    def freeze(self) -> None:
        """Make all weights non-trainable.

        Keras does not pass an unchanged `trainable` on to sublayers, and networks rebuilt from a config have trainable
        layers inside frozen ones; so it is set for each layer.
        """
        for layer in self._flatten_layers():
            layer.trainable = False

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        return super().call(inputs, training=training if self.trainable and not self.resting else False, mask=mask)


@keras.saving.register_keras_serializable(package="vse_tf")
class BackboneTail(keras.Model):
    """The last blocks of a pretrained backbone, which are trained: from the states where it is cut to its feature.

    Batch normalisation is frozen and runs in inference mode, as in the frozen part before it; dropout does not.

    A functional model: `BackboneTail(inputs, outputs, name=…)`.

    Attributes:
        resting: as of `PretrainedBackbone`.
    """

    resting = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layers = self._flatten_layers(include_self=False)
        # Setting a layer's `trainable` sets that of the layers in it.
        for layer in sorted(layers, key=lambda each: isinstance(each, keras.layers.BatchNormalization)):
            layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)

    def call(self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None) -> tf.Tensor:
        return super().call(inputs, training=False if self.resting else training, mask=mask)


@keras.saving.register_keras_serializable(package="vse_tf")
class ApplicationsPreprocessing(keras.layers.Layer):
    """The `preprocess_input` of a family of `keras.applications`, as a layer of TensorFlow's core ops.

    Args:
        family: module of `keras.applications`, for example `resnet_v2`.

    Call arguments:
        inputs: float32 `(batch, h, w, 3)`, RGB in 0..255.

    Call returns:
        float32 `(batch, h, w, 3)` as the family's networks expect it.
    """

    def __init__(self, family: str, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.family = family

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return getattr(keras.applications, self.family).preprocess_input(inputs, data_format="channels_last")

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "family": self.family}


def backbone_of(tower: keras.Model) -> PretrainedBackbone | None:
    """The pretrained backbone of a tower; None if its encoder is trained from scratch or its features are precomputed.

    Args:
        tower: an image or text tower.

    Example:
        >>> backbone_of(image_tower).trainable
        False
    """
    return next((layer for layer in tower.layers if isinstance(layer, PretrainedBackbone)), None)


def tail_of(tower: keras.Model) -> BackboneTail | None:
    """The part of a tower's pretrained backbone that is trained on the states of its frozen part; None without one.

    Args:
        tower: an image or text tower.

    Example:
        >>> [variable.path for variable in tail_of(text_tower).trainable_variables]
    """
    return next((layer for layer in tower._flatten_layers() if isinstance(layer, BackboneTail)), None)


def fine_tuned(tower: keras.Model) -> list[keras.Variable]:
    """The weights of a tower's pretrained backbone that are trained.

    Args:
        tower: an image or text tower.
    """
    parts = (backbone_of(tower), tail_of(tower))
    return [variable for part in parts if part for variable in part.trainable_variables]


def first_line(error: BaseException) -> str:
    """An exception's type and the first line of its message, for an error message of one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Set the precision of layers built inside the block, for constructors without `dtype`."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
