"""The blocks of a pretrained backbone in the order of its data, so that each can learn at its own rate."""

from __future__ import annotations

from collections.abc import Iterator

import keras

from vse_tf.models.graph import is_chain, is_float, is_functional


def blocks_of(part: keras.Model) -> list[list[keras.Variable]]:
    """The weights of a backbone, or of its trained end, by block from the input to the output.

    The blocks are those that `image.trainable` and `text.trainable` count. What has no kernel, such as a norm between
    two blocks, belongs to the block before it; weights that several blocks share are in each of them.

    Args:
        part: a `PretrainedBackbone` or a `BackboneTail`.

    Example:
        >>> [len(weights) for weights in blocks_of(backbone_of(text_tower))]
        [4, 16, 16]
    """
    blocks: list[list[keras.Variable]] = []
    for weights in _parts(part):
        if not blocks or any(len(weight.shape) > 1 for weight in weights):
            blocks.append([])
        blocks[-1] += weights
    return blocks


def _parts(layer: keras.Layer) -> Iterator[list[keras.Variable]]:
    """The weights of the smallest parts of a layer that the data pass one after the other."""
    if is_functional(layer):
        for layers in _segments(layer):
            if len(layers) == 1:
                yield from _parts(layers[0])
            elif layers:
                yield [weight for each in layers for weight in each.weights]
    elif is_chain(layer):
        inner = [each for each in layer._flatten_layers(include_self=False, recursive=False) if each.weights]
        theirs = {id(weight) for each in inner for weight in each.weights}
        yield [weight for weight in layer.weights if id(weight) not in theirs]
        for each in inner:
            yield from _parts(each)
    else:
        yield layer.weights


def _segments(network: keras.Model) -> Iterator[list[keras.Layer]]:
    """The layers with weights between two places where the graph is one tensor of floats.

    Only the path to the last of these layers counts: maps that are pooled behind it bypass no block.
    """
    # Of a layer that is called again, `layer.output` is that of the first call; a node is one call.
    by_depth = network._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth] if not node.is_input]
    weighted = [node for node in nodes if _has_weights(node)]
    if not weighted:
        return
    # A shortcut may end behind it: with the sum, or an activation, of the same shape.
    place = nodes.index(weighted[-1])
    end, shape = {id(tensor) for tensor in nodes[place].outputs}, nodes[place].outputs[0].shape
    behind = set(end)
    for node in nodes[place + 1 :]:
        if behind & {id(tensor) for tensor in node.input_tensors} and node.outputs[0].shape == shape:
            end = {id(tensor) for tensor in node.outputs}
            behind |= end
    path, wanted = [], set(end)
    for node in reversed(nodes):
        if wanted & {id(tensor) for tensor in node.outputs}:
            path.append(node)
            wanted |= {id(tensor) for tensor in node.input_tensors}
    path.reverse()
    made_at = {id(tensor): at for at, node in enumerate(path) for tensor in node.outputs if is_float(tensor)}
    # The last call that needs the output of each call.
    needed = list(range(len(path)))
    for at, node in enumerate(path):
        for tensor in node.input_tensors:
            if (source := made_at.get(id(tensor))) is not None:
                needed[source] = at
    inputs = {id(tensor) for tensor in network.inputs if is_float(tensor)}
    # A shortcut may begin at the input, too.
    reach = max(
        (at for at, node in enumerate(path) if inputs & {id(tensor) for tensor in node.input_tensors}), default=0
    )
    segment = []
    for at, node in enumerate(path[:-1]):
        segment.append(node)
        if reach <= at and len(node.outputs) == 1 and is_float(node.outputs[0]):
            yield _layers(segment)
            segment = []
        reach = max(reach, needed[at])
    found = {id(node) for node in path}
    yield _layers([*segment, path[-1], *(node for node in weighted if id(node) not in found)])


def _layers(nodes: list) -> list[keras.Layer]:
    return list(dict.fromkeys(node.operation for node in nodes if _has_weights(node)))


def _has_weights(node) -> bool:
    return bool(getattr(node.operation, "weights", ()))
