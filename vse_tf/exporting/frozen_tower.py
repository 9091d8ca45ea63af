"""A Keras tower as a plain TensorFlow function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from vse_tf.exporting.slices import in_slices

# Rows that run at once unless the caller says otherwise.
ROWS = 64


class FrozenTower:
    """A tower in inference mode: one traced function and the variables that it reads, nothing else of Keras.

    Not a `tf.Module`: assign `variables` to the module that is exported, and its SavedModel holds the weights, but no
    layer, no training configuration and no optimizer. A large batch runs in slices of `ROWS`.

    Args:
        tower: a model of one input.

    Attributes:
        row: what it gives for a row.
        variables: the `tf.Variable`s that the function reads; weights that inference does not need are left out.

    Example:
        >>> frozen = FrozenTower(embedder.text_tower)
        >>> frozen(token_ids).shape
        TensorShape([3, 128])
    """

    def __init__(self, tower: keras.Model) -> None:
        taken = tower.inputs[0]
        self.spec = tf.TensorSpec([None, *taken.shape[1:]], taken.dtype, name=taken.name)
        with on_any_device(tower):
            self._run = tf.function(
                lambda inputs: tower(inputs, training=False), input_signature=[self.spec]
            ).get_concrete_function()
        self.variables = list(self._run.variables)
        self.row = tf.TensorSpec(self._run.structured_outputs.shape[1:], self._run.structured_outputs.dtype)

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        (outputs,) = in_slices(
            tf.shape(inputs)[0], ROWS, lambda start, end: [self.at_once(inputs[start:end])], [self.row]
        )
        return outputs

    def at_once(self, inputs: tf.Tensor) -> tf.Tensor:
        """The tower on a batch that is a slice already."""
        # Fused convolutions fail on an empty batch: it runs as a batch of one, which is cut off again.
        shape = tf.shape(inputs)
        one = tf.concat([[1], shape[1:]], 0)
        filled = tf.cond(shape[0] > 0, lambda: inputs, lambda: tf.zeros(one, inputs.dtype))
        return self._run(tf.ensure_shape(filled, self.spec.shape))[: shape[0]]


@contextlib.contextmanager
def on_any_device(tower: keras.Model) -> Iterator[None]:
    """Recurrent layers traced where there is a GPU would otherwise become cuDNN operations, which a CPU cannot run."""
    layers = [layer for layer in tower._flatten_layers() if hasattr(layer, "use_cudnn")]
    before = [layer.use_cudnn for layer in layers]
    for layer in layers:
        layer.use_cudnn = False
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.use_cudnn = value
