"""Fits the model from any position of a run to its end, and saves the run where a signal ends it earlier."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import keras
import tensorflow as tf

from vse_tf.artifacts.checkpoint_files import Position
from vse_tf.display import part
from vse_tf.errors import Interrupted
from vse_tf.training.builder import RunParts
from vse_tf.training.callbacks import DeviceLogs, ProgressBar, StepTracker, Validation, measure_validation
from vse_tf.training.checkpoint_writer import CheckpointWriter
from vse_tf.training.collapse import CollapseWatch
from vse_tf.training.distribution import is_chief
from vse_tf.training.progress import RunProgress
from vse_tf.training.signals import SignalHandler
from vse_tf.training.tensorboard import TensorBoard, gather_events, purge
from vse_tf.training.worker_sync import WorkerSync


def measure_start(parts: RunParts, progress: RunProgress) -> None:
    """Measure and save the model of a run of no epochs, unless that has been done: epoch 0, if the run goes on later.

    Args:
        parts: what the run is made of, its model compiled.
        progress: where the run stands.
    """
    if parts.settings.train.epochs or progress.rows:
        return
    start = Position(0, 0)
    began = time.perf_counter()
    _, metrics = measure_validation(parts)
    timing = {"time": time.time(), "validation_seconds": time.perf_counter() - began}
    row = {"epoch": 0, "step": 0, "metrics": metrics, "train": {}, "timing": timing}
    progress.rows.append(row)
    with part("checkpoint"):
        parts.checkpoints.save(parts.model, start, best=True, progress=progress.stored(start))
    parts.run.append_metrics(row)


def fit(
    parts: RunParts, progress: RunProgress, signals: SignalHandler, saved: Callable[[], None] | None = None
) -> None:
    """Train from where the run stands to its end.

    Args:
        parts: what the run is made of, its model compiled.
        progress: where the run stands.
        signals: knows whether a signal has arrived.
        saved: called after each checkpoint.

    Raises:
        Interrupted: a signal has arrived at a worker of the run, and the run is saved.
        UserError: the training has diverged, an image cannot be read, or the run folder cannot be written.
    """
    train = parts.settings.train
    sync = WorkerSync(parts.strategy, signals)
    watch = CollapseWatch(parts.model.loss, train.batch_size, train.collapse_steps) if train.collapse_steps else None
    tracker = StepTracker(parts, progress, watch)
    callbacks: list[keras.callbacks.Callback] = [tracker]
    writer = None
    with ExitStack() as stack:
        if is_chief(parts.strategy):
            bar = ProgressBar(parts, progress)
            stack.enter_context(bar.phase)
            with part("TensorBoard"):
                gather_events(parts.run)
                purge(parts.run.events, progress.position.step or -1)
                validation = Validation(parts, progress, signals)
                board = TensorBoard(parts, progress, tracker, validation)
            writer = CheckpointWriter(parts, progress, tracker, board, saved)
            callbacks += [validation, board, bar, writer]
            bar.first_step()
        callbacks.append(sync)
        # A signal waits for the end of its step, where `sync` checks for it.
        stack.enter_context(signals.deferred())
        try:
            _fit_epochs(parts, progress.position, callbacks)
        except Interrupted as stop:
            if writer:
                writer.save()
            sync.wait_for_chief(stop.number)
            where = f"in {parts.run.path}" if writer else "by the chief"
            stored = f"saved at step {progress.position.step} {where}"
            raise Interrupted(stop.number, f"{stored}; the same command continues from there") from None
        except tf.errors.OpError as error:
            raise parts.bad.raised(error) from None


def _fit_epochs(parts: RunParts, start: Position, callbacks: list[keras.callbacks.Callback]) -> None:
    """Run the rest of the epoch that the run stands in, and the epochs after it."""
    model, steps_per_epoch, epochs = parts.model, parts.order.steps_per_epoch, parts.settings.train.epochs
    epoch, unfreeze = start.epoch, parts.settings.train.unfreeze_epoch

    def fit_until(end: int, first_step: int = 0) -> None:
        model.rest(epoch < unfreeze)
        model.fit(
            parts.batches(epoch, first_step),
            initial_epoch=epoch,
            epochs=end,
            steps_per_epoch=steps_per_epoch - first_step,
            callbacks=DeviceLogs(callbacks, add_history=True, model=model),
            shuffle=False,
            verbose=0,
        )

    if start.step_in_epoch:
        if start.step_in_epoch < steps_per_epoch:
            fit_until(epoch + 1, start.step_in_epoch)
        else:
            # The epoch's steps are done, but it has not been measured.
            epoch_end = keras.callbacks.CallbackList(callbacks, model=model)
            epoch_end.on_epoch_begin(epoch)
            epoch_end.on_epoch_end(epoch)
        epoch += 1
    for end in sorted({min(unfreeze, epochs), epochs}):
        if epoch < end and not model.stop_training:
            fit_until(end)
            epoch = end
