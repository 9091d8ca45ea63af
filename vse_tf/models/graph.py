"""The graph of a functional model: where it is narrow, so that it can be read or cut there."""

from __future__ import annotations

from collections import Counter

import keras


def operations_of(network: keras.Model) -> list[keras.Operation]:
    """The operations of a functional model in the order of its graph, without its inputs."""
    return [operation for operation in network.operations if not isinstance(operation, keras.layers.InputLayer)]


def cut_points(network: keras.Model) -> list[tuple[int, keras.KerasTensor]]:
    """The tensors of floats that all later operations depend on.

    Integers and booleans that run past them, token ids and masks, do not count.

    Args:
        network: a functional model, whose layers are called once.

    Returns:
        Each with the place of its operation among `operations_of`.
    """
    operations = operations_of(network)
    made_at = {
        id(tensor): at
        for at, operation in enumerate(operations)
        for tensor in keras.tree.flatten(operation.output)
        if is_float(tensor)
    }
    # The last operation that needs the output of each operation.
    needed = list(range(len(operations)))
    for at, operation in enumerate(operations):
        for tensor in keras.tree.flatten(operation.input):
            if (source := made_at.get(id(tensor))) is not None:
                needed[source] = at
    found, reach = [], 0
    for at, operation in enumerate(operations):
        output = operation.output
        if reach <= at and isinstance(output, keras.KerasTensor) and is_float(output):
            found.append((at, output))
        reach = max(reach, needed[at])
    return found


def is_float(tensor: keras.KerasTensor) -> bool:
    """Whether a tensor holds numbers with a fraction."""
    return keras.backend.is_float_dtype(tensor.dtype)


def is_functional(operation: keras.Operation) -> bool:
    """Whether an operation is a model whose graph is known."""
    return hasattr(operation, "_run_through_graph")


def is_chain(operation: keras.Operation) -> bool:
    """Whether a layer holds several blocks: layers of one class that consist of layers themselves."""
    if not isinstance(operation, keras.layers.Layer) or is_functional(operation):
        return False
    inner = operation._flatten_layers(include_self=False, recursive=False)
    kinds = Counter(type(each) for each in inner if list(each._flatten_layers(include_self=False, recursive=False)))
    return max(kinds.values(), default=0) > 1
