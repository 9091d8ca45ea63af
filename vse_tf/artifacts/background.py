"""Ordinary captions that a query is compared with: some of a run's training captions, or else a list of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from vse_tf.artifacts.run_folder import ADVICE
from vse_tf.atomic import write_json
from vse_tf.errors import UserError
from vse_tf.files import file_errors, load_json

BACKGROUND = "background.json"
COUNT = 1000
CHARACTERS = 500
_WHO = (
    "a man", "a woman", "two children", "a group of people", "a girl in a red dress", "an old man", "a dog", "two dogs",
    "a cat", "a bird", "a horse", "a boy with a ball", "a cyclist", "a band", "a couple", "an empty boat",
)  # fmt: skip
_WHERE = (
    "in the snow", "on a beach", "in a kitchen", "in front of a building", "on a street at night", "in the water",
    "on a grassy field", "at a table with food", "on a mountain", "next to a car", "in a crowd", "near a window",
)  # fmt: skip
CAPTIONS = tuple(f"{who} {where}" for who, where in product(_WHO, _WHERE))
"""For exported models, and for runs of earlier versions."""


def write_background(run: Path, captions: Sequence[str], seed: int) -> None:
    """Write some of a run's training captions into its folder.

    Args:
        run: the run folder.
        captions: all of them.
        seed: `train.seed`, which chooses.

    Raises:
        UserError: the file cannot be written.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(captions))[:COUNT])
    path = run / BACKGROUND
    with file_errors(path, "written", ADVICE):
        write_json(path, [captions[row][:CHARACTERS] for row in rows])


def background_texts(model: Mapping[str, str]) -> list[str]:
    """The captions that calibrate the relevance of a model's hits.

    Args:
        model: its identity.

    Raises:
        UserError: those of its run are damaged.
    """
    path = Path(model.get("path", ""), BACKGROUND)
    if model.get("kind") != "run" or not os.path.lexists(path):
        return list(CAPTIONS)
    found = load_json(path)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise UserError(f"{path}: not a list of captions; copy the run folder again, or delete the file")
    return [text[:CHARACTERS] for text in found[:COUNT]]
