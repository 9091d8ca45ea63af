"""What all losses share: the global batch, the same-image mask, similarities, and the Keras base class.

The gather across replicas and the mask live in this module and nowhere else.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

Scalar: TypeAlias = "float | tf.Tensor | tf.Variable | keras.Variable | Callable[[], tf.Tensor]"
"""A number, a variable, a scalar tensor, or a function without arguments that returns one."""

LOWEST = -1e30
"""Masks a similarity: far below any real one, and finite, so that no gradient is NaN."""


class Pairs(NamedTuple):
    """The pairs of this replica and those of the global batch.

    Attributes:
        image: `(b, dim)` float32, image embeddings of this replica.
        text: `(b, dim)` float32, caption embeddings of this replica; pair i is `image[i]`, `text[i]`.
        all_image: `(B, dim)` image embeddings of all replicas, in replica order.
        all_text: `(B, dim)` caption embeddings of all replicas.
        image_id: `(b,)` which image each pair of this replica shows.
        all_image_id: `(B,)` the same for all pairs.
        replicas: number of replicas in sync.
    """

    image: tf.Tensor
    text: tf.Tensor
    all_image: tf.Tensor
    all_text: tf.Tensor
    image_id: tf.Tensor
    all_image_id: tf.Tensor
    replicas: int


def replica_context() -> tf.distribute.ReplicaContext | None:
    """The replica context if several replicas run in sync; None without a strategy, on one replica, or outside one."""
    if tf.distribute.in_cross_replica_context():
        return None
    context = tf.distribute.get_replica_context()
    return context if context.num_replicas_in_sync > 1 else None


def gather(image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None = None) -> Pairs:
    """Collect the global batch: every anchor is compared with the pairs of all replicas.

    Inside a replica of a `tf.distribute` strategy the embeddings and the ids are gathered once each. The gather is
    differentiable: the gradient of an embedding is the sum over the losses of all replicas. With Keras' scaling of the
    loss (divided by the number of replicas) and summed gradients this is the gradient of one device.

    Args:
        image: `(b, dim)` image embeddings, any float dtype.
        text: `(b, dim)` caption embeddings.
        image_id: `(b,)` or `(b, 1)` ids of the images, or None: every pair has an image of its own.

    Returns:
        The local and the global pairs; without replicas they are the same tensors.

    Raises:
        ValueError: the embeddings are not two matrices of one shape.
    """
    image, text = as_float32(image), as_float32(text)
    if image.shape.rank != 2 or text.shape.rank != 2:
        raise ValueError(f"image and text must be (batch, dim); got shapes {image.shape} and {text.shape}")
    if not image.shape.is_compatible_with(text.shape):
        raise ValueError(f"image and text must have the same shape; got {image.shape} and {text.shape}")
    context = replica_context()
    local = tf.shape(image)[0]
    if image_id is not None:
        image_id = tf.stop_gradient(tf.reshape(tf.convert_to_tensor(image_id), [-1]))
    if context is None:
        image_id = tf.range(local) if image_id is None else image_id
        return Pairs(image, text, image, text, image_id, image_id, 1)
    replicas = context.num_replicas_in_sync
    gathered = context.all_gather(tf.stack([image, text], axis=1), axis=0)
    even = tf.debugging.assert_equal(
        tf.shape(gathered)[0],
        local * replicas,
        "uneven batches: every replica needs the same number of pairs; drop the remainder of the epoch",
    )
    with tf.control_dependencies([] if even is None else [even]):
        gathered = tf.identity(gathered)
    if image.shape[0] is not None:
        gathered = tf.ensure_shape(gathered, [image.shape[0] * replicas, 2, image.shape[1]])
    if image_id is None:
        image_id = context.replica_id_in_sync_group * local + tf.range(local)
        all_image_id = tf.range(local * replicas)
    else:
        all_image_id = context.all_gather(image_id, axis=0)
    return Pairs(image, text, gathered[:, 0], gathered[:, 1], image_id, all_image_id, replicas)


def same_image(image_id: tf.Tensor, all_image_id: tf.Tensor) -> tf.Tensor:
    """`(r, B)` bool: anchor i and candidate j show the same image, so j is the positive of i or masked, no negative."""
    return tf.equal(image_id[:, None], all_image_id[None, :])


def similarity(anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
    """`(r, B)` dot products of local anchors (rows) and all candidates (columns); cosines of unit vectors."""
    return tf.matmul(anchors, candidates, transpose_b=True)


def positive_similarity(pairs: Pairs) -> tf.Tensor:
    """`(b,)` dot product of the image and the caption of each local pair."""
    return tf.reduce_sum(pairs.image * pairs.text, axis=1)


def as_float32(value: Any) -> tf.Tensor:
    """The value as a float32 tensor."""
    return tf.cast(tf.convert_to_tensor(value), tf.float32)


def scalar(value: Scalar) -> tf.Tensor:
    """The current value of a scalar argument as a float32 tensor that gradients flow through."""
    return as_float32(value() if callable(value) else value)


def as_float(value: Scalar) -> float:
    """The current value of a scalar argument as a Python float, for `get_config`; not inside graphs."""
    value = value() if callable(value) else value
    return float(value) if isinstance(value, numbers.Real) else float(keras.ops.convert_to_numpy(value))


def check(name: str, value: Scalar, holds: Callable[[float], bool], rule: str) -> None:
    """Raise a `ValueError` if a plain number breaks a rule; variables and functions are not checked.

    Args:
        name: name of the argument.
        value: its value.
        holds: whether a number is allowed.
        rule: the rule in words, after "must be".
    """
    if isinstance(value, numbers.Real) and not holds(float(value)):
        raise ValueError(f"{name} must be {rule}; got {name}={value}")


def check_temperature(value: Scalar) -> None:
    """Raise a `ValueError` unless the temperature is positive."""
    check("temperature", value, lambda number: 0 < number < float("inf"), "a positive number")


def check_margin(value: float) -> None:
    """Raise a `ValueError` if the margin is negative."""
    check("margin", value, lambda number: 0 <= number < float("inf"), "zero or a positive number")


class PairLoss(keras.losses.Loss):  # type: ignore[misc]
    """Base of the losses: splits stacked embeddings into pairs, computes in float32, knows its collapse value.

    A subclass implements `pair_losses` and `collapsed_pair`, stores its constructor arguments as attributes of the same
    names, and takes `reduction` and `name` as Keras' losses do.

    Args:
        mask_same_image: other pairs of an anchor's own image, in the global batch, are not its negatives.
        reduction: as in Keras. `sum_over_batch_size` is the mean over pairs, `sum` their sum; either is the same on any
            number of replicas.
        name: name of the loss.
    """

    def __init__(self, mask_same_image: bool, reduction: str, name: str) -> None:
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.mask_same_image = mask_same_image

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each pair.

        Args:
            y_true: `(batch,)` or `(batch, 1)` image ids, integers below 2^24; pairs of one image have the same id.
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

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        """The `(batch,)` losses of pairs; without `image_id` nothing is masked."""
        raise NotImplementedError

    def collapsed_pair(self, batch_size: int) -> float:
        """The loss of a pair if all embeddings of the batch are equal."""
        raise NotImplementedError

    def collapse_value(self, batch_size: int) -> float:
        """The loss of a collapsed model, whose embeddings are all equal: a run that stays there learns nothing.

        The value holds for a batch of different images; masked duplicates leave an anchor fewer negatives and lower it
        slightly in losses that sum over negatives.

        Args:
            batch_size: number of pairs in the global batch.

        Returns:
            The value of the loss, with this object's reduction.
        """
        return self.collapsed_pair(batch_size) * (batch_size if self.reduction == "sum" else 1)

    def scalars(self) -> dict[str, tf.Tensor]:
        """What a training step logs besides the loss: temperature, bias, and the hardness if it changes."""
        values = {name: getattr(self, name, None) for name in ("temperature", "bias", "hardness")}
        if isinstance(values["hardness"], numbers.Real):
            del values["hardness"]
        return {name: scalar(value) for name, value in values.items() if value is not None}

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, which are attributes of the same names; variables and functions as current floats."""
        config: dict[str, Any] = super().get_config()
        for key in inspect.signature(type(self)).parameters:
            if key not in config:
                value = getattr(self, key)
                config[key] = value if value is None or isinstance(value, int) else as_float(value)
        return config
