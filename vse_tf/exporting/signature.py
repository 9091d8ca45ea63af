"""Signatures: traced functions with named inputs and outputs, as a SavedModel stores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Signatures = dict[str, Any]


def signature(function: Callable[..., Any], **inputs: tf.TensorSpec) -> Any:
    """Trace a function for export.

    Args:
        function: from the inputs, by keyword, to embeddings or to a dictionary of outputs.
        inputs: shape and type of each input.

    Returns:
        A concrete function with a dictionary of outputs; embeddings alone are called `embedding`.

    Example:
        >>> signature(module.of_text, text=tf.TensorSpec([None], tf.string))
    """

    def named(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        found = function(**values)
        return found if isinstance(found, dict) else {"embedding": found}

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()}
    return tf.function(named, autograph=False).get_concrete_function(**specs)


def checked(tensor: tf.Tensor, condition: tf.Tensor, *message: tf.Tensor | str) -> tf.Tensor:
    """The tensor if a condition holds, else an InvalidArgumentError with the joined message."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [tf.strings.join(message)])]):
        return tf.identity(tensor)


def described(signatures: Signatures) -> dict[str, Any]:
    """Type and shape of the inputs and outputs of each signature, for JSON; null is any length."""

    def of_specs(specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
        return {name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for name, spec in sorted(specs.items())}

    return {
        name: {
            "inputs": of_specs(function.structured_input_signature[1]),
            "outputs": of_specs(function.structured_outputs),
        }
        for name, function in sorted(signatures.items())
    }
