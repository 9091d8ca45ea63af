"""The hinge of an anchor with its hardest negatives, which ConVSE++ and the triplet losses are made of."""

from __future__ import annotations

import numbers

import tensorflow as tf

from vse_tf.losses.base import Pairs, Scalar, check, check_margin, positive_similarity, scalar
from vse_tf.losses.blockwise import both_directions, hardest_negatives

GATHERED_NEGATIVES = 4
"""Up to this number, hardest negatives are searched first and compared again as vectors, so that the backward pass has
no matrix product; more of them would take more memory than the similarities."""


def check_hinge(margin: float, hardest: int | None, hardness: Scalar) -> None:
    """Raise a `ValueError` that names the argument which is out of range."""
    check_margin(margin)
    check("hardness", hardness, lambda number: 0 <= number <= 1, "a number from 0 to 1")
    if hardest is not None and (not isinstance(hardest, int) or isinstance(hardest, bool) or hardest < 1):
        raise ValueError(f"hardest must be an integer of at least 1, or None for all; got hardest={hardest}")


def hinges(pairs: Pairs, margin: float, hardest: int | None = 1, hardness: Scalar = 1.0) -> tf.Tensor:
    """The hinge max(0, m + S_negative - S_positive) of each pair, the sum of both directions.

    Args:
        pairs: the local pairs and the global batch.
        margin: margin m.
        hardest: number of hardest negatives whose mean counts; None takes all negatives.
        hardness: share of that mean in the result; the rest is the mean over all negatives.

    Returns:
        `(b,)`; 0 for an anchor without negatives.
    """
    check_hinge(margin, hardest, hardness)
    hardest_only = isinstance(hardness, numbers.Real) and hardness == 1
    if hardest_only and hardest is not None and hardest <= GATHERED_NEGATIVES:
        return _gathered_hinges(pairs, margin, hardest)

    def loss(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        hinge = hinge_matrix(margin, similarities, same, positive)
        negatives = tf.reduce_sum(tf.cast(~same, tf.float32), axis=1)
        of_all = tf.math.divide_no_nan(tf.reduce_sum(hinge, axis=1), negatives)
        if hardest is None:
            return of_all
        top = tf.math.top_k(hinge, tf.minimum(hardest, tf.shape(hinge)[1]), sorted=False)[0]
        of_hardest = tf.math.divide_no_nan(tf.reduce_sum(top, axis=1), tf.minimum(float(hardest), negatives))
        return of_hardest if hardest_only else tf.stack([of_all, of_hardest], axis=1)

    both = tf.add(*both_directions(loss, pairs))
    if both.shape.rank == 1:
        return both
    # Blended out here: a variable that is read inside the custom gradient of a block breaks graphs of unknown size.
    share = scalar(hardness)
    return (1.0 - share) * both[:, 0] + share * both[:, 1]


def hinge_matrix(margin: float, similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """`(r, B)` hinges of all anchors and candidates, 0 where the candidate is no negative."""
    return tf.where(same, 0.0, tf.nn.relu(similarities + (margin - positive)[:, None]))


def _gathered_hinges(pairs: Pairs, margin: float, hardest: int) -> tf.Tensor:
    """`hinges` for few hardest negatives: search them without a gradient, then compare their vectors alone."""
    positive = positive_similarity(pairs)[:, None]

    def direction(anchors: tf.Tensor, candidates: tf.Tensor, found: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        negative = tf.einsum("bd,bkd->bk", anchors, tf.gather(candidates, found))
        hinge = tf.where(valid, tf.nn.relu(margin + negative - positive), 0.0)
        return tf.math.divide_no_nan(tf.reduce_sum(hinge, axis=1), tf.reduce_sum(tf.cast(valid, tf.float32), axis=1))

    of_image, of_text = hardest_negatives(pairs, hardest)
    return direction(pairs.image, pairs.all_text, *of_image) + direction(pairs.text, pairs.all_image, *of_text)
