"""The relevance of a retrieval model's hits, computed in its graph; see `vse_tf.indexing.relevance`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from vse_tf.artifacts.calibration import STEPS
from vse_tf.models.mixing import Of


class ServedRelevance(tf.Module):
    """From the scores of hits to their relevance.

    Args:
        levels: see `Calibration`.

    Example:
        >>> relevance = ServedRelevance({"captions": list(np.linspace(0, 0.5, STEPS))})
        >>> relevance(tf.constant([[0.4, 0.1]]), {"captions": tf.constant([[True]])}, tf.constant([True])).numpy()
        array([[0.8, 0.2]], dtype=float32)
    """

    def __init__(self, levels: Mapping[Of, list[float]]) -> None:
        super().__init__(name="relevance")
        self.levels = {of: tf.Variable(np.array(levels[of], np.float64), trainable=False) for of in levels}

    def __call__(self, scores: tf.Tensor, of: Mapping[Of, tf.Tensor], known: tf.Tensor | None) -> tf.Tensor | None:
        """The relevance of hits.

        Args:
            scores: their scores, float32 `(n, k)`.
            of: what each query may be of, and whether it is, bool `(n, 1)`.
            known: whether a query has a word of the vocabulary, bool `(n,)`; None: all have.

        Returns:
            float32 `(n, k)`; None where the gallery is not calibrated for such queries.
        """
        if not of.keys() <= self.levels.keys():
            return None
        found, values = tf.zeros_like(scores), tf.cast(scores, tf.float64)
        for kind, is_kind in of.items():
            found = tf.where(is_kind, tf.cast(_share_below(values, self.levels[kind]), tf.float32), found)
        return found if known is None else tf.where(known[:, None], found, 0.0)


def _share_below(values: tf.Tensor, levels: tf.Variable) -> tf.Tensor:
    """As `np.interp(values, levels, np.linspace(0, 1, STEPS))`."""
    flat = tf.reshape(values, [-1])
    place = tf.searchsorted(levels, flat, side="right")
    before = tf.clip_by_value(place - 1, 0, STEPS - 2)
    low, high = tf.gather(levels, before), tf.gather(levels, before + 1)
    part = tf.math.divide_no_nan(flat - low, high - low)
    share = (tf.cast(before, tf.float64) + part) / (STEPS - 1)
    share = tf.where(place == 0, tf.zeros_like(share), tf.where(place == STEPS, tf.ones_like(share), share))
    return tf.reshape(share, tf.shape(values))
