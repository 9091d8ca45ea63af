"""Devices and workers: the strategy that the settings ask for, its input, and sums over its workers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from vse_tf.config import DistributionSettings
from vse_tf.errors import UserError

SYMBOLIC_BUILD_FAILS = (3, 12), (3, 16)
"""The Keras versions, from and below, whose `fit` was seen to fail over several workers."""


def make_strategy(distribution: DistributionSettings) -> tf.distribute.Strategy:
    """The strategy to train under; the default strategy (one device) for `none`.

    Call it before anything else uses TensorFlow: devices cannot be split afterwards.

    Args:
        distribution: the settings.

    Raises:
        UserError: the devices asked for are not there, or `multi_worker` without a valid TF_CONFIG.
    """
    if distribution.virtual_cpus:
        _split_cpu(distribution.virtual_cpus)
    name = distribution.strategy
    if name == "auto" and os.environ.get("TF_CONFIG"):
        name = "multi_worker"
    if name == "multi_worker":
        _check_tf_config()
        # Before any look at the devices: it starts TensorFlow, and workers can no longer be connected.
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "none" or (name == "auto" and len(gpus) < 2 and distribution.virtual_cpus < 2):
        return tf.distribute.get_strategy()
    if distribution.virtual_cpus:
        return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(distribution.virtual_cpus)])
    return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus] or ["CPU:0"])


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process writes the run folder."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return True
    chiefs = "chief" in resolver.cluster_spec().jobs
    return resolver.task_type == "chief" if chiefs else resolver.task_type == "worker" and resolver.task_id == 0


def distribute(
    strategy: tf.distribute.Strategy, batch_size: int, make: Callable[..., tf.data.Dataset]
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """The training input under a strategy: every worker reads its own slice of each global batch.

    On a GPU the batches are there before their step begins.

    Args:
        strategy: the strategy.
        batch_size: the global batch.
        make: builds the dataset of one worker from its `shard` (number, count) and its number of `replicas`.

    Raises:
        UserError: the global batch cannot be divided evenly.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"train.batch_size: {batch_size} is not a multiple of the {replicas} replicas; "
            f"choose {batch_size // replicas * replicas or replicas}"
        )
    if replicas == 1:
        batches, gpus = make(shard=(0, 1), replicas=1), tf.config.list_logical_devices("GPU")
        # The next batch is copied while the device computes, as a strategy of several replicas does it by itself.
        return batches.apply(tf.data.experimental.prefetch_to_device(gpus[0].name, 2)) if gpus else batches

    def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
        count = context.num_input_pipelines
        return make(shard=(context.input_pipeline_id, count), replicas=replicas // count)

    return strategy.distribute_datasets_from_function(of_worker)


def skip_symbolic_build(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    """Let `fit` run over several workers and replicas, where Keras cannot by itself.

    Keras first calls the model symbolically on one batch, for which it adds the replicas' parts up. That fails on the
    nested values that several workers give, and where the captions of two replicas are padded to different lengths.
    The towers are built already, so the call is not needed. (Keras also fails on scalar logs; hence
    `DualEncoder.train_step` returns logs of one axis.)

    Args:
        model: the compiled model, its optimizer built.
        strategy: the strategy.
    """
    first, end = SYMBOLIC_BUILD_FAILS
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if (workers or strategy.num_replicas_in_sync > 1) and first <= version < end:
        model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None


def same_everywhere(strategy: tf.distribute.Strategy, value: float) -> bool:
    """Whether all workers have the same value; all of them have to call this, and get the same answer."""
    of_chief = worker_sum(strategy, 1)([value if is_chief(strategy) else 0.0])[0]
    return not worker_sum(strategy, 1)([of_chief != value])[0]


def worker_sum(strategy: tf.distribute.Strategy, size: int) -> Callable[[Sequence[float]], np.ndarray]:
    """Make a function that adds a vector up over the workers, which wait for one another.

    All workers have to make their functions in the same order and call each of them equally often.

    Args:
        strategy: the strategy; with one worker the function returns its argument.
        size: length of the vector.

    Returns:
        A function from this worker's vector to the sum, float64 `(size,)`.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return lambda values: np.asarray(values, np.float64)
    devices = len(strategy.extended.worker_devices)

    @tf.function(input_signature=[tf.TensorSpec([size], tf.float64)])
    def total(values: tf.Tensor) -> tf.Tensor:
        def of_replica() -> tf.Tensor:
            replica = tf.distribute.get_replica_context()
            return replica.all_reduce(tf.distribute.ReduceOp.SUM, values / devices)

        return strategy.experimental_local_results(strategy.run(of_replica))[0]

    return lambda values: total(np.asarray(values, np.float64)).numpy()


def _split_cpu(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        there = len(tf.config.list_logical_devices("CPU"))
        if there < count:
            raise UserError(
                f"distribution.virtual_cpus: {count}, but TensorFlow has started with {there} CPU device(s); "
                "set it in a new process"
            ) from None


def _check_tf_config() -> None:
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        config["cluster"]["worker"], config["task"]["type"], config["task"]["index"]
    except (ValueError, KeyError, TypeError):
        raise UserError(
            "distribution.strategy: multi_worker needs the environment variable TF_CONFIG with "
            '{"cluster": {"worker": ["host:port", …]}, "task": {"type": "worker", "index": 0}}; it is '
            + (f"{text!r}" if text else "not set")
        ) from None
