"""Further objectives to compare with, on the same negatives and the same mask: SimCLR form, angular, sigmoid."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from vse_tf.losses.base import (
    PairLoss,
    Scalar,
    as_float,
    check,
    check_temperature,
    gather,
    positive_similarity,
    scalar,
)
from vse_tf.losses.blockwise import each_row
from vse_tf.losses.contrastive import cross_entropy


def nt_xent(image: Any, text: Any, row: Any = None, temperature: Scalar = 0.1) -> tf.Tensor:
    """NT-Xent of each pair over both modalities: the functional form of `NTXent`.

    Args:
        image, text: `(batch, dim)` unit embeddings of the pairs (of this replica).
        row: `(batch,)` identities of the images, or None: all other pairs are negatives.
        temperature: temperature T, a positive number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(nt_xent(image, text, row, temperature=0.1))
    """
    check_temperature(temperature)
    pairs = gather(image, text, row)
    scale = 1.0 / scalar(temperature)
    positive = positive_similarity(pairs) * scale
    # One candidate list for both modalities: an item and its own image's other items carry the same identity, so the
    # mask takes them out and leaves the 2 (B - 1) negatives; the positive is added back by `cross_entropy`.
    items = tf.concat([pairs.images, pairs.texts], axis=0)
    all_ids = tf.concat([pairs.all_ids, pairs.all_ids], axis=0)
    of_image = each_row(cross_entropy, pairs.image * scale, items, pairs.ids, all_ids, positive)
    of_text = each_row(cross_entropy, pairs.text * scale, items, pairs.ids, all_ids, positive)
    return 0.5 * (of_image + of_text)


def npairs_angular(image: Any, text: Any, row: Any = None, angle: float = 45.0) -> tf.Tensor:
    """Angular loss of each pair in its n-pairs form, both directions: the functional form of `NPairsAngular`.

    Args:
        image, text: `(batch, dim)` unit embeddings of the pairs (of this replica).
        row: `(batch,)` identities of the images, or None: all other pairs are negatives.
        angle: upper bound alpha of the angle at the negative, in degrees, between 0 and 90.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the angle is out of its range, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(npairs_angular(image, text, row, angle=40.0))
    """
    check_angle(angle)
    pairs = gather(image, text, row)
    tan2 = math.tan(math.radians(angle)) ** 2
    # f_apn = 4 tan^2 (a + p) n - 2 (1 + tan^2) a p and log(1 + sum_n exp f_apn) = softplus(logsumexp_n(..) - ..): the
    # same row loss as cross-entropy, with a + p as the anchor.
    anchors = (pairs.image + pairs.text) * (4.0 * tan2)
    pull = positive_similarity(pairs) * (2.0 * (1.0 + tan2))
    to_text = each_row(cross_entropy, anchors, pairs.texts, pairs.ids, pairs.all_ids, pull)
    return to_text + each_row(cross_entropy, anchors, pairs.images, pairs.ids, pairs.all_ids, pull)


def sigmoid_pairwise(
    image: Any, text: Any, row: Any = None, temperature: Scalar = 0.1, bias: Scalar = -10.0
) -> tf.Tensor:
    """Sigmoid loss of each image with all captions: the functional form of `SigmoidPairwise`.

    Args:
        image, text: `(batch, dim)` unit embeddings of the pairs (of this replica).
        row: `(batch,)` identities of the images, or None: all other pairs are negatives.
        temperature: temperature T, a positive number or a variable.
        bias: bias b on the logits, a number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(sigmoid_pairwise(image, text, row))
    """
    check_temperature(temperature)
    pairs = gather(image, text, row)
    scale, shift = 1.0 / scalar(temperature), scalar(bias)
    # The bias goes in as one more dimension, so that the blocked form finds its gradient in the anchors.
    ones = tf.ones_like(pairs.image[:, :1])
    anchors = tf.concat([pairs.image * scale, ones * shift], axis=1)
    candidates = tf.concat([pairs.texts, tf.ones_like(pairs.texts[:, :1])], axis=1)

    def loss(logits: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(same, 0.0, tf.nn.softplus(logits)), axis=1) + tf.nn.softplus(-positive)

    positive = positive_similarity(pairs) * scale + shift
    return each_row(loss, anchors, candidates, pairs.ids, pairs.all_ids, positive)


def check_angle(value: float) -> None:
    """Angles lie between 0 and 90 degrees."""
    check("angle", value, lambda number: 0 < number < 90, "between 0 and 90 degrees")


@keras.saving.register_keras_serializable(package="vse_tf")
class NTXent(PairLoss):
    """NT-Xent over both modalities, the SimCLR form: each of the 2B items picks its partner among all others.

    With z_1 .. z_2B the images and captions of the global batch, p(k) the partner of item k and T the temperature:

        L = 1/(2B) sum_k -log( exp(z_k z_p(k) / T) / sum_{l != k} exp(z_k z_l / T) )

    Other images are negatives of an image and other captions of a caption, which `ConVSE` leaves out. The mean runs
    over items, so it is half the sum of two directions. Take it as the baseline for that choice: it spreads each
    modality over the space by itself, at the price of twice the similarities. A collapsed model sits at ln(2B - 1).

    Source: SimCLR, arXiv 2002.05709, with the image and the caption as the two views.

    Args:
        temperature: T, a positive number, or a variable or function that gives it.
        mask_same_image: other pairs of an anchor's image, in either modality, are not its negatives.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> model.compile("adam", loss=NTXent(temperature=0.1))
    """

    def __init__(
        self,
        temperature: Scalar = 0.1,
        mask_same_image: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "simclr",
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_temperature(temperature)
        self.temperature = temperature

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `nt_xent`."""
        return nt_xent(image, text, row, self.temperature)

    def collapsed_pair(self, batch_size: int) -> float:
        """ln(2B - 1)."""
        return math.log(2 * batch_size - 1)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; the temperature as the float it is now."""
        return {**super().get_config(), "temperature": as_float(self.temperature)}


@keras.saving.register_keras_serializable(package="vse_tf")
class NPairsAngular(PairLoss):
    """Angular loss in its n-pairs form, symmetric: images as anchors plus captions as anchors, the two means added.

    With a the anchor, p its positive, n the candidates of p's modality in other pairs and alpha the angle:

        f_apn = 4 tan^2(alpha) (a + p) n - 2 (1 + tan^2(alpha)) a p
        L = 1/B sum_a log(1 + sum_n exp f_apn)      for images as anchors, and again for captions

    It bounds the angle at the negative of the triangle a, p, n instead of a distance, so it does not depend on scale,
    and the negative is compared with both ends of the pair. There is no temperature. Take it as the metric-learning
    baseline next to `ConVSE`, whose softmax compares the negative with the anchor alone. When all embeddings are one
    point it sits at 2 ln(1 + (B - 1) exp(6 tan^2(alpha) - 2)).

    Source: Wang et al. 2017, arXiv 1708.01682; batches in which the other pairs are the negatives: n-pairs, Sohn 2016.

    Args:
        angle: alpha in degrees, between 0 and 90.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: the angle is out of its range.

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

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `npairs_angular`."""
        return npairs_angular(image, text, row, self.angle)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 ln(1 + (B - 1) exp(6 tan^2(alpha) - 2))."""
        exponent = 6.0 * math.tan(math.radians(self.angle)) ** 2 - 2.0
        # ln(1 + n e^x) = x + ln(e^-x + n), which does not overflow near 90 degrees.
        return 2.0 * (exponent + math.log(math.exp(-exponent) + batch_size - 1))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "angle": self.angle}


