"""Trains objectives on some replicas: `python -m tests.training.replicas COUNT OUTPUT.npz OBJECTIVE/KIND…`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tests.tiny import tiny_settings
from vse_tf.losses import build
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.training.distribution import distribute
from vse_tf.training.optimizer import TowerAdam

BATCH, STEPS = 16, 20

KINDS = {
    "clipped": {"clip_norm": 0.05},
    "unmasked": {"clip_norm": 0.05, "mask_same_image": False},
    "plain": {"mask_same_image": False},
    "pieces": {"clip_norm": 0.05, "micro_batch": 8},
    "learned": {"clip_norm": 0.05, "learned": True},
    "mixed_float16": {"precision": "mixed_float16", "clip_norm": 0.05},
    "mixed_float16 in pieces": {"precision": "mixed_float16", "clip_norm": 0.05, "micro_batch": 8},
    "mixed_bfloat16": {"precision": "mixed_bfloat16", "clip_norm": 0.05},
}
"""How an objective is trained."""


def batches():
    """Twenty global batches with several captions of one image among them."""
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = rng.integers(0, 12, BATCH).astype(np.int32)
        image, text = rng.normal(size=(2, BATCH, 6)).astype(np.float32)
        yield {"image": image, "text": text}, rows


def dataset(batch: int) -> tf.data.Dataset:
    features = tf.TensorSpec([BATCH, 6], tf.float32)
    spec = ({"image": features, "text": features}, tf.TensorSpec([BATCH], tf.int32))
    return tf.data.Dataset.from_generator(batches, output_signature=spec).unbatch().batch(batch, drop_remainder=True)


def trained(
    strategy: tf.distribute.Strategy,
    name: str,
    *,
    clip_norm: float = 0.0,
    mask_same_image: bool = True,
    micro_batch: int = 0,
    learned: bool = False,
    precision: str = "float32",
) -> dict[str, np.ndarray]:
    """Weights and last loss after twenty steps."""
    # Two towers of dense layers: what is tested is the step, and a GRU takes seconds to trace on each replica.
    settings = tiny_settings("unused", model__head="true", model__head_units=8, model__precision=precision)
    features = tiny_settings("unused", data__source="precomp", image__encoder="features", image__units=8).image
    keras.utils.set_random_seed(3)
    with strategy.scope():
        towers = (image_tower_from_settings(features, settings.model, (6,), name=name) for name in ("image", "text"))
        temperature = LearnedTemperature(0.1, bias=-10.0 if name == "sigmoid" else None) if learned else None
        model = DualEncoder(*towers, clip_norm=clip_norm, temperature=temperature, micro_batch=micro_batch)
        # A large epsilon keeps Adam from blowing rounding up where a gradient is nearly 0.
        optimizer = TowerAdam(1e-2, epsilon=1e-3)
        if precision == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
        model.compile(optimizer=optimizer, loss=build(name, mask_same_image=mask_same_image))
    data = distribute(strategy, BATCH, lambda shard, replicas: dataset(BATCH // replicas))
    history = model.fit(data, epochs=1, steps_per_epoch=STEPS, verbose=0, shuffle=False)
    found = {f"{i:02d}-{v.path}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    return found | {"loss": np.reshape(history.history["loss"], -1)}


def run_all(strategy: tf.distribute.Strategy, runs: Sequence[str]) -> dict[str, np.ndarray]:
    """Weights and last losses of some runs, each an objective and a kind such as `convse/clipped`."""
    found = {}
    for run in runs:
        name, kind = run.split("/")
        found |= {f"{run}/{key}": value for key, value in trained(strategy, name, **KINDS[kind]).items()}
    return found


if __name__ == "__main__":
    count = int(sys.argv[1])
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
    np.savez(sys.argv[2], **run_all(strategy, sys.argv[3:]))
