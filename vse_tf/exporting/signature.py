"""Signatures: traced functions with named inputs and outputs, as a SavedModel stores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Signatures = dict[str, Any]


def signature(function: Callable[..., Any], **inputs: tf.TensorSpec) -> Any:
    """Trace a function for export.

    Args:
        function: takes the inputs by keyword; gives embeddings, or a dictionary of outputs.
        inputs: what each input looks like.

    Returns:
        A concrete function; a bare result is called `embedding`.

    Example:
        >>> signature(module.of_text, text=tf.TensorSpec([None], tf.string))
    """

    def named(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        found = function(**values)
        return found if isinstance(found, dict) else {"embedding": found}

    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()}
    return tf.function(named, autograph=False).get_concrete_function(**specs)


def checked(tensor: tf.Tensor, condition: tf.Tensor, *message: tf.Tensor | str) -> tf.Tensor:
    """The tensor, once a condition holds; otherwise an InvalidArgumentError with the joined message."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [tf.strings.join(message)])]):
        return tf.identity(tensor)


def described(signatures: Signatures) -> dict[str, Any]:
    """Inputs and outputs of each signature as JSON has them: type and shape, null for a free length."""

    def of_specs(specs: dict[str, tf.TensorSpec]) -> dict[str, Any]:
        return {name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list()} for name, spec in sorted(specs.items())}

    return {
        name: {
            "inputs": of_specs(function.structured_input_signature[1]),
            "outputs": of_specs(function.structured_outputs),
        }
        for name, function in sorted(signatures.items())
    }
