"""What a store knows of the index that was published to it, beside its rows; read without trusting who wrote it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, get_args

from vse_tf.artifacts.calibration import Calibration, check_levels
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_manifest import MAX_DIM, Kind
from vse_tf.errors import UserError
from vse_tf.models.folding import EXTRA

FORMAT = 1
MAX_CHARACTERS = 2**26
_MODEL = ("kind", "name", "checkpoint", "id")


@dataclass(frozen=True)
class About:
    """The index that was published.

    Args:
        kind: `images` or `captions`.
        dim: dimensions of the vectors.
        plain_dim: dimensions of the space, see `Index`.
        count: number of rows.
        model: the model that made the vectors: `kind`, `name`, `checkpoint`, `id`; no path.
        calibration: what a score means in it, if it is known.
        complete: all rows are there; False while it is being published.
        recall: recall@10 of the store's approximate index against exact search; None: there is none.
    """

    kind: Kind
    dim: int
    plain_dim: int
    count: int
    model: dict[str, str]
    calibration: Calibration | None = None
    complete: bool = False
    recall: float | None = None

    @classmethod
    def of_index(cls, index: Index) -> About:
        """What is to be known of an index."""
        model = {key: str(index.model[key]) for key in _MODEL if index.model.get(key) is not None}
        known = None if index.calibration is None else Calibration(None, index.calibration.levels)
        return cls(index.kind, index.dim, index.plain_dim, index.count, model, known)

    def to_json(self) -> str:
        """As text."""
        levels = None if self.calibration is None else dict(self.calibration.levels)
        return json.dumps({**asdict(self), "format": FORMAT, "calibration": None, "levels": levels})

    @classmethod
    def of_json(cls, text: str, where: object) -> About:
        """What `to_json` wrote.

        Args:
            text: the text.
            where: the store, for the message.

        Raises:
            UserError: it is something else, or a newer version wrote it.
        """
        try:
            if len(text) > MAX_CHARACTERS:
                raise ValueError(f"more than {MAX_CHARACTERS} characters")
            values = json.loads(text)
            if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
                raise ValueError("another format")
            _check(values)
            # Earlier versions wrote background vectors, of another definition of relevance.
            values.pop("own", None)
            levels = values.pop("levels", None)
            if levels is not None:
                check_levels(levels)
            return cls(**{**values, "calibration": None if levels is None else Calibration(None, levels)})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(f"{where}: not what this version publishes ({error}); publish the index again") from None


def _check(values: dict[str, Any]) -> None:
    """Check what is not checked elsewhere.

    Raises:
        ValueError: a value is wrong.
    """
    integers = [values[key] for key in ("dim", "plain_dim", "count")]
    if not all(type(value) is int and value >= 0 for value in integers) or not 1 <= values["dim"] <= MAX_DIM:
        raise ValueError("dim, plain_dim and count are not integers")
    if values["plain_dim"] not in (values["dim"], values["dim"] - EXTRA) or values["kind"] not in get_args(Kind):
        raise ValueError("another kind of index")
    model = values["model"]
    if not isinstance(model, dict) or not all(isinstance(value, str) for value in model.values()):
        raise ValueError("model is not an object of strings")
    if type(values["complete"]) is not bool or not isinstance(values["recall"], float | None):
        raise ValueError("complete or recall is of another type")
