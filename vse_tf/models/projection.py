"""From a feature to the shared space: the projection head and the unit norm."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from vse_tf.config import ModelSettings
from vse_tf.models.attention_pooling import AttentionPooling


@keras.saving.register_keras_serializable(package="vse_tf")
class L2Normalize(keras.layers.Layer):
    """Scales vectors to unit length, always in float32.

    `y = x / ‖x‖`. A vector shorter than `epsilon` has no direction: it gives zeros and passes no gradient, instead of
    the 1/epsilon-fold one of `x / max(‖x‖, epsilon)`. NaN and infinite components stay visible as NaN.

    Args:
        epsilon: vectors shorter than this count as zero.

    Call arguments:
        inputs: `(…, dim)`, any float type.

    Returns:
        float32 `(…, dim)`.

    Example:
        >>> L2Normalize()(np.array([[3.0, 4.0], [0.0, 0.0]]))
        [[0.6, 0.8], [0.0, 0.0]]
    """

    def __init__(self, epsilon: float = 1e-12, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.epsilon = epsilon

    def call(self, inputs: Any) -> Any:
        squares = ops.sum(ops.square(inputs), axis=-1, keepdims=True)
        usable = squares > self.epsilon**2
        # The inner `where` keeps the gradient of the branch that is not taken finite.
        return inputs * ops.where(usable, ops.rsqrt(ops.where(usable, squares, 1.0)), 0.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}


def build_head(
    feature_shape: tuple[int | None, ...],
    model: ModelSettings,
    units: int = 0,
    normalize: bool = False,
    queries: int = 4,
    name: str = "head",
) -> keras.Model:
    """The part of a tower behind its encoder: feature to unit vector.

    [l2 →] [Dense(units) →] [dropout →] Dense(head_units, no bias) → ReLU → Dense(dim) → l2. With `model.head` false a
    single Dense(dim) stands in for the two. Kernels are Glorot uniform, biases zero. Source: the reference code of
    arXiv 2110.08872. In front of all that, vectors `(n, d)` are pooled: see `AttentionPooling`; each average is of unit
    length, and all of them side by side are the feature.

    Args:
        feature_shape: shape of the encoder's feature, `(d,)` or `(n, d)`.
        model: settings of the shared space.
        units: width of the linear layer in front of the head; 0 leaves it out.
        normalize: bring the feature to unit length first, as the method does with a pretrained image backbone's.
        queries: of vectors `(n, d)`: number of averages.
        name: name of the model.

    Returns:
        A model from `(batch, *feature_shape)` to float32 unit vectors `(batch, model.dim)`.

    Example:
        >>> build_head((1280,), ModelSettings(dim=256), units=1024, normalize=True)(features).shape
        (32, 256)
    """
    dtype = model.precision
    feature = x = keras.Input(feature_shape, name="feature")
    if len(feature_shape) > 1:
        x = L2Normalize(name="pooling_norm")(AttentionPooling(queries, name="pooling")(x))
        x = keras.layers.Flatten(dtype="float32", name="pooled")(x)
    if normalize:
        x = L2Normalize(name="feature_norm")(x)
    if units:
        x = keras.layers.Dense(units, dtype=dtype, name="head_units")(x)
    if model.dropout:
        x = keras.layers.Dropout(model.dropout, dtype=dtype, name="head_dropout")(x)
    if model.head:
        x = keras.layers.Dense(model.head_units, use_bias=False, activation="relu", dtype=dtype, name="head_hidden")(x)
    x = keras.layers.Dense(model.dim, dtype=dtype, name="head_output")(x)
    return keras.Model(feature, L2Normalize(name="embedding")(x), name=name)


def head_of(tower: keras.Model) -> keras.Model:
    """The head of a tower: it takes what the tower's encoder gives and shares the tower's weights.

    Where the encoder is frozen, its features can be computed once and the head trained on them; the tower has then
    learned it.

    Args:
        tower: an image or text tower.

    Returns:
        A model from features `(batch, d)` to float32 unit vectors `(batch, dim)`.

    Example:
        >>> features = backbone_of(tower).predict(pixels)
        >>> head_of(tower)(features)  # = tower(pixels)
    """
    return tower.get_layer("head")
