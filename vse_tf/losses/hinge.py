"""The hinge on an anchor's negatives, and the triplet losses VSE0 and VSE++ that are made of it."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, Pairs, Scalar, check, check_margin, gather, positive_similarity, scalar
from vse_tf.losses.blockwise import both_directions, hardest_negatives

GATHERED_NEGATIVES = 4
"""Up to so many hardest negatives are found first and compared again as vectors, which leaves the backward pass no
matrix product; more of them would take more memory than the similarities themselves."""


def triplet_sum(image: Any, text: Any, row: Any = None, margin: float = 0.2) -> tf.Tensor:
    """Hinges of each pair over all negatives, summed: the functional form of `TripletSum`.

    Args:
        image, text: `(batch, dim)` unit embeddings of the pairs (of this replica).
        row: `(batch,)` identities of the images, or None: all other pairs are negatives.
        margin: margin m, at least 0.

    Returns:
        `(batch,)` float32. Its sum is the loss.

    Raises:
        ValueError: the margin is negative, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_sum(triplet_sum(image, text, row))
    """
    check_margin(margin)

    def loss(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(hinge_matrix(margin, similarities, same, positive), axis=1)

    return tf.add(*both_directions(loss, gather(image, text, row)))


def triplet_max(image: Any, text: Any, row: Any = None, margin: float = 0.2) -> tf.Tensor:
    """Hinges of each pair with its hardest negatives: the functional form of `TripletMax`.

    Args:
        image, text: `(batch, dim)` unit embeddings of the pairs (of this replica).
        row: `(batch,)` identities of the images, or None: all other pairs are negatives.
        margin: margin m, at least 0.

    Returns:
        `(batch,)` float32. Its sum is the loss.

    Raises:
        ValueError: the margin is negative, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_sum(triplet_max(image, text, row))
    """
    return hinges(gather(image, text, row), margin)


def check_hinge(margin: float, hardest: int | None, hardness: Scalar) -> None:
    """Raise a `ValueError` that names the argument which is out of its range."""
    check_margin(margin)
    check("hardness", hardness, lambda number: 0 <= number <= 1, "a number from 0 to 1")
    if hardest is not None and (not isinstance(hardest, int) or isinstance(hardest, bool) or hardest < 1):
        raise ValueError(f"hardest must be a whole number of at least 1, or None for all; got hardest={hardest}")


def hinges(pairs: Pairs, margin: float, hardest: int | None = 1, hardness: Scalar = 1.0) -> tf.Tensor:
    """The hinge max(0, m + S_negative - S_positive) of each pair, both directions added.

    Args:
        pairs: the local pairs and the global batch.
        margin: margin m.
        hardest: mean over so many hardest negatives, None for all.
        hardness: from 0, the mean over all negatives, to 1, that over the hardest.

    Returns:
        `(b,)`; 0 for an anchor without negatives.
    """
    check_hinge(margin, hardest, hardness)
    fixed = float(hardness) if isinstance(hardness, numbers.Real) else None
    if fixed == 1.0 and hardest is not None and hardest <= GATHERED_NEGATIVES:
        return _gathered_hinges(pairs, margin, hardest)

    def of_all(hinge: tf.Tensor, negatives: tf.Tensor) -> tf.Tensor:
        return tf.math.divide_no_nan(tf.reduce_sum(hinge, axis=1), negatives)

    def of_hardest(hinge: tf.Tensor, negatives: tf.Tensor, count: int) -> tf.Tensor:
        top = tf.math.top_k(hinge, tf.minimum(count, tf.shape(hinge)[1]), sorted=False)[0]
        return tf.math.divide_no_nan(tf.reduce_sum(top, axis=1), tf.minimum(float(count), negatives))

    def loss(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        hinge = hinge_matrix(margin, similarities, same, positive)
        negatives = tf.reduce_sum(tf.cast(~same, tf.float32), axis=1)
        if hardest is None or fixed == 0.0:
            return of_all(hinge, negatives)
        if fixed == 1.0:
            return of_hardest(hinge, negatives, hardest)
        return tf.stack([of_all(hinge, negatives), of_hardest(hinge, negatives, hardest)], axis=1)

    both = tf.add(*both_directions(loss, pairs))
    if both.shape.rank == 1:
        return both
    # Blended out here: a variable that is read inside of a block's custom gradient breaks graphs of unknown size.
    share = scalar(hardness)
    return (1.0 - share) * both[:, 0] + share * both[:, 1]


def hinge_matrix(margin: float, similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """`(r, B)` hinges of every anchor with every candidate, 0 where the candidate is no negative."""
    return tf.where(same, 0.0, tf.nn.relu(similarities + (margin - positive)[:, None]))


def _gathered_hinges(pairs: Pairs, margin: float, hardest: int) -> tf.Tensor:
    """`hinges` of few hardest negatives: find them without a gradient, then compare those vectors alone."""
    positive = positive_similarity(pairs)[:, None]

    def direction(anchors: tf.Tensor, candidates: tf.Tensor, found: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
        negative = tf.einsum("bd,bkd->bk", anchors, tf.gather(candidates, found))
        hinge = tf.where(valid, tf.nn.relu(margin + negative - positive), 0.0)
        return tf.math.divide_no_nan(tf.reduce_sum(hinge, axis=1), tf.reduce_sum(tf.cast(valid, tf.float32), axis=1))

    of_image, of_text = hardest_negatives(pairs, hardest)
    return direction(pairs.image, pairs.texts, *of_image) + direction(pairs.text, pairs.images, *of_text)


class _Triplet(PairLoss):
    """What the two hinge baselines share: the margin."""

    def __init__(self, margin: float, mask_same_image: bool, reduction: str, name: str) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_margin(margin)
        self.margin = margin

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "margin": self.margin}


@keras.saving.register_keras_serializable(package="vse_tf")
class TripletSum(_Triplet):
    """Hinge triplet loss over all negatives, summed: VSE0.

    With S_ij the cosine of image i and caption j and m the margin:

        L = sum_i sum_{j != i} max(0, m + S_ij - S_ii) + max(0, m + S_ji - S_ii)

    The value is the sum over the batch, as this objective is written; `reduction="sum_over_batch_size"` divides it by
    B. Take it as the baseline without mining, or where `TripletMax` collapses. It is blind to how hard a violating
    negative is: many easy ones outweigh a hard one. `ConVSEPlusPlus(hardest=None)` is its mean over the negatives,
    divided by T. A collapsed model sits at 2 B (B - 1) m.

    Source: the sum-of-hinges baseline of VSE++, arXiv 1707.05612.

    Args:
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the sum of the formula.
        name: name of the loss.

    Raises:
        ValueError: the margin is negative.

    Example:
        >>> model.compile("adam", loss=TripletSum(margin=0.2))
    """

    def __init__(
        self, margin: float = 0.2, mask_same_image: bool = True, reduction: str = "sum", name: str = "triplet_sum"
    ) -> None:
        super().__init__(margin, mask_same_image, reduction, name)

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `triplet_sum`."""
        return triplet_sum(image, text, row, self.margin)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 (B - 1) m."""
        return 2.0 * (batch_size - 1) * self.margin


@keras.saving.register_keras_serializable(package="vse_tf")
class TripletMax(_Triplet):
    """Hinge triplet loss on the hardest negatives: VSE++.

    With S_ij the cosine of image i and caption j and m the margin:

        L = sum_i max(0, m + max_{j != i} S_ij - S_ii) + max(0, m + max_{j != i} S_ji - S_ii)

    The value is the sum over the batch, as this objective is written, so `ConVSEPlusPlus` is this divided by T B.
    `reduction="sum_over_batch_size"` gives the mean. Take it to repeat VSE++; with Adam the two differ only through
    clip-norm and epsilon. A collapsed model sits at 2 B m.

    Source: VSE++, arXiv 1707.05612.

    Args:
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the sum of the formula.
        name: name of the loss.

    Raises:
        ValueError: the margin is negative.

    Example:
        >>> model.compile("adam", loss=TripletMax(margin=0.2))
    """

    def __init__(
        self, margin: float = 0.2, mask_same_image: bool = True, reduction: str = "sum", name: str = "triplet_max"
    ) -> None:
        super().__init__(margin, mask_same_image, reduction, name)

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `triplet_max`."""
        return triplet_max(image, text, row, self.margin)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 m."""
        return 2.0 * self.margin
