"""What every objective here shares: the global batch, the same-image mask, similarities, and the Keras base class.

The gather across replicas, the offset of a replica's labels and the mask live in this module and nowhere else.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

Scalar = Any
"""A float, a `tf.Variable`, a `keras.Variable`, a scalar tensor, or a function without arguments that gives one."""

LOWEST = -1e30
"""Stands for a similarity that must never win: far below any real one, and finite, so that no gradient is NaN."""


class Pairs(NamedTuple):
    """The pairs of this replica beside those of the whole global batch.

    Attributes:
        image: `(b, dim)` float32, image embeddings of this replica.
        text: `(b, dim)` float32, caption embeddings of this replica; pair i is `image[i]`, `text[i]`.
        images: `(B, dim)` image embeddings of all replicas, in replica order.
        texts: `(B, dim)` caption embeddings of all replicas.
        ids: `(b,)` identity of each local pair's image.
        all_ids: `(B,)` identities of all pairs.
        offset: position of this replica's first pair in the global batch; local pair i is global pair `offset + i`.
        replicas: number of replicas in sync.
    """

    image: tf.Tensor
    text: tf.Tensor
    images: tf.Tensor
    texts: tf.Tensor
    ids: tf.Tensor
    all_ids: tf.Tensor
    offset: Any
    replicas: int


def replica_context() -> Any:
    """The replica context when several replicas run in sync, else None (no strategy, one replica, or cross-replica)."""
    if tf.distribute.in_cross_replica_context():
        return None
    context = tf.distribute.get_replica_context()
    return context if context.num_replicas_in_sync > 1 else None


def gather(image: Any, text: Any, row: Any = None) -> Pairs:
    """Collect the global batch: every anchor's candidates are the pairs of all replicas.

    Inside a replica of a `tf.distribute` strategy the embeddings and rows are gathered once each. The gather is
    differentiable: its gradient sums what every replica's loss says about an embedding, so Keras' own scaling of the
    loss (divided by the number of replicas) and summed gradients give the gradient of one device.

    Args:
        image: `(b, dim)` image embeddings, any float dtype.
        text: `(b, dim)` caption embeddings.
        row: `(b,)` or `(b, 1)` identities of the images, or None: then every pair is its own.

    Returns:
        The local pairs and the global ones; without replicas they are the same tensors.
    """
    image, text = as_float32(image), as_float32(text)
    if image.shape.rank != 2 or text.shape.rank != 2:
        raise ValueError(f"image and text must be (batch, dim); got shapes {image.shape} and {text.shape}")
    if not image.shape.is_compatible_with(text.shape):
        raise ValueError(f"image and text must have the same shape; got {image.shape} and {text.shape}")
    context = replica_context()
    local = tf.shape(image)[0]
    ids = None if row is None else tf.stop_gradient(tf.reshape(tf.convert_to_tensor(row), [-1]))
    if context is None:
        ids = tf.range(local) if ids is None else ids
        return Pairs(image, text, image, text, ids, ids, 0, 1)
    replicas = context.num_replicas_in_sync
    offset = context.replica_id_in_sync_group * local
    both = tf.stack([image, text], axis=1)
    gathered = context.all_gather(both, axis=0)
    even = tf.debugging.assert_equal(
        tf.shape(gathered)[0],
        local * replicas,
        "uneven batches: every replica needs the same number of pairs; drop the remainder of the epoch",
    )
    with tf.control_dependencies([] if even is None else [even]):
        gathered = tf.identity(gathered)
    if image.shape[0] is not None:
        gathered = tf.ensure_shape(gathered, [image.shape[0] * replicas, 2, image.shape[1]])
    if ids is None:
        ids, all_ids = offset + tf.range(local), tf.range(local * replicas)
    else:
        all_ids = context.all_gather(ids, axis=0)
    return Pairs(image, text, gathered[:, 0], gathered[:, 1], ids, all_ids, offset, replicas)


def same_image(ids: tf.Tensor, all_ids: tf.Tensor) -> tf.Tensor:
    """`(r, B)` bool: candidate j is of anchor i's own image, its positive included, so it is never i's negative."""
    return tf.equal(ids[:, None], all_ids[None, :])


def similarity(anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """`(r, B)` dot products of local anchors (rows) and gathered candidates (columns); cosines of unit vectors."""
    return tf.matmul(anchors, candidates, transpose_b=True)


def positive_similarity(pairs: Pairs) -> tf.Tensor:
    """`(b,)` dot product of each local pair's image and caption."""
    return tf.reduce_sum(pairs.image * pairs.text, axis=1)


