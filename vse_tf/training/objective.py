"""The loss that the settings describe, with the hardness and temperature that change during training."""

from __future__ import annotations

from dataclasses import replace

import keras

from vse_tf import losses
from vse_tf.config import LossSettings, Settings
from vse_tf.errors import UserError
from vse_tf.models.encoders import split_encoder
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.training.schedules import Hardness


def with_values(settings: Settings) -> LossSettings:
    """The settings of the objective with numbers in place of `preset`.

    Args:
        settings: the run's settings. The limits of a learned temperature include that of the preset.

    Raises:
        UserError: the encoders are not one preset, or it has no such value.
    """
    loss = settings.loss
    if "preset" not in (loss.temperature, loss.bias):
        return loss
    key = "loss.temperature" if loss.temperature == "preset" else "loss.bias"
    kind, preset = split_encoder(settings.image.encoder, "image.encoder")
    if kind != "hub" or settings.image.encoder != settings.text.encoder:
        raise UserError(
            f"{key}: preset, but image.encoder {settings.image.encoder} and text.encoder {settings.text.encoder} are "
            "not one CLIP or SigLIP preset; give a number"
        )
    from vse_tf.models.hub_backbones import logit_scaling  # noqa: PLC0415 (KerasHub takes seconds)

    temperature, bias = logit_scaling(preset)
    if loss.temperature == "preset":
        low, high = loss.temperature_limits
        limits = (min(low, temperature), max(high, temperature))
        loss = replace(loss, temperature=temperature, temperature_limits=limits)
    if loss.bias == "preset" and "bias" in losses.LOSSES[loss.name].settings:
        if bias is None:
            raise UserError(f"loss.bias: preset, but {preset!r} has none; give a number")
        loss = replace(loss, bias=bias)
    return loss


def make_loss(loss: LossSettings, iterations: keras.Variable, steps_per_epoch: int) -> losses.PairLoss:
    """The loss; a learned temperature is bound to it in `DualEncoder.compile`.

    Args:
        loss: the settings, see `with_values`.
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
    assert not isinstance(loss.temperature, str) and not isinstance(bias, str)
    return LearnedTemperature(loss.temperature, loss.temperature_limits, bias)
