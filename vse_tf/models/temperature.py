"""A learned temperature and bias: scalar weights of the model that its loss reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from vse_tf.losses.nested import Nested
from vse_tf.models.layer_types import LayerOptions


@keras.saving.register_keras_serializable(package="vse_tf")
class LearnedTemperature(keras.layers.Layer):
    """The temperature that divides the similarities, and optionally a bias, as weights.

    A variable of a loss is never trained, so they belong to the model: `DualEncoder` binds them to the loss that it is
    compiled with. The weight is the logarithm of the temperature, so that a step changes the temperature by a factor.

    Args:
        temperature: initial temperature.
        limits: smallest and largest temperature; a very small one would leave a single pair with any weight.
        bias: initial bias on the logits, for `SigmoidPairwise`; None: no bias.

    Raises:
        ValueError: the temperature is not between the limits.

    Example:
        >>> model = DualEncoder(image_tower, text_tower, temperature=LearnedTemperature(0.07))
        >>> model.compile(optimizer="adam", loss=ConVSE())
        >>> float(model.temperature.now())
        0.07
    """

    def __init__(
        self,
        temperature: float = 0.1,
        limits: Sequence[float] = (0.01, 1.0),
        bias: float | None = None,
        **kwargs: Unpack[LayerOptions],
    ) -> None:
        super().__init__(**{"name": "temperature", **kwargs, "dtype": "float32"})
        low, high = limits
        if not 0 < low <= temperature <= high:
            raise ValueError(f"temperature must be between the limits {low} and {high}; got temperature={temperature}")
        self.temperature = temperature
        self.limits = (low, high)
        self.bias = bias
        self.log_temperature = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(temperature)),
            # Clipped after each step, not in the loss, where the gradient beyond a limit would be zero.
            constraint=lambda value: keras.ops.clip(value, math.log(low), math.log(high)),
            name="log_temperature",
        )
        self.logit_bias = None
        if bias is not None:
            self.logit_bias = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(bias), name="logit_bias"
            )
        self.built = True

    def now(self) -> tf.Tensor:
        """The current temperature, a float32 scalar that gradients flow through."""
        return tf.exp(tf.convert_to_tensor(self.log_temperature))

    def bias_now(self) -> tf.Tensor:
        """The current bias, a float32 scalar that gradients flow through."""
        return tf.convert_to_tensor(self.logit_bias)

    def bind(self, loss: keras.losses.Loss | None) -> None:
        """Make a loss read these weights.

        Args:
            loss: a loss with a temperature, and with a bias if this layer has one.

        Raises:
            ValueError: the loss has no such argument.
        """
        loss = loss.loss if isinstance(loss, Nested) else loss
        values = {"temperature": self.now} | ({} if self.bias is None else {"bias": self.bias_now})
        for name, value in values.items():
            if not hasattr(loss, name):
                raise ValueError(f"the loss {getattr(loss, 'name', loss)} has no {name} that could be learned")
            setattr(loss, name, value)

    def get_config(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "limits": list(self.limits), "bias": self.bias}
        return {**super().get_config(), **own}
