"""Weights between those that a run started from and those that it reached: WiSE-FT (arXiv 2109.01903)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np

from vse_tf.artifacts.checkpoints import named_variables
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import DistributionSettings
from vse_tf.display import say
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.training.builder import RunParts
from vse_tf.training.trainer import train


def interpolate(run: str | Path, share: float, run_dir: str | Path) -> RunFolder:
    """Write a run between the start and the best model of another run; `vse_tf.interpolate` is its public name.

    Args:
        run: folder of the fine-tuned run; its data and presets must be where they were.
        share: 0 for what the run started from, 1 for its best model, else the weights in between.
        run_dir: folder of the new run.

    Returns:
        The new run, measured on the run's data, of no epochs.

    Raises:
        UserError: the share is not from 0 to 1, the new folder holds a run, or the run cannot be started anew.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share: {share} is not a number from 0 to 1")
    if RunFolder(run_dir).exists:
        raise UserError(f"run_dir: {run_dir} holds a run already; choose another folder")
    settings = RunFolder(run).settings()
    # Nothing is trained: one device is enough, and TensorFlow may have begun with it.
    one = DistributionSettings("none")
    settings = replace(settings, train=replace(settings.train, run_dir=str(run_dir), epochs=0), distribution=one)
    return train(settings, partial(_fill, run=run, share=share))[0]


def _fill(parts: RunParts, run: str | Path, share: float) -> None:
    """Replace the weights that a run of these parts would start from by those in between."""
    start, end = (named_variables(model.parts, seeds=False) for model in (parts.model, load(run).model))
    differing = sorted(name for name in start.keys() | end.keys() if _shape(start, name) != _shape(end, name))
    if differing:
        raise UserError(
            f"{run}: it cannot be started anew: {differing[0]} has another shape; restore its data and presets"
        )
    for name, variable in start.items():
        first, last = (keras.ops.convert_to_numpy(each[name]) for each in (start, end))
        if np.issubdtype(first.dtype, np.floating):
            # Equal weights stay as they are, so that features cached for a frozen backbone stay valid.
            last = np.where(first == last, last, (1 - share) * first + share * last)
        variable.assign(last)
    parts.provenance["interpolation"] = {"run": str(run), "share": share}
    say(f"{share:g} of the way from what {run} started from to its best model")


def _shape(variables: dict[str, keras.Variable], name: str) -> tuple[int, ...] | None:
    return tuple(variables[name].shape) if name in variables else None
