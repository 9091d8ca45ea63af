"""The workers of a run do the same after the same step: go on, stop early, or end the run on a signal."""

from __future__ import annotations

import time

import keras
import tensorflow as tf

from vse_tf.errors import Interrupted, UserError
from vse_tf.training.distribution import is_chief, worker_sum
from vse_tf.training.progress import Logs
from vse_tf.training.signals import SIGNALS, SignalHandler

# An exchange takes milliseconds, and so do small steps: the workers then do not exchange after each of them.
SECONDS_BETWEEN = 0.5
# The errors of a collective operation when a worker is gone.
WORKER_GONE = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


class WorkerSync(keras.callbacks.Callback):
    """Ends the training of all workers after the same step. The last of the callbacks.

    A worker that stopped alone would take the others down in the middle of a step, which could then not be saved. So
    every half second, at most a step late, the workers exchange whether a signal has arrived. Where one has, at any of
    them, all stop: the chief when it has saved the step, the others after the chief. They stop early when the chief,
    which alone measures, does.

    Args:
        strategy: the strategy; with one worker there is no exchange, and a signal takes effect after its step.
        signals: knows whether a signal has arrived here.
    """

    def __init__(self, strategy: tf.distribute.Strategy, signals: SignalHandler) -> None:
        super().__init__()
        self.signals = signals
        self._several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        self._chief = is_chief(strategy)
        self._sum = worker_sum(strategy, 2 + len(SIGNALS))
        self._agreed = False
        self._steps = 0
        self._steps_between = 1
        self._last_exchange = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._steps += 1
        if not self._several or self._steps >= self._steps_between:
            self._check()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._check()

    def wait_for_chief(self, number: int) -> None:
        """Wait until the chief has saved the step; every worker calls this before it stops on a signal.

        Args:
            number: the signal's.
        """
        if not self._several:
            return
        if not self._agreed:
            # The chief got the signal while it measured: the others wait for it at the epoch's end.
            self._exchange(number)
        self._exchange(None)

    def _check(self) -> None:
        if not self._several:
            self.signals.check()
            return
        number = self._exchange(self.signals.received)
        if number is not None:
            self._agreed = True
            raise Interrupted(self.signals.received or number)

    def _exchange(self, number: int | None) -> int | None:
        """Send the signal that has arrived here, or None; returns one that has arrived at any worker."""
        now = time.monotonic()
        steps_between = max(1, round(SECONDS_BETWEEN * self._steps / max(now - self._last_exchange, 1e-3)))
        from_chief = [self.model.stop_training, steps_between] if self._chief else [0, 0]
        stop, steps_between, *counts = self._sum([*from_chief, *(number == each for each in SIGNALS)]).round()
        self.model.stop_training = bool(stop)
        self._steps, self._steps_between, self._last_exchange = 0, int(steps_between), now
        return next((each for each, count in zip(SIGNALS, counts, strict=True) if count), None)


def lost_worker_error(strategy: tf.distribute.Strategy, error: tf.errors.OpError) -> UserError | None:
    """The user's error where a worker failed because another one is gone; None for other failures."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or not isinstance(error, WORKER_GONE):
        return None
    return UserError(
        "another worker of this run has stopped or cannot be reached; start all workers again with the same command: "
        "they continue from the last checkpoint"
    )
