"""The objectives: ConVSE, ConVSE++ and the baselines, with the negatives of the whole global batch."""

from __future__ import annotations

import inspect
from typing import Any

from vse_tf.errors import UserError
from vse_tf.losses.base import PairLoss
from vse_tf.losses.baselines import (
    NPairsAngular,
    NTXent,
    SigmoidPairwise,
    npairs_angular,
    nt_xent,
    sigmoid_pairwise,
)
from vse_tf.losses.contrastive import ConVSE, ConVSEPlusPlus, convse, convse_plus_plus
from vse_tf.losses.hinge import TripletMax, TripletSum, triplet_max, triplet_sum
from vse_tf.losses.statistics import batch_statistics

__all__ = [
    "LOSSES",
    "ConVSE",
    "ConVSEPlusPlus",
    "NPairsAngular",
    "NTXent",
    "PairLoss",
    "SigmoidPairwise",
    "TripletMax",
    "TripletSum",
    "batch_statistics",
    "build",
    "convse",
    "convse_plus_plus",
    "npairs_angular",
    "nt_xent",
    "sigmoid_pairwise",
    "triplet_max",
    "triplet_sum",
]

LOSSES: dict[str, type[PairLoss]] = {
    "convse": ConVSE,
    "convse++": ConVSEPlusPlus,
    "triplet_sum": TripletSum,
    "triplet_max": TripletMax,
    "simclr": NTXent,
    "npairs_angular": NPairsAngular,
    "sigmoid": SigmoidPairwise,
}
"""The objectives by the name that `loss.name` takes."""


def build(name: str, **settings: Any) -> PairLoss:
    """The objective of that name.

    A run's settings name every objective's arguments, so one that belongs to another objective only is left unused:
    `build("convse", temperature=0.1, margin=0.2)` has no margin.

    Args:
        name: a key of `LOSSES`.
        **settings: constructor arguments.

    Returns:
        The loss.

    Raises:
        UserError: there is no objective of that name.
        TypeError: no objective has an argument of that name.
        ValueError: an argument is out of its range.

    Example:
        >>> build("convse++", temperature=0.1, margin=0.2, mask_same_image=True)
    """
    if name not in LOSSES:
        raise UserError(f"loss.name: there is no objective {name!r}; choose one of {', '.join(LOSSES)}")
    takes = {key: set(inspect.signature(loss).parameters) for key, loss in LOSSES.items()}
    unknown = set(settings).difference(*takes.values())
    if unknown:
        raise TypeError(f"no objective takes {', '.join(sorted(unknown))}")
    return LOSSES[name](**{key: value for key, value in settings.items() if key in takes[name]})
