"""Keras configs that came from elsewhere: only layers and models of known packages. Standard library only.

A run folder is data. Keras refuses to run code from a config by itself, but some of its layers load programs or read
any file that their config names, and it imports what a config asks for from packages that it trusts.
"""

from __future__ import annotations

import re
from typing import Any

# Layers that hold code, load a program, or read files and addresses named in their config.
REFUSED = {
    "FlaxLayer",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
}
KERAS_MODULES = {
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.quantizers",
    "keras.regularizers",
}
KERAS_SOURCES = (
    "applications",
    "constraints",
    "dtype_policies",
    "initializers",
    "layers",
    "models",
    "ops",
    "quantizers",
)
KERAS_NAMES = {"DTypePolicy", "Functional", "Model", "Sequential"}
REGISTERED = ("keras_hub>", "vse_tf>")
_BACKBONES = re.compile(r"keras_hub\.src\.models\.\w+\.\w+")
VALUES = {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__"}


def check_keras_config(config: Any) -> None:
    """Refuse a config that names anything but layers and models of Keras, KerasHub and this package.

    Args:
        config: what `keras.saving.serialize_keras_object` gave, or a dictionary that holds such, after a passage
            through JSON.

    Raises:
        ValueError: the message names the class.

    Example:
        >>> check_keras_config({"class_name": "Lambda", "module": "keras.layers", "config": {}})
        Traceback (most recent call last):
        ValueError: it names keras.layers.Lambda, which is not loaded from a folder
    """
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "class_name" in item and not _known(item):
                raise ValueError(
                    f"it names {item.get('module')}.{item['class_name']}, which is not loaded from a folder"
                )
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)


def _known(item: dict[str, Any]) -> bool:
    name, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not isinstance(name, str) or name in REFUSED:
        return False
    if name in VALUES:
        return True
    if not isinstance(module, str):
        return False
    if name == "function":
        return module in ("builtins", "keras.activations")
    package, _, inside = module.partition(".")
    if package == "keras":
        sources = inside.startswith("src.") and inside.split(".")[1] in KERAS_SOURCES
        return registered in (None, name) and (
            module in KERAS_MODULES or sources or (not inside and name in KERAS_NAMES)
        )
    # KerasHub registers its backbones, but not all layers that they are built of (CLIP's, EfficientNet's).
    part = package == "keras_hub" and registered in (None, name) and _BACKBONES.fullmatch(module)
    own = package in ("keras_hub", "vse_tf") and isinstance(registered, str) and registered.startswith(REGISTERED)
    return bool(part) or own
