"""Fine-tuning the last blocks of a pretrained backbone at the speed of cached features.

The graph of the backbone is cut in two. The frozen part ends with the states at the cut and whatever else the rest
needs: earlier maps that are pooled too, the mask of a caption. They are the feature that `FeatureCache` computes once.
The rest is the beginning of the tower's head and is trained with it; its gradient is that of the same blocks in the
uncut backbone, up to the rounding of the states to float16.
"""

from __future__ import annotations

from dataclasses import dataclass

import keras

from vse_tf.errors import UserError
from vse_tf.models.backbones import BackboneTail, PretrainedBackbone
from vse_tf.models.graph import cut_points, is_chain, is_functional, operations_of
from vse_tf.models.packed_states import PackStates, UnpackStates, can_be_packed, spec_of

ROUNDING = "float16"


@dataclass(frozen=True)
class CutBackbone:
    """A backbone in two parts: an encoder whose features are the states at the cut.

    Args:
        frozen: from the input of the tower to the packed states, `(batch, values)` or `(batch, length, values)`.
        tail: from these to the feature of the uncut backbone. `build_head` puts it before the head.
    """

    frozen: PretrainedBackbone
    tail: BackboneTail

    def __call__(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        return self.frozen(inputs)


def build_backbone(
    inputs: keras.KerasTensor,
    feature: keras.KerasTensor,
    states: keras.KerasTensor,
    trainable: bool | int,
    where: str,
) -> PretrainedBackbone | CutBackbone:
    """A backbone of which everything, nothing or the last blocks are trained.

    Args:
        inputs: input of the graph.
        feature: its output.
        states: output of the last block of the network in it, of which the feature is made.
        trainable: true, false, or the number of blocks. A block is the smallest part of the network with kernels that
            the data pass as one tensor: a residual block, a layer of a transformer, or a layer between these. Their
            batch normalisation stays in inference mode and is not trained.
        where: setting and name of the encoder, for messages.

    Raises:
        UserError: the network has fewer blocks, or its graph has no place where it can be cut.
    """
    if isinstance(trainable, bool):
        return PretrainedBackbone(inputs, feature, name="backbone", trainable=trainable)
    key, _, encoder = where.partition(" ")
    uncut = UserError(f"{key}: {trainable}, but {encoder} has no place where it can be cut; give true or false")
    try:
        flat = _flattened(keras.Model(inputs, [feature, states], name="backbone"))
    except (
        Exception
    ) as error:  # a layer that cannot be rebuilt by itself, as KerasHub's embedding of ViT, raises anything
        raise uncut from error
    feature, states = flat.outputs
    cuts = [] if any(len(each._inbound_nodes) > 1 for each in flat.operations) else _inputs_of_blocks(flat, states)
    crossing = _crossing(flat, cuts[-trainable]) if 0 < trainable <= len(cuts) else []
    if not cuts or not can_be_packed(crossing):
        raise uncut
    if not crossing:
        raise UserError(f"{key}: {trainable}, but {encoder} has {len(cuts)} blocks; give fewer, or true")
    specs = [spec_of(tensor) for tensor in crossing]
    packed = PackStates(specs, ROUNDING, name="pack_states")(crossing)
    cut = keras.Input(packed.shape[1:], name="states")
    blocks = keras.Model(crossing, feature, name="blocks")
    tail = BackboneTail(cut, blocks(UnpackStates(specs, name="unpack_states")(cut)), name="backbone_tail")
    frozen = PretrainedBackbone(flat.input, packed, name="backbone", trainable=False)
    return CutBackbone(frozen, tail)


def _inputs_of_blocks(flat: keras.Model, states: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The tensor that enters each block on the way to the states, except for the first."""
    network = keras.Model(flat.input, states)
    operations, found, before = operations_of(network), list[keras.KerasTensor](), None
    start = 0
    for at, tensor in cut_points(network):
        part = (each for each in operations[start : at + 1] if isinstance(each, keras.layers.Layer))
        if before is not None and any(len(weight.shape) > 1 for layer in part for weight in layer.weights):
            found.append(before)
        start, before = at + 1, tensor
    return found


def _crossing(flat: keras.Model, cut: keras.KerasTensor) -> list[keras.KerasTensor]:
    """The tensors that what depends on the cut reads from what does not, the cut itself first."""
    after, crossing = {id(cut)}, {id(cut): cut}
    for operation in operations_of(flat):
        inputs = keras.tree.flatten(operation.input)
        if any(id(tensor) in after for tensor in inputs):
            crossing |= {id(tensor): tensor for tensor in inputs if id(tensor) not in after}
            after |= {id(tensor) for tensor in keras.tree.flatten(operation.output)}
    return list(crossing.values())


def _flattened(model: keras.Model) -> keras.Model:
    """A functional model without models inside it, its layers new ones of the same names and weights.

    The layers are rebuilt as those of a stored run are: their weights have the same names then.
    """
    closed = set[int]()

    def call(operation, *args, **kwargs):
        if is_functional(operation):
            return operation._run_through_graph(args[0])
        if is_chain(operation) and id(operation) not in closed:
            try:
                return operation.call(*args, **kwargs)
            except Exception:  # a layer whose code does not run on symbolic tensors may raise anything
                closed.add(id(operation))
        return operation(*args, **kwargs)

    while any(is_functional(each) or (is_chain(each) and id(each) not in closed) for each in model.operations):
        model = keras.models.clone_model(model, clone_function=lambda each: each, call_function=call)
    flat = keras.Model.from_config(model.get_config())
    for layer in model.layers:
        if layer.weights:
            flat.get_layer(layer.name).set_weights(layer.get_weights())
    return flat
