"""Gradient caching: the exact gradient of a large batch in the memory of a micro-batch.

A contrastive loss compares each pair with all others, so the gradients of micro-batches cannot simply be added: each
would have its own negatives only. But the loss depends on the towers through the embeddings alone. Therefore:

1. encode the micro-batches and store only the embeddings `(batch, 2, dim)`;
2. compute the loss of the full batch and its gradient with respect to the embeddings;
3. encode each micro-batch again, with a tape, and propagate the gradient of its embeddings through the towers.

The sum over the micro-batches is the gradient of the full batch, at the price of a second forward pass. The towers draw
the same dropout masks in both passes, since the states of their seed generators are restored in between.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of


def cached_gradients(
    model: keras.Model, inputs: dict[str, tf.Tensor], image_id: tf.Tensor, size: int
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Loss, embeddings and gradients of a batch, with the activations of one micro-batch in memory.

    Args:
        model: the compiled `DualEncoder`.
        inputs: `{"image": …, "text": …}` of the batch (of this replica).
        image_id: `(batch,)` ids of the images.
        size: pairs in a micro-batch, a divisor of the batch.

    Returns:
        The loss as `compute_loss` gives it, the embeddings `(batch, 2, dim)`, and the gradient of the (for mixed
        precision: scaled) loss for each of the model's `trained_variables`.

    Raises:
        UserError: a tower trains batch statistics, or the batch is not a multiple of the micro-batch.
    """
    check_micro_batch(model, size)
    batch = inputs["text"].shape[0]
    if batch is not None and batch % size:
        raise UserError(f"train.micro_batch: the batch of {batch} pairs a replica is not a multiple of {size}")
    count = batch // size if batch is not None else tf.shape(inputs["text"])[0] // size
    parts = {name: _split(value, size) for name, value in inputs.items()}
    parts["image"] = _frozen_features(model, parts["image"], count)

    def encode(i: tf.Tensor) -> tf.Tensor:
        return model({name: part[i] for name, part in parts.items()}, training=True)

    seeds = _seeds(model)
    states = [tf.identity(seed.value) for seed in seeds]
    shape = [2, model.text_tower.output_shape[-1]]
    embeddings = tf.reshape(_each(encode, count, [size, *shape]), [-1, *shape])
    embeddings = tf.ensure_shape(embeddings, [batch, *shape])
    # The second pass is the same function only if dropout draws the same masks.
    for seed, state in zip(seeds, states, strict=True):
        seed.assign(state)

    variables = model.trained_variables
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = model.compute_loss(x=inputs, y=image_id, y_pred=embeddings)
        scaled = model.optimizer.scale_loss(loss)
    # The loss reads some variables itself: a learned temperature, and regularised weights.
    of_embeddings, *gradients = tape.gradient(scaled, [embeddings, *variables])
    of_embeddings = _split(of_embeddings, size)

    def add(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
        with tf.GradientTape() as tape:
            again = encode(i)
        found = _dense(tape.gradient(again, variables, of_embeddings[i]), variables)
        return i + 1, *(total + part for total, part in zip(sums, found, strict=True))

    start = (0, *_dense(gradients, variables))
    _, *gradients = tf.while_loop(lambda i, *_: i < count, add, start, parallel_iterations=1)
    return loss, embeddings, gradients


def check_micro_batch(model: keras.Model, micro_batch: int, replicas: int = 1) -> None:
    """Refuse a model that cannot be encoded in micro-batches.

    BatchNorm in training mode normalises by the statistics of its input: those of a micro-batch differ from those of
    the batch, and two passes would update the moving averages twice.

    Args:
        model: the `DualEncoder`.
        micro_batch: pairs of the global batch in a micro-batch.
        replicas: number of replicas in sync, which share each micro-batch.

    Raises:
        UserError: a tower trains batch statistics, or the micro-batch is not a multiple of the replicas.
    """
    if micro_batch % replicas:
        raise UserError(f"train.micro_batch: {micro_batch} is not a multiple of the {replicas} replicas")
    for tower in (model.image_tower, model.text_tower):
        for layer in tower._flatten_layers():
            batch_norm = isinstance(layer, keras.layers.BatchNormalization) or hasattr(layer, "moving_mean")
            if batch_norm and layer.trainable:
                raise UserError(
                    f"train.micro_batch: the {tower.name}'s layer {layer.name} trains batch statistics, which differ "
                    "between a micro-batch and the batch; freeze the backbone (image.trainable false, text.trainable "
                    "false) or set train.micro_batch 0"
                )


def _frozen_features(model: keras.Model, images: tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
    """The features of a frozen backbone in place of the images: it runs once, not in both passes."""
    backbone = backbone_of(model.image_tower)
    pixels = len(images.shape) - 1 == len(model.image_tower.inputs[0].shape)
    if backbone is None or (backbone.trainable and not backbone.resting) or not pixels:
        return images
    shape = [images.shape[1], *backbone.output_shape[1:]]
    return _each(lambda i: backbone(images[i], training=False), count, shape)


def _each(function: Callable[[tf.Tensor], tf.Tensor], count: int | tf.Tensor, shape: list[int]) -> tf.Tensor:
    """The float32 results, of this shape, of the function for micro-batch 0, 1, …, one at a time; stacked."""
    results = tf.TensorArray(tf.float32, size=count, element_shape=shape)

    def body(i: tf.Tensor, results: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        return i + 1, results.write(i, tf.cast(function(i), tf.float32))

    _, results = tf.while_loop(lambda i, _: i < count, body, (0, results), parallel_iterations=1)
    return results.stack()


def _split(value: tf.Tensor, size: int) -> tf.Tensor:
    """`(batch, …)` as `(count, size, …)`."""
    shape = tf.shape(value)
    split = tf.reshape(value, tf.concat([[-1, size], shape[1:]], axis=0))
    count = None if value.shape[0] is None else value.shape[0] // size
    return tf.ensure_shape(split, [count, size, *value.shape[1:]])


def _dense(gradients: list[tf.Tensor | tf.IndexedSlices | None], variables: list[keras.Variable]) -> list[tf.Tensor]:
    """The gradients as dense tensors; zeros for variables without one."""
    pairs = zip(gradients, variables, strict=True)
    return [tf.zeros(v.shape, v.dtype) if g is None else tf.convert_to_tensor(g) for g, v in pairs]


def _seeds(model: keras.Model) -> list[keras.Variable]:
    """The states of the seed generators of both towers."""
    found = []
    for tower in (model.image_tower, model.text_tower):
        weights = {id(weight) for weight in tower.weights}
        found += [variable for variable in tower.variables if id(variable) not in weights]
    return found
