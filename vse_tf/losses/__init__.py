"""The losses: ConVSE, ConVSE++ and the baselines, with the negatives of the global batch.

Importing this package imports no TensorFlow: each name is imported from its module when it is first used.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vse_tf.errors import UserError
from vse_tf.losses.registry import LOSSES

if TYPE_CHECKING:
    from vse_tf.losses.angular import NPairsAngular, npairs_angular
    from vse_tf.losses.base import PairLoss
    from vse_tf.losses.contrastive import ConVSE, convse
    from vse_tf.losses.contrastive_hinge import ConVSEPlusPlus, convse_plus_plus
    from vse_tf.losses.nested import Nested
    from vse_tf.losses.sigmoid import SigmoidPairwise, sigmoid_pairwise
    from vse_tf.losses.simclr import NTXent, nt_xent
    from vse_tf.losses.statistics import batch_statistics
    from vse_tf.losses.triplet import TripletMax, TripletSum, triplet_max, triplet_sum

__all__ = [
    "LOSSES",
    "ConVSE",
    "ConVSEPlusPlus",
    "NPairsAngular",
    "NTXent",
    "Nested",
    "PairLoss",
    "SigmoidPairwise",
    "TripletMax",
    "TripletSum",
    "batch_statistics",
    "build",
    "convse",
    "convse_plus_plus",
    "import_losses",
    "npairs_angular",
    "nt_xent",
    "sigmoid_pairwise",
    "triplet_max",
    "triplet_sum",
]

_MODULES = {"Nested": "nested", "PairLoss": "base", "batch_statistics": "statistics"}
_MODULES |= {name: entry.module for entry in LOSSES.values() for name in (entry.class_name, entry.function)}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def import_losses() -> dict[str, type[PairLoss]]:
    """Import all losses, which registers their classes with Keras.

    Returns:
        The classes by the names of `LOSSES`.

    Example:
        >>> import_losses()["convse++"](margin=0.2).margin
        0.2
    """
    __getattr__("Nested")
    return {name: __getattr__(entry.class_name) for name, entry in LOSSES.items()}


def build(name: str, **settings: Any) -> PairLoss:
    """Build a loss by name from the settings of a run.

    A run's settings hold the arguments of all losses; those that this loss does not take are left out.

    Args:
        name: a key of `LOSSES`.
        **settings: constructor arguments.

    Returns:
        The loss.

    Raises:
        UserError: there is no loss of that name.
        TypeError: no loss takes one of the arguments.
        ValueError: an argument is out of range.

    Example:
        >>> build("convse++", temperature=0.1, margin=0.2, mask_same_image=True).temperature
        0.1
    """
    if name not in LOSSES:
        raise UserError(f"loss.name: there is no loss {name!r}; choose one of {', '.join(LOSSES)}")
    classes = import_losses()
    takes = {key: set(inspect.signature(loss).parameters) for key, loss in classes.items()}
    unknown = set(settings).difference(*takes.values())
    if unknown:
        raise TypeError(f"no loss takes {', '.join(sorted(unknown))}")
    return classes[name](**{key: value for key, value in settings.items() if key in takes[name]})
