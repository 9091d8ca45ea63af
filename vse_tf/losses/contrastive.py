"""The two objectives of the method: ConVSE and ConVSE++ (arXiv 2110.08872)."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from vse_tf.losses.base import (
    LOWEST,
    PairLoss,
    Scalar,
    as_float,
    check_temperature,
    gather,
    scalar,
)
from vse_tf.losses.blockwise import both_directions, positives_and_negatives
from vse_tf.losses.hinge import check_hinge, hinges


def convse(
    image: Any, text: Any, row: Any = None, temperature: Scalar = 0.1, multiple_positives: bool = False
) -> tf.Tensor:
    """ConVSE of each pair: cross-entropy over the captions plus cross-entropy over the images.

    The functional form of `ConVSE`; see there for the formula.

    Args:
        image: `(batch, dim)` unit image embeddings; inside a replica, those of this replica.
        text: `(batch, dim)` unit caption embeddings.
        row: `(batch,)` identities of the images; other pairs of an anchor's image are not its negatives. None: all
            other pairs are negatives.
        temperature: temperature T, a positive number or a variable.
        multiple_positives: all captions of the anchor's image (by `row`) are positives.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> per_pair = convse(image, text, row, temperature=0.07)
    """
    check_temperature(temperature)
    pairs = gather(image, text, row)
    scale = 1.0 / scalar(temperature)
    if multiple_positives:
        return tf.add(*both_directions(_cross_entropy_to_all_positives, pairs, scale))

    # Over several replicas a column's entries lie on different devices: there each direction is a pass of its own.
    if pairs.replicas > 1:
        return tf.add(*both_directions(cross_entropy, pairs, scale))
    positive, by_row, by_column = positives_and_negatives(pairs.image * scale, pairs.text, pairs.ids)
    return tf.nn.softplus(by_row - positive) + tf.nn.softplus(by_column - positive)


def convse_plus_plus(
    image: Any,
    text: Any,
    row: Any = None,
    temperature: Scalar = 0.1,
    margin: float = 0.2,
    hardest: int | None = 1,
    hardness: Scalar = 1.0,
) -> tf.Tensor:
    """ConVSE++ of each pair: the hardest negatives' hinges of both directions, divided by the temperature.

    The functional form of `ConVSEPlusPlus`; see there for the formula.

    Args:
        image: `(batch, dim)` unit image embeddings; inside a replica, those of this replica.
        text: `(batch, dim)` unit caption embeddings.
        row: `(batch,)` identities of the images; other pairs of an anchor's image are not its negatives. None: all
            other pairs are negatives.
        temperature: temperature T, a positive number or a variable.
        margin: margin m of the hinge, at least 0.
        hardest: mean over so many hardest negatives; None takes all.
        hardness: from 0, all negatives, to 1, only the hardest; a number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: an argument is out of its range, or the shapes do not fit.

    Example:
        >>> per_pair = convse_plus_plus(image, text, row, margin=0.2)
    """
    check_temperature(temperature)
    return hinges(gather(image, text, row), margin, hardest, hardness) / scalar(temperature)


def cross_entropy(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """-log of the positive's share among the positive and the negatives, `(r,)`.

    Written as softplus(logsumexp(negatives) - positive): no overflow, no loss of digits when the share is near one,
    and 0 with gradient 0 for an anchor that has no negative.
    """
    negatives = tf.reduce_logsumexp(tf.where(same, LOWEST, similarities), axis=1)
    return tf.nn.softplus(negatives - positive)


def _cross_entropy_to_all_positives(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """Mean over the positives of -log softmax, `(r,)`; the softmax runs over all candidates."""
    count = tf.reduce_sum(tf.cast(same, tf.float32), axis=1)
    mean_positive = tf.reduce_sum(tf.where(same, similarities, 0.0), axis=1) / count
    return tf.reduce_logsumexp(similarities, axis=1) - mean_positive


@keras.saving.register_keras_serializable(package="vse_tf")
class ConVSE(PairLoss):
    """Contrastive visual-semantic embedding: a softmax over the batch in both directions, the two means added.

    With S_ij the cosine of image i and caption j, T the temperature and B the pairs of the global batch:

        L = 1/B sum_i -log( exp(S_ii/T) / sum_j exp(S_ij/T) )      image to caption
          + 1/B sum_i -log( exp(S_ii/T) / sum_j exp(S_ji/T) )      caption to image

    The sums run over the anchor's positive and its negatives, which are of the other modality. `mask_same_image`
    leaves out other pairs of the anchor's own image: true descriptions that would be punished as negatives. An anchor
    without any negative costs 0. In a `tf.distribute` strategy the negatives are those of all replicas.

    With `multiple_positives` all captions of the anchor's image in the batch are positives (and all its images, for a
    caption). The loss is then the mean over them of -log softmax, the form L_out of supervised contrastive learning
    (Khosla et al. 2020, arXiv 2004.11362), with each positive in the denominator: pairs of one image are then neither
    masked nor negatives. It needs `mask_same_image=True`, since images are told apart by their row.

    Take it first: it uses every negative, needs no warm-up and is stable with small batches. `ConVSEPlusPlus` sharpens
    a model that has begun to learn; `NTXent` adds negatives of the anchor's own modality; `SigmoidPairwise` replaces
    the softmax by a yes or no for each pair.

    A batch whose similarities are more than `blockwise.DENSE_ELEMENTS` is worked through in row blocks, with the same
    value and gradient. To encode a large batch in little memory, see `train.micro_batch`. A collapsed model sits at
    2 ln B.

    Source: arXiv 2110.08872 (ICPR 2022).

    Args:
        temperature: T, a positive number, or a variable or function that gives it. To learn it give `DualEncoder` a
            `LearnedTemperature`, which it binds here: a variable of a loss is never trained.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        multiple_positives: other pairs of an anchor's image are positives too.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> model.compile("adam", loss=ConVSE(temperature=0.1))
        >>> model.fit(batches)  # ({"image": …, "text": …}, row)
    """

    def __init__(
        self,
        temperature: Scalar = 0.1,
        mask_same_image: bool = True,
        multiple_positives: bool = False,
        reduction: str = "sum_over_batch_size",
        name: str = "convse",
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_temperature(temperature)
        if multiple_positives and not mask_same_image:
            raise ValueError("multiple_positives needs mask_same_image=True: it tells images apart by their row")
        self.temperature = temperature
        self.multiple_positives = multiple_positives

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `convse`."""
        return convse(image, text, row, self.temperature, self.multiple_positives)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 ln B."""
        return 2.0 * math.log(batch_size)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; the temperature as the float it is now."""
        own = {"temperature": as_float(self.temperature), "multiple_positives": self.multiple_positives}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="vse_tf")
