"""Several tensors of a network as one feature, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias, Unpack

import keras
import tensorflow as tf
from keras import ops

from vse_tf.models.layer_types import LayerOptions

Spec: TypeAlias = tuple[tuple[int | None, ...], str]
"""Shape without the batch, and dtype, of a tensor."""
# float16 holds integers exactly up to here.
BASE = 2048


class _States(keras.layers.Layer):
    """Base of both layers.

    Args:
        specs: shape and dtype of each tensor. Where one has a side of any length, its first, they are states of tokens.
    """

    def __init__(self, specs: Sequence[Spec], **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.specs: list[Spec] = [(tuple(shape), dtype) for shape, dtype in specs]
        self.per_token = any(None in shape for shape, _ in self.specs)

    @property
    def widths(self) -> list[int]:
        """Number of values of each tensor: per token, if there are tokens."""
        return [math.prod(side or 1 for side in shape) * _parts(dtype) for shape, dtype in self.specs]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "specs": [[list(shape), dtype] for shape, dtype in self.specs]}


@keras.saving.register_keras_serializable(package="vse_tf")
class PackStates(_States):
    """Packs tensors into one, rounded to float16, as a cache of features stores it.

    Integers below 2²² are not rounded: they are stored in two parts. A tensor without tokens is repeated at each token.

    Args:
        specs: as for `UnpackStates`.
        rounding: dtype of the result.

    Call arguments:
        inputs: the tensors, in the order of `specs`.

    Call returns:
        `(batch, values)`, or `(batch, length, values)` for states of tokens.
    """

    def __init__(self, specs: Sequence[Spec], rounding: str = "float16", **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(specs, **kwargs)
        self.rounding = rounding

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        tokens = [x for x, (shape, _) in zip(inputs, self.specs, strict=True) if None in shape]
        length = [ops.shape(tokens[0])[1]] if self.per_token else []
        each = zip(inputs, self.specs, self.widths, strict=True)
        return ops.concatenate([self._packed(x, spec, width, length) for x, spec, width in each], axis=-1)

    def _packed(self, x: tf.Tensor, spec: Spec, width: int, length: list[tf.Tensor]) -> tf.Tensor:
        shape, dtype = spec
        if _parts(dtype) == 2:
            x = ops.stack([ops.floor_divide(x, BASE), ops.mod(x, BASE)], axis=-1)
        x = ops.cast(x, self.rounding)
        if not length or None in shape:
            return ops.reshape(x, [-1, *length, width])
        return ops.tile(ops.reshape(x, [-1, 1, width]), [1, *length, 1])

    def compute_output_spec(self, inputs: Sequence[keras.KerasTensor]) -> keras.KerasTensor:
        length = [None] if self.per_token else []
        return keras.KerasTensor((inputs[0].shape[0], *length, sum(self.widths)), self.rounding)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rounding": self.rounding}


@keras.saving.register_keras_serializable(package="vse_tf")
class UnpackStates(_States):
    """The tensors that `PackStates` has packed. Zeros, as of padding, are zeros, and a mask is false there.

    Args:
        specs: shape and dtype of each tensor.

    Call arguments:
        inputs: `(batch, values)` or `(batch, length, values)`.

    Call returns:
        The tensors, in the order of `specs`.
    """

    def call(self, inputs: tf.Tensor) -> list[tf.Tensor]:
        length = [ops.shape(inputs)[1]] if self.per_token else []
        found, at = [], 0
        for (shape, dtype), width in zip(self.specs, self.widths, strict=True):
            x = inputs[..., at : at + width]
            if self.per_token and None not in shape:
                x = x[:, 0]
            sides = [-1, *(length[0] if side is None else side for side in shape)]
            if _parts(dtype) == 2:
                x = ops.cast(ops.reshape(x, [*sides, 2]), dtype)
                x = x[..., 0] * BASE + x[..., 1]
            else:
                x = ops.cast(ops.reshape(x, sides), dtype)
            found.append(x)
            at += width
        return found

    def compute_output_spec(self, inputs: keras.KerasTensor) -> list[keras.KerasTensor]:
        return [keras.KerasTensor((inputs.shape[0], *shape), dtype) for shape, dtype in self.specs]


def spec_of(tensor: keras.KerasTensor) -> Spec:
    """Shape without the batch, and dtype, of a tensor."""
    return tuple(tensor.shape[1:]), keras.backend.standardize_dtype(tensor.dtype)


def can_be_packed(tensors: Sequence[keras.KerasTensor]) -> bool:
    """Whether tensors have sides that `PackStates` knows: a batch, and no side of any length but that of tokens."""
    return all(
        len(x.shape) > 0 and x.shape[0] is None and None not in x.shape[2:] and _known(spec_of(x)) for x in tensors
    )


def _known(spec: Spec) -> bool:
    shape, dtype = spec
    return len(shape) < (3 if None in shape else 5) and (dtype == "bool" or "float" in dtype or "int" in dtype)


def _parts(dtype: str) -> int:
    """Values that one of this dtype takes."""
    return 2 if keras.backend.is_int_dtype(dtype) else 1