def as_float32(value: Any) -> tf.Tensor:
    """The value as a float32 tensor."""
    return tf.cast(tf.convert_to_tensor(value), tf.float32)


def current(value: Scalar) -> Any:
    """What a scalar setting is now: a function is called, anything else is handed back."""
    return value() if callable(value) else value


def scalar(value: Scalar) -> tf.Tensor:
    """A scalar setting as a float32 tensor that gradients flow through."""
    return as_float32(current(value))


def as_float(value: Scalar) -> float:
    """A scalar setting's present value as a Python float, for `get_config`; read it outside of graphs."""
    value = current(value)
    return float(value) if isinstance(value, numbers.Real) else float(keras.ops.convert_to_numpy(value))


def check(name: str, value: Scalar, holds: Callable[[float], bool], rule: str) -> None:
    """Raise a `ValueError` when a plain number breaks a rule; variables and functions are the caller's word.

    Args:
        name: the argument's name.
        value: what was given.
        holds: tells whether a number is allowed.
        rule: the rule in words, as in `positive`.
    """
    if isinstance(value, numbers.Real) and not holds(float(value)):
        raise ValueError(f"{name} must be {rule}; got {name}={value}")


def check_temperature(value: Scalar) -> None:
    """Temperatures are positive."""
    check("temperature", value, lambda number: 0 < number < float("inf"), "a positive number")


def check_margin(value: Scalar) -> None:
    """Margins are not negative."""
    check("margin", value, lambda number: 0 <= number < float("inf"), "zero or a positive number")


class PairLoss(keras.losses.Loss):
    """Base of the objectives: splits stacked embeddings into pairs, computes in float32, knows its collapse value.

    A subclass implements `pair_losses` and `collapsed_pair`.

    Args:
        mask_same_image: leave other pairs of an anchor's own image out of its negatives, across the global batch.
        reduction: as in Keras. `sum_over_batch_size` is the mean over pairs, `sum` adds them up; both come out the
            same on any number of replicas.
        name: name of the loss.
    """

    def __init__(self, mask_same_image: bool, reduction: str, name: str) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.mask_same_image = mask_same_image

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """The loss of each pair.

        Args:
            y_true: `(batch,)` or `(batch, 1)` rows: whole numbers below 2^24 that identify the images.
            y_pred: `(batch, 2, dim)` unit vectors, `[:, 0]` images and `[:, 1]` captions.

        Returns:
            `(batch,)` float32.
        """
        y_pred = tf.convert_to_tensor(y_pred)
        if y_pred.shape.rank != 3 or y_pred.shape[1] != 2:
            raise ValueError(f"y_pred must be (batch, 2, dim), image and text embeddings; got shape {y_pred.shape}")
        # Not two slices: their gradients would be two padded copies of the batch and the sum of these.
        image, text = tf.unstack(y_pred, axis=1)
        return self.pair_losses(image, text, y_true if self.mask_same_image else None)

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, row: tf.Tensor | None) -> tf.Tensor:
        """`(batch,)` losses of pairs; `row` is None where nothing is masked."""
        raise NotImplementedError

    def collapsed_pair(self, batch_size: int) -> float:
        """A pair's loss when all embeddings of a batch are one point."""
        raise NotImplementedError

    def collapse_value(self, batch_size: int) -> float:
        """The loss of a collapsed model: all embeddings of the batch are one point.

        A run whose loss sits here has learnt nothing. The value holds where no two pairs of the batch show the same
        image; masked duplicates leave an anchor fewer negatives and lower it slightly where a loss sums over them.

        Args:
            batch_size: pairs in the global batch.

        Returns:
            The value of the loss, with this object's reduction.
        """
        return self.collapsed_pair(batch_size) * (batch_size if self.reduction == "sum" else 1)

    def scalars(self) -> dict[str, tf.Tensor]:
        """What a training step logs besides the loss: temperature and bias, and the hardness where it moves."""
        values = {name: getattr(self, name, None) for name in ("temperature", "bias", "hardness")}
        if isinstance(values["hardness"], numbers.Real):
            del values["hardness"]
        return {name: scalar(value) for name, value in values.items() if value is not None}

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; scalar settings as the float they are now."""
        return {**super().get_config(), "mask_same_image": self.mask_same_image}
