"""Adam or AdamW with a learning-rate factor per variable, so that towers can learn at different rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from vse_tf.config import TrainSettings
from vse_tf.models.backbones import backbone_of, fine_tuned, tail_of
from vse_tf.models.blocks import blocks_of
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.training.schedules import Rate, learning_rate


@keras.saving.register_keras_serializable(package="vse_tf")
class TowerAdam(keras.optimizers.Adam):
    """Adam whose step is scaled by a factor per variable.

    Scaling the gradients instead would do nothing: Adam divides the scale out again. Weight decay is decoupled, as in
    AdamW (arXiv 1711.05101): before the step a variable loses its decay times its own learning rate. Keras' own
    argument would take the unscaled rate, and would decay biases too.

    Args:
        learning_rate: rate or schedule.
        rates: factor of each trainable variable, in the model's order; None means 1 for all.
        decays: weight decay of each trainable variable, in the same order; None means 0 for all.
        delays: number of steps before each trainable variable is trained, in the same order, with its gradient left out
            of `apply`; None means 0 for all. Adam's averages then begin at that step, and so does their correction for
            the zeros that they begin with.
        **kwargs: as for `keras.optimizers.Adam`. Leave its clip arguments unset: `DualEncoder` clips the gradient of
            the global batch.

    Example:
        >>> TowerAdam(2e-4, rates=[0.1 if "backbone" in v.path else 1.0 for v in model.trainable_variables])
    """

    def __init__(
        self,
        learning_rate: Rate = 1e-3,
        rates: Sequence[float] | None = None,
        decays: Sequence[float] | None = None,
        delays: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.rates = None if rates is None else [float(rate) for rate in rates]
        self.decays = None if decays is None else [float(decay) for decay in decays]
        self.delays = None if delays is None else [int(delay) for delay in delays]

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        index = self._get_variable_index(variable)
        rate = tf.cast(learning_rate, variable.dtype)
        if self.rates is not None:
            rate *= self.rates[index]
        if self.decays is not None and (decay := self.decays[index]):
            self.assign_sub(variable, variable * (rate * decay))
        steps = tf.cast(self.iterations.value, variable.dtype)
        own = steps
        if self.delays is not None and (delay := self.delays[index]):
            own = tf.maximum(steps - delay, 0)
        if self.amsgrad:
            super().update_step(gradient, variable, rate * self._correction(own) / self._correction(steps))
            return
        # One pass over the weights and one operation in the graph; Keras' formula has a dozen of each.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1 ** (own + 1),
            beta2_power=self.beta_2 ** (own + 1),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(gradient, variable.dtype),
        )

    def _correction(self, steps: tf.Tensor) -> tf.Tensor:
        """Adam's factor on the rate after a number of steps."""
        return keras.ops.sqrt(1 - self.beta_2 ** (steps + 1)) / (1 - self.beta_1 ** (steps + 1))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rates": self.rates, "decays": self.decays, "delays": self.delays}


def make_optimizer(train: TrainSettings, model: DualEncoder, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """The optimizer that the settings describe, for this model's trainable variables."""
    rates = _rates(train, model)
    decays = [train.weight_decay if is_decayed(variable) else 0.0 for variable in model.trainable_variables]
    delays = _delays(train, model, steps_per_epoch)
    return TowerAdam(
        learning_rate(train, steps_per_epoch),
        rates=None if set(rates) == {1.0} else rates,
        decays=decays if any(decays) else None,
        delays=delays if any(delays) else None,
    )


def is_decayed(variable: keras.Variable) -> bool:
    """Whether `train.weight_decay` is for a variable: a kernel or an embedding.

    Not a bias, of which those of a GRU and of attention are matrices, a norm's scale and shift, or the temperature.
    """
    return len(variable.shape) > 1 and "bias" not in variable.name


def loss_scaling(optimizer: keras.optimizers.Optimizer) -> dict[str, float]:
    """What a run with mixed_float16 logs of its optimizer; nothing for other precisions.

    Args:
        optimizer: the model's optimizer.

    Returns:
        `applied_steps`, which excludes the steps that were skipped because their gradients were not finite, and
        `loss_scale`, the scale of the next step.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {}
    values = {"applied_steps": optimizer.iterations, "loss_scale": optimizer.dynamic_scale}
    return {name: float(keras.ops.convert_to_numpy(value)) for name, value in values.items()}


def _delays(train: TrainSettings, model: DualEncoder, steps_per_epoch: int) -> list[int]:
    backbones = {id(variable) for variable in model.backbone_variables}
    delay = train.unfreeze_epoch * steps_per_epoch
    return [delay if id(variable) in backbones else 0 for variable in model.trainable_variables]


def _rates(train: TrainSettings, model: DualEncoder) -> list[float]:
    factors = {id(variable): 1.0 for variable in model.trainable_variables}
    for tower, factor in ((model.image_tower, train.image_rate), (model.text_tower, train.text_rate)):
        for variable in tower.trainable_variables:
            factors[id(variable)] = factor
        for variable in fine_tuned(tower):
            factors[id(variable)] = factor * train.backbone_rate
        if train.layer_decay < 1:
            for part in (backbone_of(tower), tail_of(tower)):
                blocks = blocks_of(part) if part and part.trainable_variables else []
                for number, block in enumerate(blocks, 1):
                    # Weights that blocks share have the rate of the last one.
                    falling = train.layer_decay ** (len(blocks) - number)
                    factors |= {id(variable): factor * train.backbone_rate * falling for variable in block}
    return [factors[id(variable)] for variable in model.trainable_variables]
