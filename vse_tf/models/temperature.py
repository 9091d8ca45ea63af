"""A learned temperature and bias: scalar weights of the model that its loss reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="vse_tf")
class Within(keras.constraints.Constraint):
    """Keeps a weight between two limits: it is moved back after the step, so it can always turn round.

    Args:
        low: smallest value.
        high: largest value.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def __call__(self, w: Any) -> Any:
        return keras.ops.clip(w, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        return {"low": self.low, "high": self.high}


@keras.saving.register_keras_serializable(package="vse_tf")
class LearnedTemperature(keras.layers.Layer):
    """The temperature that divides the similarities, and on request a bias, as weights.

    A loss's own variable is never trained, so they belong to the model: `DualEncoder` hands them to the loss that it is
    compiled with. The temperature is kept as its logarithm: a step then changes it by a factor, whatever its size.

    Args:
        temperature: initial temperature.
        limits: smallest and largest temperature; without them a run may sharpen until one pair alone counts.
        bias: initial bias on the logits, for `SigmoidPairwise`; None leaves it out.

    Raises:
        ValueError: the temperature is outside of the limits.

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
        name: str = "temperature",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "name": name, "dtype": "float32"})
        low, high = limits
        if not 0 < low <= temperature <= high:
            raise ValueError(f"temperature must be between the limits {low} and {high}; got temperature={temperature}")
        self.temperature = temperature
        self.limits = (low, high)
        self.bias = bias
        self.log_temperature = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(temperature)),
            constraint=Within(math.log(low), math.log(high)),
            name="log_temperature",
        )
        self.logit_bias = None
        if bias is not None:
            self.logit_bias = self.add_weight(
                shape=(), initializer=keras.initializers.Constant(bias), name="logit_bias"
            )
        self.built = True

    def now(self) -> tf.Tensor:
        """The temperature, a float32 scalar that gradients flow through."""
        return tf.exp(tf.convert_to_tensor(self.log_temperature))

    def bias_now(self) -> tf.Tensor:
        """The bias, a float32 scalar that gradients flow through."""
        return tf.convert_to_tensor(self.logit_bias)

    def bind(self, loss: Any) -> None:
        """Make a loss read these weights.

        Raises:
            ValueError: the loss has no temperature (or no bias, where there is one here).
        """
        for name, value in (("temperature", self.now), ("bias", self.bias_now if self.bias is not None else None)):
            if value is None:
                continue
            if not hasattr(loss, name):
                raise ValueError(f"the loss {getattr(loss, 'name', loss)} has no {name} that could be learned")
            setattr(loss, name, value)

    def get_config(self) -> dict[str, Any]:
        own = {"temperature": self.temperature, "limits": list(self.limits), "bias": self.bias}
        return {**super().get_config(), **own}