class ConVSEPlusPlus(PairLoss):
    """ConVSE++: only the hardest negative of each anchor counts, with a margin, in both directions.

    With S_ij the cosine of image i and caption j, T the temperature, m the margin and B the pairs of the global batch:

        L = 1/B sum_i max(0, m + max_{j != i} S_ij - S_ii) / T      image to caption
          + 1/B sum_i max(0, m + max_{j != i} S_ji - S_ii) / T      caption to image

    This is -log( exp(S_ii/T) / exp((m + hardest)/T) ) clamped at 0, in the form that cannot overflow, and exactly
    `TripletMax` (summed over the batch) divided by T B: T only scales it. Do not learn T here: a larger one always
    wins.

    `mask_same_image` matters more than in `ConVSE`: without it the hardest negative is very often another caption of
    the anchor's own image. An anchor without any negative costs 0. In a `tf.distribute` strategy the negatives are
    those of all replicas.

    How hard the negatives are:

    - `hardest=k` replaces the largest hinge by the mean of the k largest (fewer where an anchor has fewer negatives);
      `hardest=None` is the mean over all negatives.
    - `hardness` h blends (1 - h) * mean over all negatives + h * (mean over the `hardest`). Means keep both ends on one
      scale, so the loss, its collapse value and a clip-norm mean the same all along a schedule. Give a function of the
      optimizer's step (`training.schedules.Hardness`, or `loss.hardness_epochs` of a run), or a `tf.Variable` that a
      callback moves; a plain number is fixed once a training step is traced.

    Take it after ConVSE, from a trained model or with hardness rising from 0: from random weights the single hardest
    negative easily pulls all embeddings into one point. Such a collapsed model sits at 2 m / T.

    Source: arXiv 2110.08872 (ICPR 2022); the hinge on the hardest negative: VSE++, arXiv 1707.05612.

    Args:
        temperature: T, a positive number, or a variable or function that gives it.
        margin: m, at least 0.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        hardest: mean over so many hardest negatives; None takes all.
        hardness: from 0 to 1, see above; a number, or a variable or function that gives it.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: an argument is out of its range.

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

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `convse_plus_plus`."""
        return convse_plus_plus(image, text, row, self.temperature, self.margin, self.hardest, self.hardness)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 m / T, whatever the hardness."""
        return 2.0 * self.margin / as_float(self.temperature)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; temperature and hardness as the floats they are now."""
        own = {
            "temperature": as_float(self.temperature),
            "margin": self.margin,
            "hardest": self.hardest,
            "hardness": as_float(self.hardness),
        }
        return {**super().get_config(), **own}
