"""Rebuilds a model from its description in a run folder, which is not trusted.

Only layers of a closed list are built, no code of a description is run and no file that it names is opened; weights are
allocated only after a check that the checkpoint holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras.src.backend.common import global_state

from vse_tf.artifacts.keras_configs import check_keras_config
from vse_tf.errors import UserError
from vse_tf.files import load_json
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.preprocessing.view import ImageView
from vse_tf.setting_types import LARGEST, Range

# Limit for the values of a layer's output for one item: 1 GB.
MOST_VALUES = 2**28
_SIDE = Range(1, 2**14)


def rebuild(path: Path, check_weights: Callable[[DualEncoder], None]) -> tuple[DualEncoder, ImageView]:
    """Rebuild the untrained model and the image view of a description.

    Args:
        path: `model.json`.
        check_weights: called with the model before its weights are allocated; raises `UserError` if the checkpoint
            does not hold them.

    Raises:
        UserError: it does not describe a model of this package.

    Example:
        >>> model, view = rebuild(folder.model, lambda model: checkpoints.check(model, "best"))
    """
    description = load_json(path)
    try:
        view = view_of(description["view"])
        check_keras_config(description["model"])
        # Keras allocates pending variables at the end of the next outermost scope: the empty one below.
        with keras.StatelessScope(initialize_variables=False):
            model = DualEncoder.from_config(_arguments(description["model"]))
            _check(model, view)
            check_weights(model)
        with keras.StatelessScope():
            pass
    except UserError:
        raise
    except Exception as error:  # a wrong config may raise anything in Keras
        raise UserError(
            f"{path}: no model of this package ({type(error).__name__}: {' '.join(str(error).split())[:300]}); "
            "copy the run folder again"
        ) from None
    finally:
        # Variables of a refused model would be allocated with the next model.
        global_state.set_global_attribute("uninitialized_variables", [])
    return model, view


def view_of(values: object) -> ImageView:
    """The image view of a description.

    Raises:
        ValueError: a value is missing, of another type or out of range.
    """
    names = set(ImageView.__dataclass_fields__)
    if not isinstance(values, dict) or not {"size"} <= values.keys() <= names:
        raise ValueError("its view is not an image view")
    size, resize, scale = values["size"], values.get("resize"), values.get("crop_scale", [0.08, 1.0])
    sides = [] if size is None else size if isinstance(size, list) and len(size) == 2 else [None]
    good = (
        all(type(side) is int and side in _SIDE for side in [*sides, *([] if resize is None else [resize])])
        and all(isinstance(values.get(key, False), bool) for key in ("random_crop", "flip", "eval_flip"))
        and type(values.get("max_pixels", 1)) is int
        and values.get("max_pixels", 1) in Range(1)
        and isinstance(scale, list)
        and len(scale) == 2
        and all(type(share) in (int, float) and share in Range(0, 1) for share in scale)
    )
    if not good:
        raise ValueError(f"the view holds wrong values: {str(values)[:200]}")
    return ImageView.of_dict(values)


def _arguments(config: object) -> dict[str, Any]:
    """The dual encoder's config, its numbers and its name checked."""
    if not isinstance(config, dict):
        raise ValueError("the model is not an object")
    limits = {"clip_norm": (int, float), "micro_batch": (int,)}
    for key, kinds in limits.items():
        value = config.get(key, 0)
        if type(value) not in kinds or not 0 <= value <= LARGEST:
            raise ValueError(f"{key}: {str(value)[:80]} is not a valid number")
    if not isinstance(config.get("name", ""), str):
        raise ValueError("the model's name is not a string")
    return config


def _check(model: DualEncoder, view: ImageView) -> None:
    """Refuse a model whose parts the commands cannot use."""
    if model.temperature is not None and not isinstance(model.temperature, LearnedTemperature):
        raise ValueError(f"the temperature is a {type(model.temperature).__name__}")
    dims = set()
    for name, tower in (("image_tower", model.image_tower), ("text_tower", model.text_tower)):
        functional = isinstance(tower, keras.Model) and hasattr(tower, "operations")
        if not functional or len(tower.inputs) != 1 or len(tower.outputs) != 1 or len(tower.output.shape) != 2:
            raise ValueError(f"the {name} does not have one input and one vector as output")
        if not isinstance(tower.get_layer("head"), keras.Model):
            raise ValueError(f"the {name} has no head")
        dims.add(tower.output.shape[-1])
        _check_sizes(tower)
    if len(dims) != 1 or None in dims:
        raise ValueError("the towers have vectors of different sizes")
    image, text = model.image_tower.inputs[0], model.text_tower.inputs[0]
    if view.size is not None and tuple(image.shape[1:]) != (*view.size, 3):
        raise ValueError(f"the image tower takes {image.shape[1:]}, the view gives {view.size}")
    if len(text.shape) != 2 or not keras.backend.is_int_dtype(text.dtype):
        raise ValueError("the text tower does not take token ids")


def _check_sizes(tower: keras.Model) -> None:
    models = [tower, *(layer for layer in tower._flatten_layers() if hasattr(layer, "operations"))]
    for operation in (operation for model in models for operation in model.operations):
        for tensor in keras.tree.flatten(operation.output):
            if math.prod(side or 1 for side in tensor.shape) > MOST_VALUES:
                raise ValueError(f"{operation.name} gives {tensor.shape[1:]} values per item")
