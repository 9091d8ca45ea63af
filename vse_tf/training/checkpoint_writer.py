"""Writes the checkpoints of a run: between the steps, at each epoch's end, and before the run ends on a signal."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras

from vse_tf.artifacts.checkpoint_files import Position
from vse_tf.display import part
from vse_tf.training.builder import RunParts
from vse_tf.training.callbacks import StepTracker
from vse_tf.training.progress import Logs, RunProgress
from vse_tf.training.tensorboard import TensorBoard


class CheckpointWriter(keras.callbacks.Callback):
    """Writes checkpoints, and the metrics of the epochs that they finish. It comes after the callbacks that measure.

    Args:
        parts: what the run is made of.
        progress: where the run stands.
        tracker: has values of steps that the progress does not count yet.
        board: TensorBoard, whose events must be on disk first.
        saved: called after each checkpoint.
    """

    def __init__(
        self,
        parts: RunParts,
        progress: RunProgress,
        tracker: StepTracker,
        board: TensorBoard,
        saved: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.parts = parts
        self.progress = progress
        self.tracker = tracker
        self.board = board
        self.saved = saved or (lambda: None)
        self._last_step, self._last_time = progress.position.step, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        train, step = self.parts.settings.train, self.progress.position.step
        steps, seconds = train.checkpoint_steps, 60 * train.checkpoint_minutes
        steps_passed = steps and step // steps > self._last_step // steps
        if steps_passed or (seconds and time.monotonic() - self._last_time > seconds):
            self.save()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        row = self.progress.rows[-1]
        self._write(Position(epoch + 1, row["step"]), is_best=self.progress.best is row)
        self.parts.run.append_metrics(row)
        self.parts.run.write_results(self.progress.results(self.parts.provenance))
        self.saved()

    def save(self) -> None:
        """Write a checkpoint of this moment unless its step has one."""
        if self.progress.position.step > self._last_step:
            self._write(self.progress.position, is_best=False)
            self.saved()

    def _write(self, position: Position, is_best: bool) -> None:
        with part("checkpoint"):
            self.tracker.fetch()
            self.board.flush()
            self.parts.checkpoints.save(self.model, position, is_best, self.progress.stored(position))
        self._last_step, self._last_time = position.step, time.monotonic()
