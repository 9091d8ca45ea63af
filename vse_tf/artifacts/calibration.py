"""What an index knows of the scores of ordinary queries; see `vse_tf.indexing.relevance`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vse_tf.models.folding import Floats
from vse_tf.models.mixing import Of

STEPS = 101
_OF = ("images", "captions", "mixed")


@dataclass(frozen=True)
class Calibration:
    """The distribution of the normalised scores of ordinary queries.

    Args:
        texts: background captions, float32 `(n, dim)`; None in an index of captions.
        levels: `STEPS` quantiles, ascending, by what a query is of.
    """

    texts: Floats | None
    levels: Mapping[Of, list[float]]


def check_levels(levels: Any) -> None:
    """Check the levels of a manifest.

    Raises:
        ValueError: they are none.
    """
    if not isinstance(levels, dict) or not levels.keys() <= set(_OF):
        raise ValueError("relevance without levels")
    for values in levels.values():
        if not isinstance(values, list) or len(values) != STEPS or not all(isinstance(each, float) for each in values):
            raise ValueError(f"relevance.levels are not {STEPS} numbers")
        if not all(map(math.isfinite, values)) or values != sorted(values):
            raise ValueError("relevance.levels are not in ascending order")
