"""Figures of a training batch: in-batch accuracy and the gap between the positive and the hardest negative."""

from __future__ import annotations

import tensorflow as tf

from vse_tf.losses.base import LOWEST, gather, replica_context
from vse_tf.losses.blockwise import both_directions

CLEAR_LEAD = 1e-6
"""A positive leads by more than this, about the rounding of a float32 cosine: a collapsed model is never right."""


def batch_statistics(image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
    """Accuracy and hardest-negative gap over the global batch. No gradient flows back.

    Inside a `tf.distribute` replica the candidates are those of all replicas and the values are averaged over all
    anchors, so every replica returns the same numbers. Costs at most one forward matrix product per direction.

    Args:
        image: `(batch, dim)` unit image embeddings; inside a replica, those of this replica.
        text: `(batch, dim)` unit caption embeddings.
        image_id: `(batch,)` ids of the images; other pairs of an anchor's image are not its negatives. None: all other
            pairs are.

    Returns:
        Scalars, float32:

        - `i2t_accuracy`: share of images whose caption is strictly more similar than all negatives;
        - `t2i_accuracy`: share of captions whose image is;
        - `hardest_negative_gap`: positive minus hardest negative, the mean over the anchors of both directions that
            have negatives.

        Ties and non-finite similarities count against the model; an anchor without negatives counts as right.

    Example:
        >>> batch_statistics(y_pred[:, 0], y_pred[:, 1], image_id)["i2t_accuracy"]
    """
    pairs = gather(tf.stop_gradient(image), tf.stop_gradient(text), image_id)

    def of_rows(similarities: tf.Tensor, same: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        positive = positive[:, None]
        first = tf.reduce_all(same | (positive - similarities > CLEAR_LEAD), axis=1)
        hardest = tf.reduce_max(tf.where(same, LOWEST, similarities), axis=1)
        any_negative = tf.reduce_any(~same, axis=1)
        gap = tf.where(any_negative, positive[:, 0] - hardest, 0.0)
        return tf.stack([tf.cast(first, tf.float32), gap, tf.cast(any_negative, tf.float32)], axis=1)

    to_text, to_image = both_directions(of_rows, pairs)
    first, gap, counted = range(3)
    sums = tf.stack(
        [
            tf.reduce_sum(to_text[:, first]),
            tf.reduce_sum(to_image[:, first]),
            tf.reduce_sum(to_text[:, gap]) + tf.reduce_sum(to_image[:, gap]),
            tf.reduce_sum(to_text[:, counted]) + tf.reduce_sum(to_image[:, counted]),
        ]
    )
    context = replica_context()
    if context is not None:
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, sums)
    batch = tf.cast(tf.shape(pairs.all_image)[0], tf.float32)
    return {
        "i2t_accuracy": sums[0] / batch,
        "t2i_accuracy": sums[1] / batch,
        "hardest_negative_gap": tf.math.divide_no_nan(sums[2], sums[3]),
    }
