"""Towers as evaluation, search and export run them: an image's views averaged, the hubness correction appended."""

from __future__ import annotations

from typing import Any

import keras

from vse_tf.models.hubness import HubnessCorrection
from vse_tf.models.projection import L2Normalize


def mean_of_views(first: Any, second: Any) -> Any:
    """The vector of an image with two views: the mean of the views' unit vectors, scaled to unit length.

    Args:
        first: `(batch, dim)`.
        second: `(batch, dim)`.

    Returns:
        float32 `(batch, dim)`.
    """
    return L2Normalize()(first + second)


def inference_tower(tower: keras.Model, flip: bool = False, correction: HubnessCorrection | None = None) -> keras.Model:
    """A tower, or its head, with what inference adds to it; the weights are shared.

    Args:
        tower: a model with one input, whose output are unit vectors `(batch, dim)`.
        flip: take the mean over an image and its mirror image (`image.eval_views`), at twice the cost.
        correction: appends the hubness correction.

    Returns:
        A model from the same input to unit vectors `(batch, dim)`, or `(batch, dim + 4)` with a correction; the tower
        itself where nothing is added.

    Example:
        >>> inference_tower(image_tower, flip=True)(pixels).shape
        (32, 128)
    """
    if not flip and correction is None:
        return tower
    tensor = tower.inputs[0]
    inputs = keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=tensor.name)
    vectors = tower(inputs)
    if flip:
        vectors = mean_of_views(vectors, tower(keras.ops.flip(inputs, axis=2)))
    if correction is not None:
        vectors = correction(vectors)
    return keras.Model(inputs, vectors, name=tower.name)
