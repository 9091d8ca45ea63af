"""Runs `fit` from any position of a run to its end, and leaves on a signal with every finished step kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from vse_tf.errors import Interrupted
from vse_tf.training.callbacks import Progress, StepWatch
from vse_tf.training.interruption import Interruption
from vse_tf.training.saving import Saving
from vse_tf.training.together import Together


def fit(
    model: keras.Model,
    batches: Callable[[int, int], Any],
    watch: StepWatch,
    callbacks: list[keras.callbacks.Callback],
    epochs: int,
    interruption: Interruption,
    together: Together,
) -> None:
    """Train from where `watch` starts.

    Args:
        model: the compiled model.
        batches: gives the endless training batches from an epoch and a step within it.
        watch: knows where the run stands; one of the callbacks.
        callbacks: all of them but `together`, which comes last.
        epochs: where the run ends.
        interruption: tells that a signal has arrived.
        together: makes all workers leave after the same step.

    Raises:
        Interrupted: a signal has arrived at a worker of the run, and the run is kept.
    """
    callbacks = [*callbacks, together]
    start, steps = watch.start, watch.steps_per_epoch

    def run(epoch: int, before: int, end: int) -> None:
        model.fit(
            batches(epoch, before),
            epochs=end,
            initial_epoch=epoch,
            steps_per_epoch=steps - before,
            callbacks=callbacks,
            shuffle=False,
            verbose=0,
        )

    try:
        with interruption.deferred():
            if start.within == steps:
                # All of the epoch's steps are done, only its end is not.
                ending = keras.callbacks.CallbackList(callbacks, model=model)
                ending.on_epoch_begin(start.epoch)
                ending.on_epoch_end(start.epoch, {})
            elif start.within:
                run(start.epoch, start.within, start.epoch + 1)
            epoch = start.epoch + bool(start.within)
            if epoch < epochs and not model.stop_training:
                run(epoch, 0, epochs)
    except Interrupted as stop:
        saving = next((callback for callback in callbacks if isinstance(callback, Saving)), None)
        where = "by the chief"
        # Sent to all workers, the signal may arrive here only now, when another has told of it.
        with interruption.deferred():
            if saving is not None:
                saving.keep()
                where = f"in {saving.checkpoints.folder.parent}"
            together.leave(stop.number)
        kept = f"kept at step {watch.position.step} {where}"
        raise Interrupted(stop.number, f"{kept}; the same command continues from there") from None
    finally:
        for callback in callbacks:
            if isinstance(callback, Progress):
                callback.close()
