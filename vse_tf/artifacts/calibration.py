"""What an index knows of the scores of ordinary queries; see `vse_tf.indexing.relevance`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from vse_tf.models.folding import Floats
from vse_tf.models.mixing import Of

STEPS = 101


@dataclass(frozen=True)
class Calibration:
    """The distribution of the scores of ordinary queries.

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
    if not isinstance(levels, dict) or not levels.keys() <= set(get_args(Of)):
        raise ValueError("calibration without levels")
    for values in levels.values():
        if not isinstance(values, list) or len(values) != STEPS or not all(isinstance(each, float) for each in values):
            raise ValueError(f"calibration.levels are not {STEPS} numbers")
        if not all(map(math.isfinite, values)) or values != sorted(values):
            raise ValueError("calibration.levels are not in ascending order")
