"""The losses by the name that `loss.name` takes. Imports nothing, so that settings can be checked without TensorFlow.

To add a loss, write its module in this package and add its line to `LOSSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LossEntry:
    """Where a loss is found, and which settings it reads.

    Args:
        module: module of `vse_tf.losses`.
        class_name: the `keras.losses.Loss` in it.
        function: its functional form.
        temperature: `none`; `fixed`: a constant, since a larger one always lowers the loss; `learnable`: a weight of
            the model where `loss.learn_temperature` is true; `learned`: a weight unless that is false.
        settings: fields of `LossSettings` of its own. The temperature, the margin and the mask are common to all: each
            loss takes those that its constructor has.

    Example:
        >>> LOSSES["convse++"].class_name, LOSSES["convse++"].temperature
        ('ConVSEPlusPlus', 'fixed')
    """

    module: str
    class_name: str
    function: str
    temperature: Literal["none", "fixed", "learnable", "learned"] = "none"
    settings: tuple[str, ...] = ()


LOSSES: dict[str, LossEntry] = {
    "convse": LossEntry("contrastive", "ConVSE", "convse", "learnable", ("multiple_positives",)),
    "convse++": LossEntry(
        "contrastive_hinge", "ConVSEPlusPlus", "convse_plus_plus", "fixed", ("hardest", "hardness_epochs")
    ),
    "triplet_sum": LossEntry("triplet", "TripletSum", "triplet_sum"),
    "triplet_max": LossEntry("triplet", "TripletMax", "triplet_max"),
    "simclr": LossEntry("simclr", "NTXent", "nt_xent", "learnable"),
    "npairs_angular": LossEntry("angular", "NPairsAngular", "npairs_angular"),
    "sigmoid": LossEntry("sigmoid", "SigmoidPairwise", "sigmoid_pairwise", "learned", ("bias",)),
}
