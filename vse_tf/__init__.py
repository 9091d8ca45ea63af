"""vse_tf: visual-semantic embeddings on Keras 3 and TensorFlow.

Importing this package imports no TensorFlow: each public name is imported from its module when it is first used.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vse_tf.losses.registry import LOSSES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from vse_tf.embedder import Embedder
    from vse_tf.errors import UserError
    from vse_tf.evaluation.metrics import recalls
    from vse_tf.indexing.index import Index
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
# TensorFlow reads this when it is imported. Without it, processors with AVX2 but not AVX-512 do without oneDNN, and
# a convolutional backbone takes twice the time. Exported models and other programs are not concerned.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
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
    "UserError",
    "convse",
    "convse_plus_plus",
    "fit",
    "interpolate",
    "load",
    "npairs_angular",
    "nt_xent",
    "recalls",
    "sigmoid_pairwise",
    "triplet_max",
    "triplet_sum",
]

_MODULES = {
    "DualEncoder": "models.dual_encoder",
    "Index": "indexing.index",
    "UserError": "errors",
    "recalls": "evaluation.metrics",
}
_MODULES |= {name: f"losses.{loss.module}" for loss in LOSSES.values() for name in (loss.class_name, loss.function)}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def load(run: str | Path, checkpoint: str = "best") -> Embedder:
    """Load a trained run for use.

    Args:
        run: the run folder, or its address in a bucket.
        checkpoint: `best` (by `train.monitor`, the validation rsum) or `last`.

    Returns:
        The model with `encode_images`, `encode_texts`, `image_tower`, `text_tower` and `metrics`.

    Raises:
        UserError: the folder holds no run, or no checkpoint yet.

    Example:
        model = vse_tf.load("runs/shapes-convse-0")
        score = model.encode_texts("a red circle left of a blue star") @ model.encode_images("scene.png")
    """
    from vse_tf.addresses import allow, is_address  # noqa: PLC0415
    from vse_tf.startup import starting_tensorflow  # noqa: PLC0415

    run = allow(run) if is_address(run) else run
    with starting_tensorflow():
        from vse_tf.embedder import load as load_embedder  # noqa: PLC0415

    return load_embedder(run, checkpoint)


def fit(settings: Mapping[str, Any] | None = None, *, config: str | Path | None = None) -> Embedder:
    """Train a dual encoder, as `vse-tf train` does, and load its best model.

    Repeated with the same settings it continues the run where it stopped, or loads it if it is finished.

    Args:
        settings: settings by the names that they have on the command line and in a recipe, `train.epochs` for instance;
            all others have their defaults. Without any, the built-in shapes are learned.
        config: a recipe, a YAML file; `settings` come after it.

    Returns:
        The model of the best epoch; `metrics` has what it reached on each split, `run` is the run folder.

    Raises:
        UserError: an unknown setting or a wrong value, data that cannot be read, or a folder that holds another run.

    Example:
        model = vse_tf.fit({"data.source": "table", "data.annotations": "captions.csv", "data.images": "photos"})
        print(model, model.metrics["test"]["rsum"])
    """
    from vse_tf.settings_parser import settings_of_options  # noqa: PLC0415
    from vse_tf.startup import starting_tensorflow  # noqa: PLC0415

    checked = settings_of_options(settings or {}, config)
    with starting_tensorflow(checked.distribution.virtual_cpus):
        from vse_tf.training.trainer import train  # noqa: PLC0415

    run, _ = train(checked)
    return load(run.path)


def interpolate(run: str | Path, share: float, run_dir: str | Path) -> Embedder:
    """Write a run whose weights lie between those that a run started from and those of its best model.

    A fine-tuned preset is better on photos like those that it has seen and often worse on others; weights in between
    keep much of both (WiSE-FT, arXiv 2109.01903). The new run is measured on the data of the other.

    Args:
        run: folder of the fine-tuned run; its data, its presets and its `train.init_from` must be where they were.
        share: 0 for what the run started from, 1 for its best model, 0.5 for the mean of both.
        run_dir: folder of the new run.

    Returns:
        The model of the new run.

    Raises:
        UserError: the share is not from 0 to 1, the new folder holds a run, or the run cannot be started anew.

    Example:
        for share in (0.25, 0.5, 0.75):
            print(share, vse_tf.interpolate("runs/clip", share, f"runs/clip-{share}").metrics["val"]["rsum"])
    """
    from vse_tf.startup import starting_tensorflow  # noqa: PLC0415

    with starting_tensorflow():
        from vse_tf.training.interpolation import interpolate as interpolate_run  # noqa: PLC0415

    return load(interpolate_run(run, share, run_dir).path)
