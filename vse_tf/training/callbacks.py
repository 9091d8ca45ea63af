"""What happens at each step and at each epoch's end: counting, measuring, showing how far the run is."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack

import keras
import numpy as np

from vse_tf.artifacts.checkpoint_files import Position
from vse_tf.display import Phase, moving, part, say
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import measure
from vse_tf.plain_embedder import EncodedSplit
from vse_tf.training.builder import RunParts
from vse_tf.training.collapse import CollapseWatch
from vse_tf.training.optimizer import loss_scaling
from vse_tf.training.pace import Pace
from vse_tf.training.progress import Logs, RunProgress, scalars
from vse_tf.training.signals import SignalHandler

ESTIMATE = 20
"""A log file gets the time to the end after this number of steps, and then with each epoch."""


class DeviceLogs(keras.callbacks.CallbackList):
    """Hands a step's logs to the callbacks as they are. Keras' own list fetches every value from the device first."""

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_end(batch, logs)


class StepTracker(keras.callbacks.Callback):
    """Updates the progress after each step, and stops a run whose loss is not finite. The first of the callbacks.

    The values of the steps stay on the device until a step is logged: a fetch has to wait for the device, which then
    waits for Python.

    Args:
        parts: what the run is made of.
        progress: where the run stands; inside an epoch, the first `fit` runs the rest of it.
        watch: sees the values of every step; None: nothing does.

    Attributes:
        values: those of the last step that was fetched.
    """

    values: dict[str, float]

    def __init__(self, parts: RunParts, progress: RunProgress, watch: CollapseWatch | None = None) -> None:
        super().__init__()
        self.parts = parts
        self.progress = progress
        self.watch = watch
        self.start = progress.position
        self._on_device: list[Logs] = []

    def is_logged(self, step_in_epoch: int) -> bool:
        """Whether a step is one of every `train.log_steps`, or the last of its epoch."""
        last = self.parts.order.steps_per_epoch
        return step_in_epoch % self.parts.settings.train.log_steps == 0 or step_in_epoch == last

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        step_in_epoch = self.start.step_in_epoch if epoch == self.start.epoch else 0
        if not step_in_epoch:
            self.progress.count, self.progress.sums = 0, {}
        self.progress.position = Position(epoch, self.progress.position.step, step_in_epoch)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        epoch, step, step_in_epoch = dataclasses.astuple(self.progress.position)
        self.progress.position = Position(epoch, step + 1, step_in_epoch + 1)
        self._on_device.append(logs)
        if self.is_logged(step_in_epoch + 1):
            self.fetch()

    def fetch(self) -> None:
        """Fetch the values of the steps since the last fetch, and count them.

        Raises:
            UserError: a loss is not finite, or the run has collapsed.
        """
        progress, first = self.progress, self.progress.position.step + 1 - len(self._on_device)
        on_device, self._on_device = self._on_device, []
        for step, logs in enumerate(on_device, first):
            self.values = values = scalars(logs)
            if not np.isfinite(values["loss"]):
                raise UserError(
                    f"the loss is {values['loss']} at step {step} (epoch {progress.position.epoch + 1}); lower "
                    "--train.learning_rate, set --train.clip_norm, or raise --loss.temperature"
                )
            progress.count += 1
            progress.sums = {name: progress.sums.get(name, 0.0) + value for name, value in values.items()}
            if self.watch:
                self.watch.see(values)


def measure_validation(parts: RunParts) -> tuple[EncodedSplit, dict[str, float]]:
    """The embeddings of the validation split, and its metrics."""
    with part("validation"):
        encoded = parts.embedder.encode_split(parts.validation, parts.bad, progress=True)
        return encoded, measure(encoded).metrics


class Validation(keras.callbacks.Callback):
    """Measures the validation split after each epoch, and stops the run early where `train.patience` says so.

    Args:
        parts: what the run is made of.
        progress: where the run stands; gets a row per epoch.
        signals: a signal need not wait for the end of the measurement.

    Attributes:
        encoded: the split's embeddings of the last epoch.
    """

    encoded: EncodedSplit

    def __init__(self, parts: RunParts, progress: RunProgress, signals: SignalHandler) -> None:
        super().__init__()
        self.parts = parts
        self.progress = progress
        self.signals = signals

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._first_step, self._begin = self.progress.position.step, time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        progress, parts, train = self.progress, self.parts, self.parts.settings.train
        trained = time.perf_counter()
        with self.signals.immediate():
            self.encoded, metrics = measure_validation(parts)
        measured = time.perf_counter()
        seconds, step = trained - self._begin, progress.position.step
        row = {
            "epoch": epoch + 1,
            "step": step,
            "metrics": metrics,
            "train": progress.means | loss_scaling(self.model.optimizer),
            "timing": {
                "time": time.time(),
                "train_seconds": seconds,
                "validation_seconds": measured - trained,
                "pairs_per_second": (step - self._first_step) * train.batch_size / max(seconds, 1e-9),
            },
        }
        progress.rows.append(row)
        if train.patience and epoch + 1 - progress.best["epoch"] >= train.patience:
            progress.stopped = f"no better validation {train.monitor} for {train.patience} epochs"
            self.model.stop_training = True


class ProgressBar(keras.callbacks.Callback):
    """Shows the run's steps and the time to its end, and prints a line at each epoch's end.

    Args:
        parts: what the run is made of.
        progress: where the run stands.

    Attributes:
        phase: the bar, to enter while the run lasts.
    """

    def __init__(self, parts: RunParts, progress: RunProgress) -> None:
        super().__init__()
        self.progress = progress
        self.epochs = parts.settings.train.epochs
        start, steps_per_epoch = progress.position, parts.order.steps_per_epoch
        total = start.step - start.step_in_epoch + (self.epochs - start.epoch) * steps_per_epoch
        self.phase = Phase("training", total, "steps", start.step)
        self._pace, self._first = Pace(), ExitStack()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._pace.epoch_begins()

    def first_step(self) -> None:
        """Show that the first step is about to come: it is traced, which takes as long as a hundred steps."""
        self._first.enter_context(part("first step"))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._first.close()
        self._pace.step_ends()
        self.phase.update()
        self.phase.note = self._left(self.progress.position.epoch)
        if self._pace.steps == ESTIMATE and not moving():
            say(f"{self.phase.note} after {ESTIMATE} steps")

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._first.close()
        row = self.progress.rows[-1]
        metrics, left = row["metrics"], self._left(epoch + 1)
        say(
            f"epoch {epoch + 1}/{self.epochs}  loss {row['train']['loss']:.4f}  "
            f"i2t R@1 {metrics['i2t_r1']:.1f}  t2i R@1 {metrics['t2i_r1']:.1f}  rsum {metrics['rsum']:.1f}"
            + (f"  {left}" if left and epoch + 1 < self.epochs and not self.progress.stopped else "")
        )

    def _left(self, measured: int) -> str:
        return self._pace.left((self.phase.total or 0) - self.phase.done, self.epochs - measured)
