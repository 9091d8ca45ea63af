"""Layers for token ids and states of which some are padding."""

from __future__ import annotations

from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from vse_tf.models.layer_types import LayerOptions, Shape


@keras.saving.register_keras_serializable(package="vse_tf")
class SplitPadding(keras.layers.Layer):
    """Splits token ids with negative padding into valid ids and a mask.

    Args:
        value: id that replaces the padding.

    Call arguments:
        inputs: int `(batch, length)`; ids below 0 are padding.

    Call returns:
        int32 `(batch, length)` and bool `(batch, length)`, true at tokens.

    Example:
        >>> SplitPadding()(np.array([[5, 7, -1]]))
        [[5, 7, 0]], [[True, True, False]]
    """

    def __init__(self, value: int = 0, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.value = value

    def call(self, inputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        ids = ops.cast(inputs, "int32")
        mask = ops.greater_equal(ids, 0)
        return ops.where(mask, ids, self.value), mask

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "value": self.value}


@keras.saving.register_keras_serializable(package="vse_tf")
class FillPadding(keras.layers.Layer):
    """Fills token ids with negative padding up to one length with a token, as SigLIP was trained.

    Args:
        length: length of the result; longer inputs are truncated.
        value: id of the token.

    Call arguments:
        inputs: int `(batch, any length)`; ids below 0 are padding.

    Call returns:
        int32 `(batch, length)`.
    """

    def __init__(self, length: int, value: int, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**kwargs)
        self.length = length
        self.value = value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        ids = ops.cast(inputs, "int32")
        ids = ops.where(ops.greater_equal(ids, 0), ids, self.value)
        return ops.pad(ids, [[0, 0], [0, self.length]], constant_values=self.value)[:, : self.length]

    def compute_output_spec(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return keras.KerasTensor((inputs.shape[0], self.length), "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length, "value": self.value}


class _MaskedLayer(keras.layers.Layer):
    """Base of the layers that read states `(batch, length, d)` and a mask `(batch, length)`, true at tokens."""

    def __init__(self, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def compute_output_shape(self, states_shape: Shape, valid_shape: Shape | None = None) -> Shape:
        return (states_shape[0], states_shape[-1])


@keras.saving.register_keras_serializable(package="vse_tf")
class MaskedMean(_MaskedLayer):
    """Mean of the states at tokens; zeros for a caption without any.

    Call arguments:
        states: `(batch, length, d)`.
        valid: bool `(batch, length)`, true at tokens.

    Call returns:
        float32 `(batch, d)`.
    """

    # The second argument is not called `mask`, which Keras would treat by itself.
    def call(self, states: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        valid = ops.expand_dims(valid, -1)
        count = ops.sum(ops.cast(valid, "float32"), axis=1)
        return ops.sum(ops.where(valid, states, 0.0), axis=1) / ops.maximum(count, 1.0)


@keras.saving.register_keras_serializable(package="vse_tf")
class MaskedMax(_MaskedLayer):
    """Maximum of the states at tokens; zeros for a caption without any. Arguments and result as `MaskedMean`."""

    def call(self, states: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        states = ops.where(ops.expand_dims(valid, -1), ops.cast(states, "float32"), -np.inf)
        return ops.where(ops.any(valid, axis=1, keepdims=True), ops.max(states, axis=1), 0.0)


@keras.saving.register_keras_serializable(package="vse_tf")
class ZeroPadding(_MaskedLayer):
    """The states at tokens and zeros at padding, float32 `(batch, length, d)`. Arguments as `MaskedMean`."""

    def call(self, states: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        return ops.where(ops.expand_dims(valid, -1), ops.cast(states, "float32"), 0.0)

    def compute_output_shape(self, states_shape: Shape, valid_shape: Shape | None = None) -> Shape:
        return states_shape
