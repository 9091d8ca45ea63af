"""The encoders by the names that `image.encoder` and `text.encoder` take, each with the module that builds it.

The module of an image encoder has a function `image_encoder` (and `image_size`, if the encoder has a size of its own),
that of a text encoder `text_encoder`; both turn settings into a function from inputs to features. To add an encoder,
write its module in this package and add its line here. Loading a run imports the modules of its encoders, which
registers the layers of its model.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from importlib import import_module
from types import ModuleType
from typing import TypeAlias

import keras

from vse_tf.errors import UserError

Encoder: TypeAlias = Callable[[keras.KerasTensor], keras.KerasTensor]
"""From a batch of inputs to its features `(batch, d)` or `(batch, n, d)`: a model, or a function that adds layers."""

ENCODERS = {
    "image.encoder": {
        "cnn": "cnn",
        "features": "pooling",
        "applications:<name>": "applications",
        "hub:<name>": "hub_backbones",
    },
    "text.encoder": {
        "gru": "gru",
        "transformer": "transformer",
        "hub:<name>": "hub_backbones",
    },
}


def split_encoder(encoder: str, key: str) -> tuple[str, str]:
    """Split the setting of an encoder into its kind and the name after the colon.

    Args:
        encoder: value of the setting, for example `applications:VGG19`.
        key: key of the setting, `image.encoder` or `text.encoder`.

    Returns:
        Kind and name; the name is empty for a kind that has none.

    Raises:
        UserError: there is no such encoder.

    Example:
        >>> split_encoder("hub:resnet_50_imagenet", "image.encoder")
        ('hub', 'resnet_50_imagenet')
    """
    kind, colon, name = encoder.partition(":")
    if _form(kind, colon) in ENCODERS[key] and bool(name) == bool(colon):
        return kind, name
    close = nearest(kind, [form.partition(":")[0] for form in ENCODERS[key]])
    raise UserError(f"{key}: no encoder {encoder!r}{close}; give one of: {', '.join(ENCODERS[key])}")


def encoder_module(encoder: str, key: str) -> ModuleType:
    """Import the module of an encoder, which registers its layers with Keras.

    Args:
        encoder: value of the setting.
        key: key of the setting, `image.encoder` or `text.encoder`.

    Raises:
        UserError: there is no such encoder.
    """
    return import_module(f"vse_tf.models.{ENCODERS[key][_form(*split_encoder(encoder, key))]}")


def nearest(name: str, names: Iterable[str]) -> str:
    """` (did you mean a, b?)` with the names that resemble this one; empty if none does."""
    lower = {candidate.lower(): candidate for candidate in names}
    found = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    return f" (did you mean {', '.join(found)}?)" if found else ""


def _form(kind: str, name: str) -> str:
    return f"{kind}:<name>" if name else kind
