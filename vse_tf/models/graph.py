"""The graph of a functional model: where it is narrow, so that it can be read or cut there."""

from __future__ import annotations

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
