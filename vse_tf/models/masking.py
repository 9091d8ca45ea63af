"""Layers for token ids of which some are padding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="vse_tf")
class SplitPadding(keras.layers.Layer):
    """Token ids with negative padding to valid ids and a mask.

    Args:
        value: id that stands where padding was.

    Call arguments:
        inputs: int `(batch, length)`; ids below 0 are padding.

    Returns:
        int32 `(batch, length)` and bool `(batch, length)`, true at tokens.

    Example:
        >>> SplitPadding()(np.array([[5, 7, -1]]))
        [[5, 7, 0]], [[True, True, False]]
    """

    def __init__(self, value: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value

    def call(self, inputs: Any) -> Any:
        ids = ops.cast(inputs, "int32")
        mask = ops.greater_equal(ids, 0)
        return ops.where(mask, ids, self.value), mask

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "value": self.value}


@keras.saving.register_keras_serializable(package="vse_tf")
class FillPadding(keras.layers.Layer):
    """Token ids with negative padding to rows of one length, filled up with a token, as SigLIP was trained.

    Args:
        length: length of the rows; longer ones are cut.
        value: id that fills them.

    Call arguments:
        inputs: int `(batch, any length)`; ids below 0 are padding.

    Returns:
        int32 `(batch, length)`.
    """

    def __init__(self, length: int, value: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length
        self.value = value

    def call(self, inputs: Any) -> Any:
        ids = ops.cast(inputs, "int32")
        ids = ops.where(ops.greater_equal(ids, 0), ids, self.value)
        return ops.pad(ids, [[0, 0], [0, self.length]], constant_values=self.value)[:, : self.length]

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        return keras.KerasTensor((inputs.shape[0], self.length), "int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "length": self.length, "value": self.value}


@keras.saving.register_keras_serializable(package="vse_tf")
class MaskedMean(keras.layers.Layer):
    """Mean of the states at tokens, in float32; zeros for a row without any.

    Call arguments:
        states: `(batch, length, d)`.
        valid: bool `(batch, length)`, true at tokens.

    Returns:
        float32 `(batch, d)`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, states: Any, valid: Any) -> Any:
        valid = ops.expand_dims(valid, -1)
        count = ops.sum(ops.cast(valid, "float32"), axis=1)
        return ops.sum(ops.where(valid, states, 0.0), axis=1) / ops.maximum(count, 1.0)

    def compute_output_shape(self, states_shape: Any, valid_shape: Any = None) -> Any:
        return (states_shape[0], states_shape[-1])


@keras.saving.register_keras_serializable(package="vse_tf")
class MaskedMax(MaskedMean):
    """Maximum of the states at tokens, in float32; zeros for a row without any. Calls as `MaskedMean` does."""

    def call(self, states: Any, valid: Any) -> Any:
        states = ops.where(ops.expand_dims(valid, -1), ops.cast(states, "float32"), -np.inf)
        return ops.where(ops.any(valid, axis=1, keepdims=True), ops.max(states, axis=1), 0.0)


@keras.saving.register_keras_serializable(package="vse_tf")
class ZeroPadding(MaskedMean):
    """The states at tokens, float32 `(batch, length, d)`; zeros elsewhere. Calls as `MaskedMean` does."""

    def call(self, states: Any, valid: Any) -> Any:
        return ops.where(ops.expand_dims(valid, -1), ops.cast(states, "float32"), 0.0)

    def compute_output_shape(self, states_shape: Any, valid_shape: Any = None) -> Any:
        return states_shape