@keras.saving.register_keras_serializable(package="vse_tf")
class SigmoidPairwise(PairLoss):
    """Sigmoid pairwise loss, the SigLIP form: every image and caption is a yes-or-no question of its own.

    With S_ij the cosine of image i and caption j, T the temperature, b the bias, and y_ij = 1 for i = j, else -1:

        L = -1/B sum_i sum_j log sigmoid( y_ij (S_ij / T + b) )

    There is no softmax, so a pair's loss does not depend on its competitors, and each similarity counts once: there is
    one direction. B - 1 negatives stand against one positive, so the bias begins low (-10 at T = 0.1). Temperature and
    bias are meant to be learned; give the model's variables. Take it for large batches or noisy pairs, where `ConVSE`
    depends on the whole row being right. `mask_same_image` drops the questions about other pairs of the same image.
    When all embeddings are one point it sits at softplus(-(1/T + b)) + (B - 1) softplus(1/T + b).

    Source: SigLIP, arXiv 2303.15343.

    Args:
        temperature: T, a positive number, or a variable or function that gives it.
        bias: b, a number, or a variable or function that gives it.
        mask_same_image: other pairs of an anchor's image are left out.
        reduction: as in Keras; the default is the formula, a mean over images of sums over captions.
        name: name of the loss.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> model.compile("adam", loss=SigmoidPairwise(temperature=0.1, bias=-10.0))
    """

    def __init__(
        self,
        temperature: Scalar = 0.1,
        bias: Scalar = -10.0,
        mask_same_image: bool = True,
        reduction: str = "sum_over_batch_size",
        name: str = "sigmoid",
    ) -> None:
        super().__init__(mask_same_image, reduction, name)
        check_temperature(temperature)
        self.temperature = temperature
        self.bias = bias

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `sigmoid_pairwise`."""
        return sigmoid_pairwise(image, text, row, self.temperature, self.bias)

    def collapsed_pair(self, batch_size: int) -> float:
        """softplus(-(1/T + b)) + (B - 1) softplus(1/T + b)."""
        logit = 1.0 / as_float(self.temperature) + as_float(self.bias)
        softplus = max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))
        return (softplus - logit) + (batch_size - 1) * softplus

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; temperature and bias as the floats they are now."""
        return {**super().get_config(), "temperature": as_float(self.temperature), "bias": as_float(self.bias)}
