"""Types that the package's Keras layers share."""

from __future__ import annotations

from typing import TypeAlias, TypedDict

import keras

Shape: TypeAlias = tuple[int | None, ...]
"""Shape of a batch; None stands for any length."""


class LayerOptions(TypedDict, total=False):
    """Arguments that every Keras layer takes; `**kwargs` in a constructor, a name that Keras looks for."""

    name: str
    dtype: str | keras.DTypePolicy
    trainable: bool
