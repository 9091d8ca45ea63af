"""What a store knows of the index that was published to it, beside its rows; read without trusting who wrote it."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np

from vse_tf.artifacts.calibration import Calibration, check_levels
from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_manifest import MAX_DIM, Kind
from vse_tf.errors import UserError
from vse_tf.indexing.relevance import sample
from vse_tf.models.folding import EXTRA, Floats

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
        own: with a calibration, the index's own background queries, float32 `(n, dim)`.
        complete: all rows are there; False while it is being published.
        recall: recall@10 of the store's approximate index against exact search; None: there is none.
    """

    kind: Kind
    dim: int
    plain_dim: int
    count: int
    model: dict[str, str]
    calibration: Calibration | None = None
    own: Floats | None = None
    complete: bool = False
    recall: float | None = None

    @classmethod
    def of_index(cls, index: Index) -> About:
        """What is to be known of an index."""
        model = {key: str(index.model[key]) for key in _MODEL if index.model.get(key) is not None}
        own = index.gather(sample(index.count)) if index.calibration else None
        return cls(index.kind, index.dim, index.plain_dim, index.count, model, index.calibration, own)

    def to_json(self) -> str:
        """As text; vectors are float32 in base64."""
        values = {**asdict(self), "format": FORMAT, "own": _packed(self.own), "calibration": None}
        if self.calibration is not None:
            calibration = {"levels": dict(self.calibration.levels), "texts": _packed(self.calibration.texts)}
            values["calibration"] = calibration
        return json.dumps(values)

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
            calibration, dim = values.pop("calibration"), values["dim"]
            _check(values)
            known = None
            if calibration is not None:
                check_levels(calibration["levels"])
                known = Calibration(_unpacked(calibration["texts"], dim), calibration["levels"])
            return cls(**{**values, "calibration": known, "own": _unpacked(values["own"], dim)})
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


def _packed(vectors: Floats | None) -> str | None:
    return None if vectors is None else base64.b64encode(np.ascontiguousarray(vectors, np.float32).tobytes()).decode()


def _unpacked(text: str | None, dim: int) -> Floats | None:
    if text is None:
        return None
    vectors = np.frombuffer(base64.b64decode(text, validate=True), np.float32).reshape(-1, dim)
    if not np.isfinite(vectors).all():
        raise ValueError("background vectors that are not finite")
    return vectors
