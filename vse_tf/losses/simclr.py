"""NT-Xent over both modalities, the loss of SimCLR (arXiv 2002.05709)."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss, Scalar, check_temperature, gather, positive_similarity, scalar
from vse_tf.losses.blockwise import each_row
from vse_tf.losses.contrastive import cross_entropy


def nt_xent(
    image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None, temperature: Scalar = 0.1
) -> tf.Tensor:
    """NT-Xent of each pair over both modalities, the functional form of `NTXent`.

    Args:
        image: `(batch, dim)` unit image embeddings of the pairs (of this replica).
        text: `(batch, dim)` unit caption embeddings of the pairs.
        image_id: `(batch,)` ids of the images, or None: all other pairs are negatives.
        temperature: temperature T, a positive number or a variable.

    Returns:
        `(batch,)` float32. Its mean is the loss.

    Raises:
        ValueError: the temperature is not positive, or the shapes do not fit.

    Example:
        >>> loss = tf.reduce_mean(nt_xent(image, text, image_id, temperature=0.1))
    """
    check_temperature(temperature)
    pairs = gather(image, text, image_id)
    scale = 1.0 / scalar(temperature)
    positive = positive_similarity(pairs) * scale
    # One list of candidates for both modalities. The mask removes the anchor itself and its positive, which have the
    # anchor's id, and leaves the 2 (B - 1) negatives; `cross_entropy` adds the positive again.
    candidates = tf.concat([pairs.all_image, pairs.all_text], axis=0)
    ids = tf.concat([pairs.all_image_id, pairs.all_image_id], axis=0)
    of_image = each_row(cross_entropy, pairs.image * scale, candidates, pairs.image_id, ids, positive)
    of_text = each_row(cross_entropy, pairs.text * scale, candidates, pairs.image_id, ids, positive)
    return 0.5 * (of_image + of_text)


@keras.saving.register_keras_serializable(package="vse_tf")
class NTXent(PairLoss):
    """Normalised temperature-scaled cross-entropy (SimCLR): each image and caption picks its partner among all others.

    With z_1 .. z_2B the images and captions of the global batch, p(k) the partner of item k and T the temperature:

        L = 1/(2B) sum_k -log( exp(z_k z_p(k) / T) / sum_{l != k} exp(z_k z_l / T) )

    The mean runs over the 2B items, so it is half the sum of two directions. A collapsed model has the loss ln(2B - 1).

    Source: SimCLR, arXiv 2002.05709, with the image and the caption as the two views.

    Inputs:
        Image ids `(batch,)` as `y_true`, stacked unit embeddings `(batch, 2, dim)` (image, caption) as `y_pred`.

    Requirements:
        - Pairs of one image have the same id, see `mask_same_image`.
        - Twice the similarities of `ConVSE`.

    Relations:
        - `ConVSE` leaves out the negatives of the anchor's own modality: other images for an image, other captions for
          a caption. Take this loss as the baseline for that choice; it spreads each modality over the space by itself.

    Args:
        temperature: T, a positive number, or a variable or function that returns it.
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

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses; see `nt_xent`."""
        return nt_xent(image, text, image_id, self.temperature)

    def collapsed_pair(self, batch_size: int) -> float:
        """ln(2B - 1)."""
        return math.log(2 * batch_size - 1)
