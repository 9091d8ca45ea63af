"""ConVSE: softmax cross-entropy over the batch in both directions (arXiv 2110.08872)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from vse_tf.losses.base import LOWEST, PairLoss, Scalar, check_temperature, gather, scalar
from vse_tf.losses.blockwise import both_directions, positives_and_negatives


def convse(
    image: tf.Tensor,
    text: tf.Tensor,
    image_id: tf.Tensor | None = None,
    temperature: Scalar = 0.1,
    multiple_positives: bool = False,
) -> tf.Tensor:
    """ConVSE of each pair, the functional form of `ConVSE`.

    Args:
        image: `(batch, dim)` unit image embeddings; inside a replica, those of this replica.
        text: `(batch, dim)` unit caption embeddings.
        image_id: `(batch,)` ids of the images; other pairs of an anchor's image are not its negatives. None: all other
            pairs are.
        temperature: temperature T, a positive number or a variable.
        multiple_positives: all captions of an anchor's image are its positives.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> per_pair = convse(image, text, image_id, temperature=0.07)
    """
    check_temperature(temperature)
    pairs = gather(image, text, image_id)
    scale = 1.0 / scalar(temperature)
    if multiple_positives:
        return tf.add(*both_directions(_cross_entropy_to_all_positives, pairs, scale))
    # With several replicas the entries of a column are on different devices: each direction is computed by itself.
    if pairs.replicas > 1:
        return tf.add(*both_directions(cross_entropy, pairs, scale))
    positive, by_row, by_column = positives_and_negatives(pairs.image * scale, pairs.text, pairs.image_id)
    return tf.nn.softplus(by_row - positive) + tf.nn.softplus(by_column - positive)


def cross_entropy(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
    """-log softmax of the positive among itself and the negatives, `(r,)`.

    Written as softplus(logsumexp(negatives) - positive): no overflow, no loss of digits when the softmax is near one,
    and 0 with gradient 0 for an anchor without negatives.
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
    """Contrastive visual-semantic embedding: each image picks its caption from the batch, each caption its image.

    With S_ij the cosine of image i and caption j, T the temperature and B the number of pairs in the global batch:

        L = 1/B sum_i -log( exp(S_ii/T) / sum_j exp(S_ij/T) )      image to caption
          + 1/B sum_i -log( exp(S_ii/T) / sum_j exp(S_ji/T) )      caption to image

    The two means are added, not halved. The sums over j run over the positive and the negatives, which are of the other
    modality. A collapsed model has the loss 2 ln B.

    Source: arXiv 2110.08872 (ICPR 2022).

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id: without the mask, other captions of an image count as wrong for it.
        - An anchor needs negatives: without any it costs 0. In a `tf.distribute` strategy they come from all replicas.
        - Large batches: above `blockwise.DENSE_ELEMENTS` similarities the loss is computed in row blocks; to encode
          such a batch in little memory see `train.micro_batch`.

    Relations:
        - Take this loss first: it uses all negatives, needs no warm-up and is stable with small batches.
        - `ConVSEPlusPlus` counts the hardest negatives only and sharpens a model that has begun to learn.
        - `NTXent` adds the negatives of the anchor's own modality.
        - `SigmoidPairwise` replaces the softmax by a binary decision for each image and caption.

    Args:
        temperature: T, a positive number, or a variable or function that returns it. To learn it pass `DualEncoder` a
            `LearnedTemperature`, which it binds to this loss: a variable of a loss is never trained.
        mask_same_image: other pairs of an anchor's image are not its negatives.
        multiple_positives: they are positives: the loss is the mean over the positives of -log softmax, each positive
            in the denominator (L_out of supervised contrastive learning, Khosla et al. 2020, arXiv 2004.11362). It
            needs `mask_same_image=True`.
        reduction: as in Keras; the default is the mean of the formula.
        name: name of the loss.

    Raises:
        ValueError: the temperature is not positive, or multiple positives are asked for without the mask.

    Example:
        >>> model.compile("adam", loss=ConVSE(temperature=0.1))
        >>> model.fit(batches)  # ({"image": …, "text": …}, image_id)
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
            raise ValueError("multiple_positives needs mask_same_image=True: it uses the image ids")
        self.temperature = temperature
        self.multiple_positives = multiple_positives

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `convse`."""
        return convse(image, text, image_id, self.temperature, self.multiple_positives)

    def collapsed_pair(self, batch_size: int) -> float:
        """2 ln B."""
        return 2.0 * math.log(batch_size)
