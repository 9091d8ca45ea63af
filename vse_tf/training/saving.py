"""Keeps a run so that nothing is lost: checkpoints between the steps, at each epoch's end, and before leaving."""

from __future__ import annotations

import time
from typing import Any

import keras

from vse_tf.artifacts.checkpoints import Checkpoints, Position
from vse_tf.training.callbacks import StepWatch, Validation
from vse_tf.training.tensorboard import Board


class Saving(keras.callbacks.Callback):
    """Writes the checkpoints. It comes late: a checkpoint vouches for what the other callbacks have written.

    Args:
        checkpoints: where they go.
        watch: knows where the run stands.
        measuring: knows the rows of metrics.jsonl.
        board: TensorBoard, whose events must be on disk first.
        steps: `train.checkpoint_steps`.
        minutes: `train.checkpoint_minutes`.
        facts: what a continued run must agree with, such as the data's fingerprint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        watch: StepWatch,
        measuring: Validation,
        board: Board,
        steps: int,
        minutes: float,
        facts: dict[str, Any],
    ) -> None:
        super().__init__()
        self.checkpoints = checkpoints
        self.watch = watch
        self.measuring = measuring
        self.board = board
        self.steps = steps
        self.minutes = minutes
        self.facts = facts
        self._last = watch.position.step
        self._saved = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step = self.watch.position.step
        crossed = self.steps and step // self.steps > self._last // self.steps
        if crossed or (self.minutes and time.monotonic() - self._saved > 60 * self.minutes):
            self.keep()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row = self.measuring.rows[-1]
        self._save(Position(epoch + 1, self.watch.position.step), best=self.measuring.best is row)
        self.measuring.record()

    def keep(self) -> None:
        """Write a checkpoint of this moment unless its step has one."""
        if self.watch.position.step > self._last:
            self._save(self.watch.position, best=False)

    def _save(self, position: Position, best: bool) -> None:
        self.board.flush()
        progress = {
            **self.facts,
            "rows": [row for row in self.measuring.rows if row["epoch"] <= position.epoch],
            "figures": self.watch.figures if position.within else {},
            "stopped": self.measuring.stopped,
        }
        self.checkpoints.save(self.model, position, best, progress)
        self._last, self._saved = position.step, time.monotonic()
