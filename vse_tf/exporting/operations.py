"""Which TensorFlow operations a SavedModel needs beyond those that every TensorFlow has."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2


def custom_operations(folder: Path) -> list[str]:
    """Operations of other libraries in a SavedModel, sorted; a loader must have them.

    Args:
        folder: the SavedModel.

    Example:
        >>> custom_operations(Path("models/text_tower/1"))
        []
    """
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = {f.signature.name for graph in model.meta_graphs for f in graph.graph_def.library.function}
    # tf.raw_ops is generated from TensorFlow's own operations; a library that is imported adds nothing to it.
    return sorted(name for name in set(_operations(model)) if name not in functions and not hasattr(tf.raw_ops, name))


def _operations(model: saved_model_pb2.SavedModel) -> Iterator[str]:
    for graph in model.meta_graphs:
        yield from (node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            yield from (node.op for node in function.node_def)
