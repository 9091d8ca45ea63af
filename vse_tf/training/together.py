"""The workers of a run do the same after the same step: go on, stop early, or leave because one was told to."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.errors import Interrupted, UserError
from vse_tf.training.distribution import is_chief
from vse_tf.training.interruption import SIGNALS, Interruption

# An exchange costs milliseconds, and so do small steps: where they do, the workers do not ask after each of them.
SECONDS = 0.5
# What a collective fails with when a worker is gone.
GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class Together(keras.callbacks.Callback):
    """Ends the training of all workers after the same step. The last of the callbacks.

    A worker that left alone would take the others down in the middle of a step, and nothing of it could be kept. So
    every half second, at most a step late, the workers tell one another whether a signal has arrived; where it has, at
    any of them, all leave: the chief when it has kept the step, the others when the chief has. They stop early where
    the chief, who alone measures, does.

    Args:
        strategy: the strategy; with one worker there is nobody to ask, and a signal is obeyed after its step.
        interruption: tells that a signal has arrived here.
    """

    def __init__(self, strategy: tf.distribute.Strategy, interruption: Interruption) -> None:
        super().__init__()
        self.interruption = interruption
        self._several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._chief = is_chief(strategy)
        self._agreed = False
        self._steps = 0
        self._steps_to_next = 1
        self._since = time.monotonic()

        @tf.function(input_signature=[tf.TensorSpec([2 + len(SIGNALS)], tf.float64)])
        def sum_of_workers(mine: tf.Tensor) -> tf.Tensor:
            def of_replica() -> tf.Tensor:
                replicas = tf.distribute.get_replica_context()
                return replicas.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(mine) / per_worker)

            return strategy.experimental_local_results(strategy.run(of_replica))[0]

        per_worker = len(strategy.extended.worker_devices) if self._several else 1
        # Made once: what pairs the workers' calls is the function that they are in.
        self._sum_of_workers = sum_of_workers

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += 1
        if not self._several or self._steps >= self._steps_to_next:
            self._go_on()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._go_on()

    def leave(self, number: int) -> None:
        """Let the chief finish keeping the step; every worker calls this before it leaves on a signal.

        Args:
            number: the signal's.
        """
        if not self._several:
            return
        if not self._agreed:
            # The chief, told while it measured: the others wait for it at the epoch's end.
            self._exchange(number)
        self._exchange(None)

    def _go_on(self) -> None:
        if not self._several:
            self.interruption.check()
            return
        number = self._exchange(self.interruption.requested)
        if number is not None:
            self._agreed = True
            raise Interrupted(self.interruption.requested or number)

    def _exchange(self, number: int | None) -> int | None:
        """Tell the others which signal has arrived here; which one has arrived anywhere."""
        now = time.monotonic()
        pace = max(1, round(SECONDS * self._steps / max(now - self._since, 1e-3)))
        of_chief = [float(self.model.stop_training), float(pace)] if self._chief else [0.0, 0.0]
        mine = [*of_chief, *(float(number == each) for each in SIGNALS)]
        stop, pace, *signals = np.asarray(self._sum_of_workers(tf.constant(mine, tf.float64))).round()
        self.model.stop_training = bool(stop)
        self._steps, self._steps_to_next, self._since = 0, int(pace), now
        return next((each for each, count in zip(SIGNALS, signals, strict=True) if count), None)


def worker_gone(strategy: tf.distribute.Strategy, error: tf.errors.OpError) -> UserError | None:
    """The user's error where a worker's failure is that another one is gone; None for other failures."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not isinstance(error, GONE):
        return None
    return UserError(
        "another worker of this run has left or cannot be reached; start all workers again with the same command: they "
        "continue from the last checkpoint"
    )
