"""Learning rate and hardness over the run.

Both follow the optimizer's `iterations`, which counts the applied steps. With mixed_float16 a step whose gradients are
not finite is skipped and not counted: schedules then end later, by as many steps as were skipped.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from vse_tf.config import TrainSettings

Rate: TypeAlias = keras.optimizers.schedules.LearningRateSchedule | float


@keras.saving.register_keras_serializable(package="vse_tf")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Multiplies another schedule by a factor that rises linearly to 1 over the first steps of a run.

    Args:
        schedule: the schedule, or a constant rate; its steps are counted from the start of the run.
        warmup_steps: number of steps until the factor is 1.

    Example:
        >>> float(WarmUp(0.5, warmup_steps=4)(1))
        0.25
    """

    def __init__(self, schedule: Rate, warmup_steps: int) -> None:
        super().__init__()
        self.schedule = schedule
        self.warmup_steps = warmup_steps

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        rate = self.schedule(step) if callable(self.schedule) else self.schedule
        step = ops.cast(step, "float32")
        # The first step trains too: step 0 has 1/warmup_steps of the rate.
        return rate * ops.minimum(1.0, (step + 1.0) / self.warmup_steps)

    def get_config(self) -> dict[str, Any]:
        schedule = self.schedule
        if callable(schedule):
            schedule = keras.optimizers.schedules.serialize(schedule)
        return {"schedule": schedule, "warmup_steps": self.warmup_steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WarmUp:
        if isinstance(config["schedule"], dict):
            config = {**config, "schedule": keras.optimizers.schedules.deserialize(config["schedule"])}
        return cls(**config)


class Hardness:
    """Hardness of the negatives: rises linearly from 0 (all negatives) to 1 (the hardest) and stays there.

    It depends on the optimizer's own count of steps, so a resumed run continues where it stopped.

    Args:
        iterations: the optimizer's `iterations`.
        steps: number of steps from 0 to 1.

    Example:
        >>> ConVSEPlusPlus(hardness=Hardness(optimizer.iterations, steps=1000))
    """

    def __init__(self, iterations: keras.Variable, steps: int) -> None:
        self.iterations = iterations
        self.steps = steps

    def __call__(self) -> tf.Tensor:
        """The hardness of the step that comes next."""
        return ops.minimum(1.0, ops.cast(self.iterations, "float32") / self.steps)


def learning_rate(train: TrainSettings, steps_per_epoch: int) -> Rate:
    """The schedule that the settings describe.

    Args:
        train: the settings; `schedule` is constant, step (times `decay_factor` from the first step after each of
            `decay_epochs`) or cosine (to 0 at the end of `epochs`), all times a factor that rises linearly to 1 over
            the steps of `warmup_epochs`.
        steps_per_epoch: optimizer steps in an epoch.

    Returns:
        A `LearningRateSchedule` of the number of steps before the one that it is for, or the rate where it never
        changes.

    Example:
        >>> rate = learning_rate(TrainSettings(learning_rate=1.0, decay_epochs=[2], decay_factor=0.1), 10)
        >>> float(rate(19)), float(rate(20))  # the last step of the second epoch, the first of the third
        (1.0, 0.1)
    """
    peak = train.learning_rate
    rate: Rate = peak
    if train.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(peak, max(1, train.epochs * steps_per_epoch))
    elif train.schedule == "step" and train.decay_epochs:
        # Keras takes the old rate at the bound itself.
        bounds = [epoch * steps_per_epoch - 1 for epoch in sorted(train.decay_epochs)]
        rates = [peak * train.decay_factor**i for i in range(len(bounds) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(bounds, rates)
    warmup_steps = round(train.warmup_epochs * steps_per_epoch)
    return WarmUp(rate, warmup_steps) if warmup_steps else rate
