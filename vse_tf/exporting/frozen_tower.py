"""A Keras tower as a plain TensorFlow function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from vse_tf.exporting.slices import SLICE_SIZE, in_slices


class FrozenTower:
    """A tower in inference mode, as one traced function with the variables that it reads.

    It is not a `tf.Module`: assign `variables` to the exported module, and the SavedModel contains the weights, without
    layers, training configuration and optimizer. Large batches run in slices of `SLICE_SIZE`.

    Args:
        tower: a model with one input.

    Attributes:
        spec: shape and type of its input, a batch.
        output_spec: shape and type of its output for one item.
        variables: the `tf.Variable`s that the function reads; weights that inference does not need are not included.

    Example:
        >>> frozen = FrozenTower(embedder.text_tower)
        >>> frozen(token_ids).shape
        TensorShape([3, 128])
    """

    def __init__(self, tower: keras.Model) -> None:
        tensor = tower.inputs[0]
        self.spec = tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=tensor.name)
        with for_serving(tower):
            self._run = tf.function(
                lambda inputs: tower(inputs, training=False), input_signature=[self.spec]
            ).get_concrete_function()
        self.variables = list(self._run.variables)
        outputs = self._run.structured_outputs
        self.output_spec = tf.TensorSpec(outputs.shape[1:], outputs.dtype)

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        (outputs,) = in_slices(
            tf.shape(inputs)[0], SLICE_SIZE, lambda start, end: [self.run_slice(inputs[start:end])], [self.output_spec]
        )
        return outputs

    def run_slice(self, inputs: tf.Tensor) -> tf.Tensor:
        """Run the tower on a batch that is small enough."""
        # Fused convolutions fail on an empty batch: it runs as a batch of one, whose result is removed.
        shape = tf.shape(inputs)
        one = tf.concat([[1], shape[1:]], 0)
        filled = tf.cond(shape[0] > 0, lambda: inputs, lambda: tf.zeros(one, inputs.dtype))
        return self._run(tf.ensure_shape(filled, self.spec.shape))[: shape[0]]


@contextlib.contextmanager
def for_serving(tower: keras.Model) -> Iterator[None]:
    """Trace recurrent layers without cuDNN, which a machine without GPU cannot run, and without their gradients."""
    layers = tower._flatten_layers()
    values = {"use_cudnn": False, "without_gradient": True}
    found = [(layer, name, getattr(layer, name)) for layer in layers for name in values if hasattr(layer, name)]
    for layer, name, _ in found:
        setattr(layer, name, values[name])
    try:
        yield
    finally:
        for layer, name, before in found:
            setattr(layer, name, before)
