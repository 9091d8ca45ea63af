"""From the maps or states of a backbone to the feature of an image or caption: a vector, or vectors to be pooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import keras
import numpy as np

from vse_tf.config import ImageSettings
from vse_tf.errors import UserError
from vse_tf.models.attention_pooling import GridNorm
from vse_tf.models.encoders import Encoder
from vse_tf.models.graph import cut_points
from vse_tf.models.masking import MaskedMax, MaskedMean, ZeroPadding
from vse_tf.models.projection import L2Normalize

Pool: TypeAlias = Callable[[keras.KerasTensor, str, str], keras.KerasTensor]
"""Pools a map or states: its arguments are these, the kind of pooling and the layer's name."""


def pool(x: keras.KerasTensor, pooling: str = "mean", name: str = "pooling") -> keras.KerasTensor:
    """Pool the output of a backbone to one float32 vector per image or caption.

    Args:
        x: a map `(batch, h, w, d)`, tokens `(batch, n, d)`, or vectors `(batch, d)`, which are not changed.
        pooling: `mean` or `max` of each channel.
        name: name of the layer.
    """
    settings = {"dtype": "float32", "name": name}
    if len(x.shape) == 2:
        return keras.layers.Activation("linear", **settings)(x)
    kind = {"mean": "Average", "max": "Max"}[pooling]
    layer = getattr(keras.layers, f"Global{kind}Pooling{len(x.shape) - 2}D")
    return layer(data_format="channels_last", **settings)(x)


def pool_maps(maps: Sequence[keras.KerasTensor], pooling: str) -> keras.KerasTensor:
    """Pool several maps to one float32 vector: the mean (and maximum) of each, of unit length, concatenated.

    A single mean is not normalised. With `attention` and `attention_max` the head pools: see `regions`.

    Args:
        maps: maps `(batch, h, w, d)` or tokens `(batch, n, d)`.
        pooling: `mean`, `mean_max`, `attention` or `attention_max`.
    """
    if len(maps) == 1 and (pooling == "mean" or len(maps[0].shape) == 2):
        return pool(maps[0])
    if pooling.startswith("attention"):
        return regions(maps)
    return _pool_each(maps, pooling, pool)


