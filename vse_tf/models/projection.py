"""From a feature to the shared space: the projection head and the unit norm."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack

import keras
import tensorflow as tf
from keras import ops

from vse_tf.config import ModelSettings
from vse_tf.models.attention_pooling import AttentionPooling
from vse_tf.models.layer_types import LayerOptions, Shape


@keras.saving.register_keras_serializable(package="vse_tf")
class L2Normalize(keras.layers.Layer):
    """Scales vectors to unit length, always in float32.

    `y = x / ‖x‖`. A vector shorter than `epsilon` has no direction: the result is zero without a gradient, while
    `x / max(‖x‖, epsilon)` would multiply the gradient by 1/epsilon. NaN and infinite components give NaN.

    Args:
        epsilon: shorter vectors count as zero.

    Call arguments:
        inputs: `(…, dim)`, any float type.

    Call returns:
        float32 `(…, dim)`.

    Example:
        >>> L2Normalize()(np.array([[3.0, 4.0], [0.0, 0.0]]))
        [[0.6, 0.8], [0.0, 0.0]]
    """

    def __init__(self, epsilon: float = 1e-12, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.epsilon = epsilon

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        squares = ops.sum(ops.square(inputs), axis=-1, keepdims=True)
        usable = squares > self.epsilon**2
        # The inner `where` makes the gradient of the branch that is not taken finite.
        return inputs * ops.where(usable, ops.rsqrt(ops.where(usable, squares, 1.0)), 0.0)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


class HeadOptions(TypedDict, total=False):
    """Optional arguments of `build_head`."""

    head_units: int | None
    feature_units: int
    normalize: bool
    queries: int
    maximum: bool
    dropout: float
    precision: str


def build_head(
    feature_shape: Shape,
    dim: int = 1024,
    *,
    head_units: int | None = 2048,
    feature_units: int = 0,
    normalize: bool = False,
    queries: int = 4,
    maximum: bool = False,
    dropout: float = 0.0,
    precision: str = "float32",
    tail: keras.Model | None = None,
    name: str = "head",
) -> keras.Model:
    """Build the part of a tower after its encoder: feature to unit vector.

    `[l2 →] [Dense(feature_units) →] [dropout →] Dense(head_units, no bias) → ReLU → Dense(dim) → l2`. Kernels are
    Glorot uniform, biases zero. Vectors `(n, d)` are pooled first, see `AttentionPooling`: the averages, each of unit
    length, are concatenated. Source: the reference code of arXiv 2110.08872.

    Args:
        feature_shape: shape of the encoder's feature, `(d,)` or `(n, d)`.
        dim: dimensions of the result.
        head_units: width of the hidden layer; 0 for a single Dense(dim) without hidden layer; None for no layer at
            all: the feature, pooled if it is vectors, is scaled to unit length and has its own dimensions.
        feature_units: width of the linear layer before the head; 0 for none.
        normalize: scale the feature to unit length first, as the method does for a pretrained image backbone.
        queries: number of averages of vectors `(n, d)`.
        maximum: pool vectors `(n, d)` to their maximum too.
        dropout: dropout rate before the head.
        precision: numeric precision, a Keras dtype policy.
        tail: trained part of the backbone, which comes first; `feature_shape` is that of its input.
        name: name of the model.

    Returns:
        A model from `(batch, *feature_shape)` to float32 unit vectors `(batch, dim)`.

    Example:
        >>> build_head((1280,), 256, feature_units=1024, normalize=True)(features).shape
        (32, 256)
    """
    feature = x = keras.Input(feature_shape, name="feature")
    if tail is not None:
        x = tail(x)
    if len(x.shape) > 2:
        x = L2Normalize(name="pooling_norm")(AttentionPooling(queries, maximum, name="pooling")(x))
        x = keras.layers.Flatten(dtype="float32", name="pooled")(x)
    if head_units is None:
        return keras.Model(feature, L2Normalize(name="embedding")(x), name=name)
    if normalize:
        x = L2Normalize(name="feature_norm")(x)
    if feature_units:
        x = keras.layers.Dense(feature_units, dtype=precision, name="feature_units")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, dtype=precision, name="head_dropout")(x)
    if head_units:
        x = keras.layers.Dense(head_units, use_bias=False, activation="relu", dtype=precision, name="head_units")(x)
    x = keras.layers.Dense(dim, dtype=precision, name="head_output")(x)
    return keras.Model(feature, L2Normalize(name="embedding")(x), name=name)


def head_options(model: ModelSettings) -> HeadOptions:
    """The arguments of `build_head` that the settings of the shared space give."""
    return {
        "head_units": None if model.head == "none" else model.head_units if model.head else 0,
        "dropout": model.dropout,
        "precision": model.precision,
    }


def head_of(tower: keras.Model) -> keras.Model:
    """The head of a tower. It takes the features of the tower's encoder and shares the tower's weights.

    The features of a frozen encoder can be computed once; training the head on them trains the tower. Of a backbone
    whose last blocks are trained, these belong to the head.

    Args:
        tower: an image or text tower.

    Returns:
        A model from features `(batch, d)` to float32 unit vectors `(batch, dim)`.

    Example:
        >>> features = backbone_of(tower).predict(pixels)
        >>> head_of(tower)(features)  # = tower(pixels)
    """
    return tower.get_layer("head")
