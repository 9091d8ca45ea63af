"""Large batches in the memory of a piece: the exact gradient of the whole batch, encoded piece by piece.

A contrastive loss compares every pair with all others, so gradients of small batches cannot simply be added up: each
piece would see its own negatives only. But the loss depends on the towers through the embeddings alone. Hence:

1. encode piece by piece and keep nothing but the embeddings `(batch, 2, dim)`;
2. compute the loss of the whole batch and its gradient with respect to the embeddings;
3. encode each piece again, now with a tape, and send its embeddings' gradient through the towers.

The sum over the pieces is the gradient of the one-piece step, at the price of one more forward pass. The towers draw
the same dropout masks in both passes, since the states of their seed generators are put back in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of


def piecewise_gradients(
    model: Any, inputs: dict[str, tf.Tensor], rows: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Loss, embeddings and gradients of a batch, with the activations of one piece in memory.

    Args:
        model: the compiled dual encoder.
        inputs: `{"image": …, "text": …}` of the batch (of this replica).
        rows: `(batch,)` rows of the images.
        size: pairs in a piece; it divides the batch.

    Returns:
        The loss as `compute_loss` gives it, the embeddings `(batch, 2, dim)`, and the gradient of the (for mixed
        precision: scaled) loss for each of the model's trainable variables.

    Raises:
        UserError: a tower trains batch statistics, or the batch is not a multiple of the piece.
    """
    check_pieces(model, size)
    batch = inputs["text"].shape[0]
    if batch is not None and batch % size:
        raise UserError(f"train.micro_batch: the batch of {batch} pairs a replica is not a multiple of {size}")
    pieces = batch // size if batch is not None else tf.shape(inputs["text"])[0] // size
    parts = {name: _split(value, size) for name, value in inputs.items()}
    parts["image"] = _frozen_features(model, parts["image"], pieces)

    def encode(i: tf.Tensor) -> tf.Tensor:
        return model({name: part[i] for name, part in parts.items()}, training=True)

    seeds = _seeds(model)
    states = [tf.identity(seed.value) for seed in seeds]
    shape = [2, model.text_tower.output_shape[-1]]
    embeddings = tf.reshape(_each(encode, pieces, [size, *shape]), [-1, *shape])
    embeddings = tf.ensure_shape(embeddings, [batch, *shape])
    # The second pass is the same function only if dropout draws the same masks.
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)

    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = model.compute_loss(x=inputs, y=rows, y_pred=embeddings)
        scaled = model.optimizer.scale_loss(loss)
    # The loss reads some variables itself: a learned temperature, and what regularises weights.
    of_embeddings, *gradients = tape.gradient(scaled, [embeddings, *variables])
    of_embeddings = _split(of_embeddings, size)

    def add(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            again = encode(i)
        found = _dense(tape.gradient(again, variables, of_embeddings[i]), variables)
        return i + 1, *(total + part for total, part in zip(sums, found, strict=True))

    start = (0, *_dense(gradients, variables))
    _, *gradients = tf.while_loop(lambda i, *_: i < pieces, add, start, parallel_iterations=1)
    return loss, embeddings, gradients


def check_pieces(model: Any, micro_batch: int, replicas: int = 1) -> None:
    """Refuse what cannot be encoded piece by piece.

    BatchNorm in training mode normalises by the statistics of what it sees at once: a piece's would differ from the
    batch's, and two passes would update the moving averages twice.

    Args:
        model: the dual encoder.
        micro_batch: pairs of the global batch in a piece.
        replicas: replicas in sync, which share each piece.

    Raises:
        UserError: a tower trains batch statistics, or the replicas cannot share a piece evenly.
    """
    if micro_batch % replicas:
        raise UserError(f"train.micro_batch: {micro_batch} is not a multiple of the {replicas} replicas")
    for tower in (model.image_tower, model.text_tower):
        for layer in tower._flatten_layers():
            batch_norm = isinstance(layer, keras.layers.BatchNormalization) or hasattr(layer, "moving_mean")
            if batch_norm and layer.trainable:
                raise UserError(
                    f"train.micro_batch: the {tower.name}'s layer {layer.name} trains batch statistics, which differ "
                    "between a piece and the whole batch; freeze the backbone (image.trainable false, text.trainable "
                    "false) or set train.micro_batch 0"
                )


def _frozen_features(model: Any, images: tf.Tensor, pieces: Any) -> tf.Tensor:
    """A frozen backbone's features in place of the images: it runs once, not in both passes."""
    backbone = backbone_of(model.image_tower)
    pixels = len(images.shape) - 1 == len(model.image_tower.inputs[0].shape)
    if backbone is None or backbone.trainable or not pixels:
        return images
    shape = [images.shape[1], *backbone.output_shape[1:]]
    return _each(lambda i: backbone(images[i], training=False), pieces, shape)


def _each(function: Callable[[tf.Tensor], tf.Tensor], pieces: Any, shape: list[int]) -> tf.Tensor:
    """The function's float32 results of that shape for piece 0, 1, …, stacked; one piece at a time."""
    results = tf.TensorArray(tf.float32, size=pieces, element_shape=shape)

    def body(i: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return i + 1, results.write(i, tf.cast(function(i), tf.float32))

    _, results = tf.while_loop(lambda i, _: i < pieces, body, (0, results), parallel_iterations=1)
    return results.stack()


def _split(value: tf.Tensor, size: int) -> tf.Tensor:
    """`(batch, …)` as `(pieces, size, …)`."""
    shape = tf.shape(value)
    split = tf.reshape(value, tf.concat([[-1, size], shape[1:]], axis=0))
    pieces = None if value.shape[0] is None else value.shape[0] // size
    return tf.ensure_shape(split, [pieces, size, *value.shape[1:]])


def _dense(gradients: list[Any], variables: list[keras.Variable]) -> list[tf.Tensor]:
    """The gradients as plain tensors; zeros for variables that have none."""
    pairs = zip(gradients, variables, strict=True)
    return [tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g) for g, v in pairs]


def _seeds(model: Any) -> list[keras.Variable]:
    """The states of all seed generators of the towers."""
    found = []
    for tower in (model.image_tower, model.text_tower):
        weights = {id(weight) for weight in tower.weights}
        found += [variable for variable in tower.variables if id(variable) not in weights]
    return found
