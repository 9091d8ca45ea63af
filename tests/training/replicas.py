"""Trains every objective on some replicas: `python -m tests.training.replicas COUNT OUTPUT.npz OBJECTIVE…`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tests.tiny import tiny_settings
from vse_tf.losses import build
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import build_image_tower
from vse_tf.training.distribution import distribute
from vse_tf.training.optimizer import TowerAdam

BATCH, STEPS = 16, 20


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


def trained(strategy: tf.distribute.Strategy, loss: keras.losses.Loss, clip_norm: float) -> dict[str, np.ndarray]:
    # Two towers of dense layers: what is tested is the step, and a GRU takes seconds to trace on each replica.
    settings = tiny_settings("unused", model__head="true", model__head_units=8)
    features = tiny_settings("unused", data__source="precomp", image__encoder="features", image__units=8).image
    keras.utils.set_random_seed(3)
    with strategy.scope():
        towers = (build_image_tower(features, settings.model, (6,), name=name) for name in ("image", "text"))
        model = DualEncoder(*towers, clip_norm=clip_norm)
        # A large epsilon keeps Adam from blowing rounding up where a gradient is nearly 0.
        model.compile(optimizer=TowerAdam(1e-2, epsilon=1e-3), loss=loss)
    data = distribute(strategy, BATCH, lambda shard, replicas: dataset(BATCH // replicas))
    history = model.fit(data, epochs=1, steps_per_epoch=STEPS, verbose=0, shuffle=False)
    found = {f"{i:02d}-{v.path}": v.numpy() for i, v in enumerate(model.trainable_variables)}
    return found | {"loss": np.reshape(history.history["loss"], -1)}


def run_all(strategy: tf.distribute.Strategy, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Weights and last loss after twenty steps, for each objective: clipped, and with neither clip nor mask."""
    found = {}
    for name in names:
        for kind, masked, clip_norm in (("clipped", True, 0.05), ("plain", False, 0.0)):
            loss = build(name, mask_same_image=masked)
            for key, value in trained(strategy, loss, clip_norm).items():
                found[f"{name}/{kind}/{key}"] = value
    return found


if __name__ == "__main__":
    count = int(sys.argv[1])
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
    np.savez(sys.argv[2], **run_all(strategy, sys.argv[3:]))
