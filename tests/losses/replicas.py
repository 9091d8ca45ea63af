"""Computes every objective on some replicas: `python -m tests.losses.replicas COUNT OUTPUT.npz`.

A process of its own for each number of replicas: collectives of two sizes cannot share one. Run eagerly, for tracing
every objective on every replica takes minutes; `tests/training` has the graphs.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from tests.losses import oracle
from tests.losses.cases import EVERY, ONE_EACH, Case
from vse_tf import losses
from vse_tf.losses import base, blockwise

BATCH, DIM = 8, 5
IMAGE_ID = np.float32([0, 1, 1, 2, 0, 3, 1, 4])
PAIRS = np.stack(oracle.unit(np.random.default_rng(7), BATCH, DIM), axis=1)
WEIGHTS = np.random.default_rng(8).normal(size=(2, DIM, DIM)).astype(np.float32)
KINDS = {"masked": {}, "unmasked": {"mask_same_image": False}}


def cases(kind: str) -> list[Case]:
    """The objectives that take this kind of mask."""
    return [case for case in EVERY if kind == "masked" or not case.arguments.get("multiple_positives")]


def step(case: Case, kind: str, pairs: tf.Tensor, image_id: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Loss and gradient of a linear two-tower model."""
    weights = tf.constant(WEIGHTS)
    loss = case.loss(**case.arguments, **KINDS[kind])
    with tf.GradientTape() as tape:
        tape.watch(weights)
        embeddings = tf.math.l2_normalize(tf.einsum("bkd,kde->bke", pairs, weights), axis=-1)
        value = loss(image_id, embeddings)
    return value, tape.gradient(value, weights)


def on_one_device(kind: str) -> dict[str, np.ndarray]:
    """What the replicas must find."""
    found = {}
    for case in cases(kind):
        value, gradient = step(case, kind, tf.constant(PAIRS), tf.constant(IMAGE_ID))
        found |= {f"{case.name}/loss": value.numpy(), f"{case.name}/gradient": gradient.numpy()}
    return found


def on_replicas(
    strategy: tf.distribute.Strategy, chosen: list[Case], kind: str = "masked", graph: bool = False
) -> dict[str, np.ndarray]:
    """Losses and gradients summed over the replicas, as Keras does it."""
    size = BATCH // strategy.num_replicas_in_sync

    def local() -> list[tuple[tf.Tensor, tf.Tensor]]:
        here = tf.distribute.get_replica_context().replica_id_in_sync_group * size
        pairs, image_id = tf.constant(PAIRS)[here : here + size], tf.constant(IMAGE_ID)[here : here + size]
        return [step(case, kind, tf.ensure_shape(pairs, [size, 2, DIM]), image_id) for case in chosen]

    def run() -> list[tuple[tf.Tensor, tf.Tensor]]:
        return strategy.run(local)

    found = {}
    for case, parts in zip(chosen, tf.function(run)() if graph else run(), strict=True):
        for name, part in zip(("loss", "gradient"), parts, strict=True):
            found[f"{case.name}/{name}"] = sum(x.numpy() for x in strategy.experimental_local_results(part))
    return found


def seen(strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """What each replica sees of the global batch, and the statistics it returns; replicas along the first axis."""
    size = BATCH // strategy.num_replicas_in_sync

    def local() -> dict[str, tf.Tensor]:
        here = tf.distribute.get_replica_context().replica_id_in_sync_group * size
        pairs, image_id = tf.constant(PAIRS)[here : here + size], tf.constant(IMAGE_ID)[here : here + size]
        masked = base.gather(pairs[:, 0], pairs[:, 1], image_id)
        plain = base.gather(pairs[:, 0], pairs[:, 1])
        return {
            "all_image": masked.all_image,
            "all_text": masked.all_text,
            "image_id": masked.image_id,
            "all_image_id": masked.all_image_id,
            "places": plain.image_id,
            "all_places": plain.all_image_id,
            **losses.batch_statistics(pairs[:, 0], pairs[:, 1], image_id),
        }

    found = strategy.run(local)
    return {key: np.stack([x.numpy() for x in strategy.experimental_local_results(v)]) for key, v in found.items()}


def uneven(strategy: tf.distribute.Strategy) -> str:
    """The message that a batch of unequal parts gives."""

    def local() -> tf.Tensor:
        first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
        pairs = tf.constant(PAIRS)[: 3 if first else 2]
        return losses.convse(pairs[:, 0], pairs[:, 1])

    try:
        strategy.run(local)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        return str(error)
    return "accepted"


def main(count: int, output: str) -> None:
    """Compute everything and write it."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)])
    parts = {"masked": on_replicas(strategy, EVERY if count == 2 else ONE_EACH), "seen": seen(strategy)}
    if count == 2:
        parts["unmasked"] = on_replicas(strategy, cases("unmasked"), "unmasked")
        parts["graph"] = on_replicas(strategy, ONE_EACH[:1], graph=True)
        blockwise.DENSE_ELEMENTS, blockwise.BLOCK_ELEMENTS = 1, 3 * BATCH
        parts["blocked"] = on_replicas(strategy, EVERY)
        parts["uneven"] = {"message": np.array(uneven(strategy))}
    np.savez(output, **{f"{part}/{key}": value for part, found in parts.items() for key, value in found.items()})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
