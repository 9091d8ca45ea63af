"""The angular loss in its n-pairs form (arXiv 1708.01682)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, check, gather, positive_similarity
from vse_tf.losses.blockwise import each_row
from vse_tf.losses.contrastive import cross_entropy


def npairs_angular(
    image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None, angle: float = 45.0
) -> tf.Tensor:
    """Angular loss of each pair in its n-pairs form, both directions; the functional form of `NPairsAngular`.

    Args:
        image: `(batch, dim)` unit image embeddings of the pairs (of this replica).
        text: `(batch, dim)` unit caption embeddings of the pairs.
        image_id: `(batch,)` ids of the images, or None: all other pairs are negatives.
        angle: upper bound alpha of the angle at the negative, in degrees, between 0 and 90.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the angle is out of range, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(npairs_angular(image, text, image_id, angle=40.0))
    """
    check_angle(angle)
    pairs = gather(image, text, image_id)
    tan2 = math.tan(math.radians(angle)) ** 2
    # f_apn = 4 tan^2 (a + p) n - 2 (1 + tan^2) a p and log(1 + sum_n exp f_apn) = softplus(logsumexp_n(..) - ..): the
    # same row loss as cross-entropy, with a + p as the anchor.
    anchors = (pairs.image + pairs.text) * (4.0 * tan2)
    pull = positive_similarity(pairs) * (2.0 * (1.0 + tan2))
    to_text = each_row(cross_entropy, anchors, pairs.all_text, pairs.image_id, pairs.all_image_id, pull)
    return to_text + each_row(cross_entropy, anchors, pairs.all_image, pairs.image_id, pairs.all_image_id, pull)


def check_angle(value: float) -> None:
    """Raise a `ValueError` unless the angle is between 0 and 90 degrees."""
    check("angle", value, lambda number: 0 < number < 90, "between 0 and 90 degrees")


@keras.saving.register_keras_serializable(package="vse_tf")
class NPairsAngular(PairLoss):
    """Angular loss in its n-pairs form, with images and with captions as anchors; the two means are added.

    With a the anchor, p its positive, n the candidates of p's modality in other pairs and alpha the angle:

        f_apn = 4 tan^2(alpha) (a + p) n - 2 (1 + tan^2(alpha)) a p
        L = 1/B sum_a log(1 + sum_n exp f_apn)      for images as anchors, and again for captions

    It bounds the angle at the negative of the triangle a, p, n instead of a distance, which does not depend on scale. A
    collapsed model has the loss 2 ln(1 + (B - 1) exp(6 tan^2(alpha) - 2)).

    Source: Wang et al. 2017, arXiv 1708.01682; the other pairs of the batch as negatives: n-pairs, Sohn 2016.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id, see `mask_same_image`.

    Relations:
        - `ConVSE` compares the negative with the anchor alone, here it is compared with both ends of the pair. There is
          no temperature; the angle takes its place. Take this loss as the baseline from metric learning.

    Args:
        angle: alpha in degrees, between 0 and 90.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: the angle is out of range.

    Example:
        >>> model.compile("adam", loss=NPairsAngular(angle=45.0))
    """

    def __init__(
        self,
        angle: float = 45.0,
        mask_same_image: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "npairs_angular",
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_angle(angle)
        self.angle = angle

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `npairs_angular`."""
        return npairs_angular(image, text, image_id, self.angle)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 ln(1 + (B - 1) exp(6 tan^2(alpha) - 2))."""
        exponent = 6.0 * math.tan(math.radians(self.angle)) ** 2 - 2.0
        # ln(1 + n e^x) = x + ln(e^-x + n), which does not overflow near 90 degrees.
        return 2.0 * (exponent + math.log(math.exp(-exponent) + batch_size - 1))
