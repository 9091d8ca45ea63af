"""The sigmoid pairwise loss of SigLIP (arXiv 2303.15343)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, Scalar, as_float, check_temperature, gather, positive_similarity, scalar
from vse_tf.losses.blockwise import each_row


def sigmoid_pairwise(
    image: tf.Tensor,
    text: tf.Tensor,
    image_id: tf.Tensor | None = None,
    temperature: Scalar = 0.1,
    bias: Scalar = -10.0,
) -> tf.Tensor:
    """Sigmoid loss of each image with all captions, the functional form of `SigmoidPairwise`.

    Args:
        image: `(batch, dim)` unit image embeddings of the pairs (of this replica).
        text: `(batch, dim)` unit caption embeddings of the pairs.
        image_id: `(batch,)` ids of the images, or None: all other pairs are negatives.
        temperature: temperature T, a positive number or a variable.
        bias: bias b on the logits, a number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(sigmoid_pairwise(image, text, image_id))
    """
    check_temperature(temperature)
    pairs = gather(image, text, image_id)
    scale, shift = 1.0 / scalar(temperature), scalar(bias)
    # The bias is one more dimension of the anchors, so that the blocked form computes its gradient too.
    ones = tf.ones_like(pairs.image[:, :1])
    anchors = tf.concat([pairs.image * scale, ones * shift], axis=1)
    candidates = tf.concat([pairs.all_text, tf.ones_like(pairs.all_text[:, :1])], axis=1)

    def loss(logits: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.where(same, 0.0, tf.nn.softplus(logits)), axis=1) + tf.nn.softplus(-positive)

    positive = positive_similarity(pairs) * scale + shift
    return each_row(loss, anchors, candidates, pairs.image_id, pairs.all_image_id, positive)


@keras.saving.register_keras_serializable(package="vse_tf")
class SigmoidPairwise(PairLoss):
    """Sigmoid pairwise loss (SigLIP): for each image and caption, a binary decision whether they belong together.

    With S_ij the cosine of image i and caption j, T the temperature, b the bias, and y_ij = 1 for i = j, else -1:

        L = -1/B sum_i sum_j log sigmoid( y_ij (S_ij / T + b) )

    Each similarity counts once, so there is one direction. A collapsed model has the loss
    softplus(-(1/T + b)) + (B - 1) softplus(1/T + b).

    Source: SigLIP, arXiv 2303.15343.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Temperature and bias are meant to be learned: pass `DualEncoder` a `LearnedTemperature` with a bias.
        - A low initial bias (-10 at T = 0.1), since each positive has B - 1 negatives.
        - Pairs of one image have the same id, see `mask_same_image`.

    Relations:
        - `ConVSE` normalises by a softmax over the batch, so that one wrong pair changes the loss of all its
          competitors; here pairs are independent. Take this loss for large batches or noisy captions.

    Args:
        temperature: T, a positive number, or a variable or function that returns it.
        bias: b, a number, or a variable or function that returns it.
        mask_same_image: other pairs of an anchor's image are left out.
        reduction: as in Keras; the default is the formula, a mean over images of sums over captions.
        name: name of the loss.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> model = DualEncoder(image_tower, text_tower, temperature=LearnedTemperature(0.1, bias=-10.0))
        >>> model.compile("adam", loss=SigmoidPairwise())
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

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `sigmoid_pairwise`."""
        return sigmoid_pairwise(image, text, image_id, self.temperature, self.bias)

    def collapsed_pair(self, batch_size: int) -> float:
        """softplus(-(1/T + b)) + (B - 1) softplus(1/T + b)."""
        logit = 1.0 / as_float(self.temperature) + as_float(self.bias)
        softplus = max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))
        return (softplus - logit) + (batch_size - 1) * softplus
