"""ConVSE++: the hinge on the hardest negatives, divided by the temperature (arXiv 2110.08872)."""

from __future__ import annotations

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, Scalar, as_float, check_temperature, gather, scalar
from vse_tf.losses.hinge import check_hinge, hinges


def convse_plus_plus(
    image: tf.Tensor,
    text: tf.Tensor,
    image_id: tf.Tensor | None = None,
    temperature: Scalar = 0.1,
    margin: float = 0.2,
    hardest: int | None = 1,
    hardness: Scalar = 1.0,
) -> tf.Tensor:
    """ConVSE++ of each pair, the functional form of `ConVSEPlusPlus`.

    Args:
        image: `(batch, dim)` unit image embeddings; inside a replica, those of this replica.
        text: `(batch, dim)` unit caption embeddings.
        image_id: `(batch,)` ids of the images; other pairs of an anchor's image are not its negatives. None: all other
            pairs are.
        temperature: temperature T, a positive number or a variable.
        margin: margin m of the hinge, at least 0.
        hardest: number of hardest negatives whose mean counts; None takes all.
        hardness: from 0, the mean over all negatives, to 1, that over the hardest; a number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: an argument is out of range, or the shapes do not fit.

    Example:
        >>> per_pair = convse_plus_plus(image, text, image_id, margin=0.2)
    """
    check_temperature(temperature)
    return hinges(gather(image, text, image_id), margin, hardest, hardness) / scalar(temperature)


@keras.saving.register_keras_serializable(package="vse_tf")
class ConVSEPlusPlus(PairLoss):
    """ConVSE++: only the hardest negative of each anchor counts, by a margin, in both directions.

    With S_ij the cosine of image i and caption j, T the temperature, m the margin and B the number of pairs in the
    global batch:

        L = 1/B sum_i max(0, m + max_{j != i} S_ij - S_ii) / T      image to caption
          + 1/B sum_i max(0, m + max_{j != i} S_ji - S_ii) / T      caption to image

    This is -log( exp(S_ii/T) / exp((m + hardest)/T) ) clamped at 0, in a form that cannot overflow. The temperature
    only scales it. A collapsed model has the loss 2 m / T.

    Source: arXiv 2110.08872 (ICPR 2022); the hinge on the hardest negative: VSE++, arXiv 1707.05612.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id: without the mask the hardest negative is very often another caption of
          the anchor's own image.
        - A model that has begun to learn, or a hardness that rises from 0: from random weights the single hardest
          negative easily pulls all embeddings into one point.
        - A constant temperature: a learned one would grow without end.
        - An anchor without any negative costs 0. In a `tf.distribute` strategy they come from all replicas.

    Relations:
        - `TripletMax` with its sum over the batch is this loss times T B.
        - `ConVSE` uses all negatives, weighted by a softmax; train it first and continue with this loss.
        - `TripletSum` sums over all negatives; `hardest=None` takes their mean here.

    Args:
        temperature: T, a positive number, or a variable or function that returns it.
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        hardest: number k of hardest negatives; the mean of their hinges (of all, where an anchor has fewer) takes the
            place of the largest. None takes the mean over all negatives.
        hardness: from 0 to 1, the share of that mean; the rest is the mean over all negatives. Both are means, so the
            collapse value and the effect of a clip-norm do not change with it. Pass a function of the optimizer's step
            (`training.schedules.Hardness`, or `loss.hardness_epochs` in a run) or a `tf.Variable` to change it; a
            number is fixed when the training step is traced.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> hardness = tf.Variable(0.0, trainable=False)
        >>> model.compile("adam", loss=ConVSEPlusPlus(margin=0.2, hardness=hardness))
    """

    def __init__(
        self,
        temperature: Scalar = 0.1,
        margin: float = 0.2,
        mask_same_image: bool = True,
        hardest: int | None = 1,
        hardness: Scalar = 1.0,
        reduction: str = "sum_over_batch_size",
        name: str = "convse_plus_plus",
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_temperature(temperature)
        check_hinge(margin, hardest, hardness)
        self.temperature = temperature
        self.margin = margin
        self.hardest = hardest
        self.hardness = hardness

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `convse_plus_plus`."""
        return convse_plus_plus(image, text, image_id, self.temperature, self.margin, self.hardest, self.hardness)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 m / T."""
        return 2.0 * self.margin / as_float(self.temperature)
