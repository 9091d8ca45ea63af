"""The relevance of a retrieval model's hits, computed in its graph; see `vse_tf.indexing.relevance`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from vse_tf.artifacts.calibration import STEPS, Calibration
from vse_tf.indexing.relevance import backgrounds, hubness, sample
from vse_tf.models.folding import Floats, search_queries
from vse_tf.models.mixing import Of

# Items that are compared with the background at a time.
BLOCK = 4096


class ServedRelevance(tf.Module):
    """From the scores of hits to their relevance.

    An item's mean score with its nearest background queries is one number, so the background itself is not exported.

    Args:
        hubness: that of each item of the gallery, float32 `(n,)`, by what a query is of.
        levels: see `Calibration`.

    Example:
        >>> relevance = ServedRelevance(item_hubness(vectors, calibration, "images", 128), calibration.levels)
        >>> relevance(rows, scores, {"captions": tf.constant([[True]])}, known=tf.constant([True])).shape
        TensorShape([1, 10])
    """

    def __init__(self, hubness: Mapping[Of, Floats], levels: Mapping[Of, list[float]]) -> None:
        super().__init__(name="relevance")
        self.hubness = {of: tf.Variable(values, trainable=False) for of, values in hubness.items()}
        self.levels = {of: tf.Variable(np.array(levels[of], np.float64), trainable=False) for of in hubness}

    def __call__(
        self, rows: tf.Tensor, scores: tf.Tensor, of: Mapping[Of, tf.Tensor], known: tf.Tensor | None
    ) -> tf.Tensor | None:
        """The relevance of hits.

        Args:
            rows: their rows, int32 `(n, k)`.
            scores: their scores, float32 `(n, k)`.
            of: what each query may be of, and whether it is, bool `(n, 1)`.
            known: whether a query has a word of the vocabulary, bool `(n,)`; None: all have.

        Returns:
            float32 `(n, k)`; None where the gallery is not calibrated for such queries.
        """
        if not of.keys() <= self.levels.keys():
            return None
        found = tf.zeros_like(scores)
        for kind, is_kind in of.items():
            values = tf.cast(scores - tf.gather(self.hubness[kind], rows), tf.float64)
            found = tf.where(is_kind, tf.cast(_share_below(values, self.levels[kind]), tf.float32), found)
        return found if known is None else tf.where(known[:, None], found, 0.0)


def item_hubness(vectors: Floats, calibration: Calibration, kind: str, plain_dim: int) -> dict[Of, Floats]:
    """Each item's mean score with its nearest background queries, by what a query is of.

    Args:
        vectors: those of the gallery, float32 `(n, dim)`.
        calibration: what a score means in it.
        kind: `images` or `captions`.
        plain_dim: dimensions of the space.
    """
    found = backgrounds(vectors[sample(len(vectors))], calibration.texts, kind, plain_dim)
    values: dict[Of, Floats] = {}
    for of, queries in found.items():
        if of in calibration.levels:
            searched = search_queries(queries, kind, plain_dim)
            blocks = [hubness(vectors[at : at + BLOCK], searched) for at in range(0, len(vectors), BLOCK)]
            values[of] = np.concatenate(blocks).astype(np.float32)
    return values


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
