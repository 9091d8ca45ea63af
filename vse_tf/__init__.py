"""vse_tf: visual-semantic embeddings on Keras 3 and TensorFlow.

Importing this package imports no TensorFlow: each public name is imported from its module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vse_tf.losses.registry import LOSSES

if TYPE_CHECKING:
    from pathlib import Path

    from vse_tf.artifacts.index import Index
    from vse_tf.embedder import Embedder
    from vse_tf.evaluation.metrics import recalls
    from vse_tf.losses import (
        ConVSE,
        ConVSEPlusPlus,
        NPairsAngular,
        NTXent,
        SigmoidPairwise,
        TripletMax,
        TripletSum,
        convse,
        convse_plus_plus,
        npairs_angular,
        nt_xent,
        sigmoid_pairwise,
        triplet_max,
        triplet_sum,
    )
    from vse_tf.models.dual_encoder import DualEncoder

__version__ = "0.1.0"
__all__ = [
    "ConVSE",
    "ConVSEPlusPlus",
    "DualEncoder",
    "Index",
    "NPairsAngular",
    "NTXent",
    "SigmoidPairwise",
    "TripletMax",
    "TripletSum",
    "convse",
    "convse_plus_plus",
    "load",
    "npairs_angular",
    "nt_xent",
    "recalls",
    "sigmoid_pairwise",
    "triplet_max",
    "triplet_sum",
]

_MODULES = {"DualEncoder": "models.dual_encoder", "Index": "artifacts.index", "recalls": "evaluation.metrics"}
_MODULES |= {name: f"losses.{loss.module}" for loss in LOSSES.values() for name in (loss.class_name, loss.function)}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def load(run: str | Path, checkpoint: str = "best") -> Embedder:
    """Load a trained run for use.

    Args:
        run: the run folder.
        checkpoint: `best` (by validation rsum) or `last`.

    Returns:
        The model with `encode_images`, `encode_texts`, `image_tower` and `text_tower`.

    Raises:
        UserError: the folder holds no run, or no checkpoint yet.

    Example:
        model = vse_tf.load("runs/shapes-convse-0")
        scores = model.encode_texts(["a red circle left of a blue star"]) @ model.encode_images(["scene.png"]).T
    """
    from vse_tf.embedder import load as load_embedder  # noqa: PLC0415

    return load_embedder(run, checkpoint)
