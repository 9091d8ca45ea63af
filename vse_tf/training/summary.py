"""The screen before the first step: data, encoders, epoch and run folder of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable

import keras

from vse_tf.artifacts.checkpoints import sizes
from vse_tf.errors import shell_path
from vse_tf.models.backbones import tail_of
from vse_tf.training.builder import RunParts


def summary(parts: RunParts) -> str:
    """What the run is about to do, in a dozen short lines.

    Args:
        parts: what the run is made of, its model compiled.
    """
    settings, model = parts.settings, parts.model
    train = settings.train
    splits = {**parts.collection.splits, "train": parts.training, "val": parts.validation}
    lines: list[tuple[str, str]] = [("data", settings.data.source)]
    for name, split in splits.items():
        lines.append((f"  {name}", f"{len(split):,} images, {len(split.captions):,} captions"))
    lines += [
        ("image encoder", f"{settings.image.encoder}: {_parameters(model.image_tower)}"),
        ("text encoder", f"{settings.text.encoder}: {_parameters(model.text_tower)}"),
        ("embedding", f"{model.text_tower.output_shape[-1]:,} dimensions"),
        ("objective", settings.loss.name),
        ("training", f"{train.epochs} epochs of {parts.order.steps_per_epoch:,} steps of {train.batch_size} pairs"),
    ]
    frozen, weights, optimizer = sizes(model)
    finished = frozen + 2 * weights + optimizer
    running = frozen + weights + train.keep_checkpoints * (weights + optimizer)
    lines.append(("run folder", f"{shell_path(parts.run.path)}: {_size(finished)}, {_size(running)} while training"))
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {value}" for name, value in lines)


def _parameters(tower: keras.Model) -> str:
    trained, frozen, tail = _count(tower.trainable_weights), _count(tower.non_trainable_weights), tail_of(tower)
    text = f"{trained:,} trainable parameters" + (f", {frozen:,} frozen" if frozen else "")
    if tail is None:
        return text
    first = next(layer.name for layer in tail.get_layer("blocks").layers if layer.weights)
    return f"{text}; {_count(tail.trainable_weights):,} are the backbone's, from {first} on"


def _count(weights: Iterable[keras.Variable]) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"
