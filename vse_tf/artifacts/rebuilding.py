"""Rebuilds a model from its description in a run folder, which is not trusted.

Only layers of a closed list are built, no code of a description is run and no file that it names is opened; weights are
allocated only after a check that the checkpoint holds them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
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
PARTS = ("image_tower", "text_tower", "temperature")
_SIDE = Range(1, 2**14)


class Description:
    """The description of a run's model, whose parts are rebuilt one at a time.

    Args:
        path: `model.json`.

    Attributes:
        view: how images are prepared.

    Raises:
        UserError: it does not describe a model of this package.

    Example:
        >>> description = Description(folder.model)
        >>> tower = description.part("text_tower", lambda tower: checkpoints.check({"text_tower": tower}, checkpoint))
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        description = load_json(path)
        with self._errors():
            self.view = view_of(description["view"])
            self._config = description["model"]
            if not isinstance(self._config, dict):
                raise ValueError("the model is not an object")

    def part(self, name: str, check_weights: Callable[[keras.layers.Layer], None]) -> Any:
        """Rebuild a part of the model, its weights zero; the others are not looked at.

        Args:
            name: `image_tower`, `text_tower` or `temperature`.
            check_weights: called with the part before its weights are allocated; raises `UserError` if the checkpoint
                does not hold them.

        Returns:
            The part; None if the model has no learned temperature.

        Raises:
            UserError: it is no such part of a model of this package.
        """
        config = self._config.get(name)
        if name == "temperature" and not config:
            return None
        with self._errors():
            check_keras_config(config)
            # Keras allocates pending variables at the end of the next outermost scope: the empty one below.
            with keras.StatelessScope(initialize_variables=False):
                part: Any = keras.saving.deserialize_keras_object(config, safe_mode=True)
                if name != "temperature":
                    _check_tower(name, part, self.view)
                elif not isinstance(part, LearnedTemperature):
                    raise ValueError(f"the temperature is a {type(part).__name__}")
                check_weights(part)
                for variable in part.weights:
                    # Random values would be overwritten: an orthogonal kernel of a large GRU takes a second to draw.
                    variable._initializer = keras.initializers.Zeros()
            with keras.StatelessScope():
                pass
        return part

    def assemble(self, parts: Mapping[str, Any]) -> DualEncoder:
        """Make the dual encoder of its parts.

        Args:
            parts: the parts by name.

        Raises:
            UserError: a number of the description, or its name, is wrong.
        """
        with self._errors():
            arguments = {key: value for key, value in self._config.items() if key not in PARTS}
            check_keras_config(arguments)
            _check_arguments(arguments)
            return DualEncoder(**arguments, **parts)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # a wrong config may raise anything in Keras
            raise UserError(
                f"{self._path}: no model of this package ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:300]}); copy the run folder again"
            ) from None
        finally:
            # Variables of a refused model would be allocated with the next model.
            global_state.set_global_attribute("uninitialized_variables", [])


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


def _check_arguments(config: Mapping[str, Any]) -> None:
    """Check the dual encoder's numbers and its name."""
    limits = {"clip_norm": (int, float), "micro_batch": (int,)}
    for key, kinds in limits.items():
        value = config.get(key, 0)
        if type(value) not in kinds or not 0 <= value <= LARGEST:
            raise ValueError(f"{key}: {str(value)[:80]} is not a valid number")
    if not isinstance(config.get("name", ""), str):
        raise ValueError("the model's name is not a string")


def _check_tower(name: str, tower: Any, view: ImageView) -> None:
    """Refuse a tower that the commands cannot use."""
    functional = isinstance(tower, keras.Model) and hasattr(tower, "operations")
    if not functional or len(tower.inputs) != 1 or len(tower.outputs) != 1 or len(tower.output.shape) != 2:
        raise ValueError(f"the {name} does not have one input and one vector as output")
    if not isinstance(tower.get_layer("head"), keras.Model):
        raise ValueError(f"the {name} has no head")
    _check_sizes(tower)
    taken = tower.inputs[0]
    if name == "image_tower" and view.size is not None and tuple(taken.shape[1:]) != (*view.size, 3):
        raise ValueError(f"the image tower takes {taken.shape[1:]}, the view gives {view.size}")
    if name == "text_tower" and (len(taken.shape) != 2 or not keras.backend.is_int_dtype(taken.dtype)):
        raise ValueError("the text tower does not take token ids")


def _check_sizes(tower: keras.Model) -> None:
    models = [tower, *(layer for layer in tower._flatten_layers() if hasattr(layer, "operations"))]
    for operation in (operation for model in models for operation in model.operations):
        for tensor in keras.tree.flatten(operation.output):
            if math.prod(side or 1 for side in tensor.shape) > MOST_VALUES:
                raise ValueError(f"{operation.name} gives {tensor.shape[1:]} values per item")
