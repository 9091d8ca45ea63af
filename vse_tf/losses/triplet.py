"""The triplet losses of VSE++ (arXiv 1707.05612): hinges over all negatives (VSE0) or the hardest one (VSE++)."""

from __future__ import annotations

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, check_margin, gather
from vse_tf.losses.blockwise import both_directions
from vse_tf.losses.hinge import hinge_matrix, hinges


def triplet_sum(image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None, margin: float = 0.2) -> tf.Tensor:
    """Sum of the hinges of each pair over all negatives, the functional form of `TripletSum`.

    Args:
        image: `(batch, dim)` unit image embeddings of the pairs (of this replica).
        text: `(batch, dim)` unit caption embeddings of the pairs.
        image_id: `(batch,)` ids of the images, or None: all other pairs are negatives.
        margin: margin m, at least 0.

    Returns:
        `(batch,)` float32. Its sum is the loss.

    Raises:
        ValueError: the margin is negative, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_sum(triplet_sum(image, text, image_id))
    """
    check_margin(margin)

    def loss(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(hinge_matrix(margin, similarities, same, positive), axis=1)

    return tf.add(*both_directions(loss, gather(image, text, image_id)))


def triplet_max(image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None, margin: float = 0.2) -> tf.Tensor:
    """Hinge of each pair with its hardest negative, the functional form of `TripletMax`.

    Args:
        image: `(batch, dim)` unit image embeddings of the pairs (of this replica).
        text: `(batch, dim)` unit caption embeddings of the pairs.
        image_id: `(batch,)` ids of the images, or None: all other pairs are negatives.
        margin: margin m, at least 0.

    Returns:
        `(batch,)` float32. Its sum is the loss.

    Raises:
        ValueError: the margin is negative, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_sum(triplet_max(image, text, image_id))
    """
    return hinges(gather(image, text, image_id), margin)


@keras.saving.register_keras_serializable(package="vse_tf")
class TripletSum(PairLoss):
    """Triplet loss over all negatives (VSE0): each negative has to be less similar than the positive by a margin.

    With S_ij the cosine of image i and caption j and m the margin:

        L = sum_i sum_{j != i} max(0, m + S_ij - S_ii) + max(0, m + S_ji - S_ii)

    The value is the sum over the batch, as in the source. A collapsed model has the loss 2 B (B - 1) m.

    Source: the sum-of-hinges baseline of VSE++, arXiv 1707.05612.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id, see `mask_same_image`.
        - A learning rate that fits the batch size, since the loss is a sum.

    Relations:
        - `TripletMax` counts the hardest negative only; here many easy negatives outweigh a hard one. Take this loss as
          the baseline without mining, or where `TripletMax` collapses.
        - `ConVSEPlusPlus(hardest=None)` is the mean over the negatives instead of the sum, divided by T.

    Args:
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the sum of the formula, `sum_over_batch_size` divides it by B.
        name: name of the loss.

    Raises:
        ValueError: the margin is negative.

    Example:
        >>> model.compile("adam", loss=TripletSum(margin=0.2))
    """

    def __init__(
        self, margin: float = 0.2, mask_same_image: bool = True, reduction: str = "sum", name: str = "triplet_sum"
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_margin(margin)
        self.margin = margin

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `triplet_sum`."""
        return triplet_sum(image, text, image_id, self.margin)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 (B - 1) m."""
        return 2.0 * (batch_size - 1) * self.margin


@keras.saving.register_keras_serializable(package="vse_tf")
class TripletMax(PairLoss):
    """Triplet loss with the hardest negative (VSE++): the most similar negative of each anchor, by a margin.

    With S_ij the cosine of image i and caption j and m the margin:

        L = sum_i max(0, m + max_{j != i} S_ij - S_ii) + max(0, m + max_{j != i} S_ji - S_ii)

    The value is the sum over the batch, as in the source. A collapsed model has the loss 2 B m.

    Source: VSE++, arXiv 1707.05612.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id: without the mask the hardest negative is very often another caption of
          the anchor's own image.
        - A model that has begun to learn, or a warm-up of the learning rate: from random weights it may collapse.

    Relations:
        - `ConVSEPlusPlus` is this loss divided by T B. With Adam the two differ only through clip-norm and epsilon, so
          take this one to repeat VSE++.
        - `TripletSum` counts all negatives.

    Args:
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the sum of the formula, `sum_over_batch_size` divides it by B.
        name: name of the loss.

    Raises:
        ValueError: the margin is negative.

    Example:
        >>> model.compile("adam", loss=TripletMax(margin=0.2))
    """

    def __init__(
        self, margin: float = 0.2, mask_same_image: bool = True, reduction: str = "sum", name: str = "triplet_max"
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_margin(margin)
        self.margin = margin

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `triplet_max`."""
        return triplet_max(image, text, image_id, self.margin)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 m."""
        return 2.0 * self.margin
