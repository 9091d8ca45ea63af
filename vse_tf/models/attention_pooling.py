"""Learned pooling: which regions of an image or tokens of a caption count."""

from __future__ import annotations

from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from vse_tf.models.layer_types import LayerOptions, Shape


@keras.saving.register_keras_serializable(package="vse_tf")
class AttentionPooling(keras.layers.Layer):
    """Weighted averages of the vectors of an image or caption, one for each learned query.

    `y_q = Σ_n softmax_n(x_n · w_q) x_n` for each query w_q. Queries are initialised with zeros, which gives the mean.
    Zero vectors are padding and have no weight; padding alone gives zeros.

    Args:
        queries: number of queries.
        maximum: append the maximum of each channel over the vectors.

    Call arguments:
        inputs: `(batch, n, d)`, regions of a map or states of tokens.

    Call returns:
        float32 `(batch, queries, d)`, or `(batch, queries + 1, d)` with the maximum.

    Example:
        >>> AttentionPooling(4)(regions).shape
        (32, 4, 1408)
    """

    def __init__(self, queries: int = 4, maximum: bool = False, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.queries = queries
        self.maximum = maximum

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight((input_shape[-1], self.queries), "zeros", name="queries")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        valid = ops.any(ops.not_equal(inputs, 0.0), axis=-1, keepdims=True)
        scores = ops.where(valid, ops.matmul(inputs, self.kernel), -np.inf)
        # With padding alone no score is finite; the weights stay zero.
        some = ops.any(valid, axis=1, keepdims=True)
        weights = ops.exp(scores - ops.stop_gradient(ops.where(some, ops.max(scores, axis=1, keepdims=True), 0.0)))
        weights = weights / ops.where(some, ops.sum(weights, axis=1, keepdims=True), 1.0)
        averages = ops.matmul(ops.transpose(weights, (0, 2, 1)), inputs)
        if not self.maximum:
            return averages
        highest = ops.max(ops.where(valid, inputs, -np.inf), axis=1, keepdims=True)
        return ops.concatenate([averages, ops.where(some, highest, 0.0)], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.queries + self.maximum, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "queries": self.queries, "maximum": self.maximum}


@keras.saving.register_keras_serializable(package="vse_tf")
class GridNorm(keras.layers.Layer):
    """Scales the regions of an image by one factor, so that the mean of their squared lengths is 1.

    The regions keep their relative lengths. Zeros stay zeros.

    Call arguments:
        inputs: `(batch, n, d)`.

    Call returns:
        float32 `(batch, n, d)`.
    """

    def __init__(self, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        square = ops.mean(ops.sum(ops.square(inputs), axis=-1, keepdims=True), axis=1, keepdims=True)
        return inputs * ops.where(square > 0, ops.rsqrt(ops.where(square > 0, square, 1.0)), 0.0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape
