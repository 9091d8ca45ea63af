"""From the maps or states of a backbone to one feature an image or caption: a vector, or vectors that a head pools."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from vse_tf.errors import UserError
from vse_tf.models.attention_pooling import GridNorm
from vse_tf.models.masking import MaskedMax, MaskedMean, ZeroPadding
from vse_tf.models.projection import L2Normalize


def pooled(x: Any, pooling: str = "mean", name: str = "pooling") -> Any:
    """A backbone's output as one float32 vector an item.

    Args:
        x: a map `(batch, h, w, d)`, tokens `(batch, n, d)`, or a vector, which stays as it is.
        pooling: `mean`, or `max`: of every channel.
        name: name of the layer.
    """
    settings = {"dtype": "float32", "name": name}
    if len(x.shape) == 2:
        return keras.layers.Activation("linear", **settings)(x)
    kind = {"mean": "Average", "max": "Max"}[pooling]
    layer = getattr(keras.layers, f"Global{kind}Pooling{len(x.shape) - 2}D")
    return layer(data_format="channels_last", **settings)(x)


def pooled_together(maps: Sequence[Any], pooling: str) -> Any:
    """Several maps as one float32 vector: each map's mean (and maximum), all of unit length, side by side.

    A single mean stays as it is. With `attention` nothing is pooled yet: see `regions`.

    Args:
        maps: maps `(batch, h, w, d)` or tokens `(batch, n, d)`.
        pooling: `mean`, `mean_max` or `attention`.
    """
    if len(maps) == 1 and (pooling == "mean" or len(maps[0].shape) == 2):
        return pooled(maps[0])
    if pooling == "attention":
        return regions(maps)
    return _together(maps, pooling, pooled)


def pooled_tokens(states: Sequence[Any], mask: Any, pooling: str) -> Any:
    """The same for states `(batch, length, d)` of which only those at tokens count.

    Args:
        states: the states of one or more layers.
        mask: bool `(batch, length)`, true at tokens.
        pooling: `mean`, `mean_max`, or `attention`: the states `(batch, length, Σd)`, each of unit length, side by
            side, zeros at padding.
    """
    if pooling == "attention":
        parts = [L2Normalize(name=f"states_{number}")(x) for number, x in enumerate(states, start=1)]
        return ZeroPadding(name="states")(_side_by_side(parts, "joined_states"), mask)
    if len(states) == 1 and pooling == "mean":
        return MaskedMean(name="pooling")(states[0], mask)
    layers = {"mean": MaskedMean, "max": MaskedMax}
    return _together(states, pooling, lambda x, kind, name: layers[kind](name=name)(x, mask))


def regions(maps: Sequence[Any]) -> Any:
    """Several maps as one row of regions, float32 `(batch, n, Σd)`: all in the first one's grid, side by side.

    Larger maps are brought to its height and width (antialiased); each is scaled, see `GridNorm`.

    Args:
        maps: maps `(batch, h, w, d)`, the last one's first, or a single one of tokens `(batch, n, d)`.
    """
    parts = [_regions(x, maps[0].shape, number) for number, x in enumerate(maps, start=1)]
    return _side_by_side(parts, "regions")


def _regions(x: Any, wanted: tuple, number: int) -> Any:
    settings = {"dtype": "float32", "name": f"regions_{number}"}
    if len(x.shape) == 4:
        height, width = wanted[1:3]
        if x.shape[1:3] != wanted[1:3]:
            x = keras.layers.Resizing(height, width, antialias=True, dtype="float32", name=f"grid_{number}")(x)
        x = keras.layers.Reshape((height * width, x.shape[-1]), **settings)(x)
    return GridNorm(name=f"regions_{number}_norm")(x)


def kept(feature: Any, trainable: bool) -> Any:
    """What a backbone gives: vectors yet to be pooled are float16 where it is frozen.

    They are many, and a cache holds them so: rounded here, they are the same from a cache and from the backbone.
    """
    if trainable or len(feature.shape) == 2:
        return feature
    return keras.layers.Activation("linear", dtype="float16", name="rounded")(feature)


def _side_by_side(parts: Sequence[Any], name: str) -> Any:
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(dtype="float32", name=name)(parts)


def _together(sources: Sequence[Any], pooling: str, pool: Callable[[Any, str, str], Any]) -> Any:
    parts = []
    for number, x in enumerate(sources, start=1):
        for kind in pooling.split("_"):
            name = f"pooling_{number}_{kind}"
            parts.append(L2Normalize(name=f"{name}_norm")(pool(x, kind, name)))
    return keras.layers.Concatenate(dtype="float32", name="pooling")(parts)


def last_stages(network: keras.Model, count: int, encoder: str) -> list[Any]:
    """The last maps of a convolutional network's last stages, the very last first.

    A stage is a run of maps of one width that all of the network behind them depends on: what lies inside a residual
    block, with a way around it, is none of them.

    Args:
        network: a functional model whose output is a map.
        count: number of stages.
        encoder: the encoder's setting, for the message.

    Returns:
        Symbolic outputs `(batch, h, w, d)` of the network.

    Raises:
        UserError: the network is no chain of maps, or has fewer stages.
    """
    stages: list[Any] = []
    for x in _cut_points(network, 4) if len(network.output.shape) == 4 else ():
        if stages and stages[-1].shape == x.shape:
            stages[-1] = x
        else:
            stages.append(x)
    if len(stages) < count:
        raise UserError(f"image.stages: {count}, but {encoder} has {len(stages)} stages of maps; give fewer, or 1")
    return stages[: -count - 1 : -1]


def spread_states(network: keras.Model, count: int, encoder: str) -> list[Any]:
    """The states of some of a transformer's layers, the last one's first.

    Args:
        network: a functional model from token ids to states.
        count: how many: the last layer's, the word embeddings', and others evenly between.
        encoder: the encoder's setting, for the message.

    Returns:
        Symbolic outputs `(batch, length, d)` of the network.

    Raises:
        UserError: the network is no chain of layers, or has fewer of them.
    """
    found = _cut_points(network, 3)
    kinds = [type(x._keras_history.operation) for x in found]
    # A transformer is a chain of like layers behind its embeddings.
    layer = max(set(kinds), key=kinds.count, default=None)
    first = kinds.index(layer) if layer else 0
    states = found[max(first - 1, 0) : first] + [x for x, kind in zip(found, kinds, strict=True) if kind is layer]
    if len(states) < count:
        raise UserError(f"text.stages: {count}, but {encoder} has {len(states)} layers of states; give fewer, or 1")
    return [states[round(place)] for place in np.linspace(len(states) - 1, 0, count)]


def _cut_points(network: keras.Model, rank: int) -> list[Any]:
    """The outputs of that rank, in order, that all later layers take their input from, directly or not."""
    operations = [operation for operation in network.operations if not isinstance(operation, keras.layers.InputLayer)]
    made_at = {id(tensor): at for at, operation in enumerate(operations) for tensor in _tensors(operation.output)}
    # The last operation that needs each operation's output.
    needed = list(range(len(operations)))
    for at, operation in enumerate(operations):
        for tensor in _tensors(operation.input):
            if (source := made_at.get(id(tensor))) is not None:
                needed[source] = at
    found, reach = [], 0
    for at, operation in enumerate(operations):
        if reach <= at and len(operation.output.shape) == rank:
            found.append(operation.output)
        reach = max(reach, needed[at])
    return found


def _tensors(struct: Any) -> list[Any]:
    return keras.tree.flatten(struct)
