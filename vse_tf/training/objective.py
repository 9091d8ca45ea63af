"""The loss that the settings describe, with the hardness and temperature that change during training."""

from __future__ import annotations

import keras

from vse_tf import losses
from vse_tf.config import LossSettings
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.training.schedules import Hardness


def make_loss(loss: LossSettings, iterations: keras.Variable, steps_per_epoch: int) -> losses.PairLoss:
    """The loss; a learned temperature is bound to it in `DualEncoder.compile`.

    Args:
        loss: the settings.
        iterations: the optimizer's count of steps, which a hardness schedule follows.
        steps_per_epoch: optimizer steps in an epoch.
    """
    rise = round(loss.hardness_epochs * steps_per_epoch)
    objective = losses.build(
        loss.name,
        temperature=loss.temperature,
        bias=loss.bias,
        margin=loss.margin,
        mask_same_image=loss.mask_same_image,
        multiple_positives=loss.multiple_positives,
        hardest=loss.hardest,
        hardness=Hardness(iterations, rise) if rise else 1.0,
    )
    return losses.Nested(objective, loss.nested_dims) if loss.nested_dims else objective


def make_temperature(loss: LossSettings) -> LearnedTemperature | None:
    """The model's temperature (and bias), where the settings let it learn them."""
    if not loss.learned:
        return None
    bias = loss.bias if "bias" in losses.LOSSES[loss.name].settings else None
    return LearnedTemperature(loss.temperature, loss.temperature_limits, bias)