def pool_tokens(states: Sequence[keras.KerasTensor], mask: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Pool the states `(batch, length, d)` of one or more layers as `pool_maps` does, those at tokens only.

    Args:
        states: the states of each layer.
        mask: bool `(batch, length)`, true at tokens.
        pooling: `mean`, `mean_max`, or `attention` and `attention_max`: the states of all layers, each of unit length,
            concatenated to `(batch, length, Σd)`, zeros at padding.
    """
    if pooling.startswith("attention"):
        parts = [L2Normalize(name=f"states_{number}")(x) for number, x in enumerate(states, start=1)]
        return ZeroPadding(name="states")(_concatenated(parts, "joined_states"), mask)
    if len(states) == 1 and pooling == "mean":
        return MaskedMean(name="pooling")(states[0], mask)
    layers = {"mean": MaskedMean, "max": MaskedMax}
    return _pool_each(states, pooling, lambda x, kind, name: layers[kind](name=name)(x, mask))


def regions(maps: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Several maps as regions, float32 `(batch, n, Σd)`: resized to the grid of the first map and concatenated.

    Larger maps are resized with antialiasing; each map is scaled, see `GridNorm`.

    Args:
        maps: maps `(batch, h, w, d)`, that of the last stage first, or a single one of tokens `(batch, n, d)`.
    """
    parts = [_regions(x, maps[0].shape, number) for number, x in enumerate(maps, start=1)]
    return _concatenated(parts, "regions")


def _regions(x: keras.KerasTensor, wanted: tuple, number: int) -> keras.KerasTensor:
    settings = {"dtype": "float32", "name": f"regions_{number}"}
    if len(x.shape) == 4:
        height, width = wanted[1:3]
        if x.shape[1:3] != wanted[1:3]:
            x = keras.layers.Resizing(height, width, antialias=True, dtype="float32", name=f"grid_{number}")(x)
        x = keras.layers.Reshape((height * width, x.shape[-1]), **settings)(x)
    return GridNorm(name=f"regions_{number}_norm")(x)


def rounded(feature: keras.KerasTensor, trainable: bool | int) -> keras.KerasTensor:
    """Round the vectors `(batch, n, d)` of a frozen backbone, which the head pools, to float16.

    A cache stores these large features as float16: rounded here, they are the same with and without a cache.
    """
    if trainable or len(feature.shape) == 2:
        return feature
    return keras.layers.Activation("linear", dtype="float16", name="rounded")(feature)


def _concatenated(parts: Sequence[keras.KerasTensor], name: str) -> keras.KerasTensor:
    return parts[0] if len(parts) == 1 else keras.layers.Concatenate(dtype="float32", name=name)(parts)


def _pool_each(sources: Sequence[keras.KerasTensor], pooling: str, pool_one: Pool) -> keras.KerasTensor:
    parts = []
    for number, x in enumerate(sources, start=1):
        for kind in pooling.split("_"):
            name = f"pooling_{number}_{kind}"
            parts.append(L2Normalize(name=f"{name}_norm")(pool_one(x, kind, name)))
    return keras.layers.Concatenate(dtype="float32", name="pooling")(parts)


def last_stages(network: keras.Model, count: int, encoder: str) -> list[keras.KerasTensor]:
    """The last map of each of the last stages of a convolutional network, that of the last stage first.

    A stage is a series of maps of one shape that all later layers depend on; maps inside a residual block, which the
    shortcut bypasses, do not belong to it.

    Args:
        network: a functional model whose output is a map.
        count: number of stages.
        encoder: name of the encoder, for the message.

    Returns:
        Symbolic outputs `(batch, h, w, d)` of the network.

    Raises:
        UserError: the network has fewer stages.
    """
    stages: list[keras.KerasTensor] = []
    for x in _cut_points(network, 4) if len(network.output.shape) == 4 else ():
        if stages and stages[-1].shape == x.shape:
            stages[-1] = x
        else:
            stages.append(x)
    if len(stages) < count:
        raise UserError(f"image.stages: {count}, but {encoder} has {len(stages)} stages of maps; give fewer, or 1")
    return stages[: -count - 1 : -1]


def spread_states(network: keras.Model, count: int, encoder: str) -> list[keras.KerasTensor]:
    """The states of some layers of a transformer, those of the last layer first.

    Args:
        network: a functional model from token ids to states.
        count: number of layers: the last one, the word embeddings, and others at equal distances between them.
        encoder: name of the encoder, for the message.

    Returns:
        Symbolic outputs `(batch, length, d)` of the network.

    Raises:
        UserError: the network has fewer layers.
    """
    found = _cut_points(network, 3)
    kinds = [type(x._keras_history.operation) for x in found]
    # A transformer is a chain of layers of one class behind its embeddings.
    # Of a single layer it is the last one.
    layer = max(reversed(kinds), key=kinds.count, default=None)
    first = kinds.index(layer) if layer else 0
    states = found[max(first - 1, 0) : first] + [x for x, kind in zip(found, kinds, strict=True) if kind is layer]
    if len(states) < count:
        raise UserError(f"text.stages: {count}, but {encoder} has {len(states)} layers of states; give fewer, or 1")
    return [states[round(place)] for place in np.linspace(len(states) - 1, 0, count)]


def _cut_points(network: keras.Model, rank: int) -> list[keras.KerasTensor]:
    return [x for _, x in cut_points(network) if len(x.shape) == rank]


def image_encoder(name: str, image: ImageSettings, input_shape: tuple[int, ...], precision: str) -> Encoder:
    """The encoder `features`: precomputed features `(batch, d)` or `(batch, regions, d)` are only pooled."""
    return lambda features: pool_maps([features], image.pooling)
