"""Starting a run from another run's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

import vse_tf
from vse_tf.artifacts.checkpoints import named_variables
from vse_tf.errors import UserError
from vse_tf.models.dual_encoder import DualEncoder


@dataclass(frozen=True)
class WarmStart:
    """What was taken from the other run.

    Args:
        loaded: names of the weights taken over.
        fresh: names of the weights that keep their initial values, each with the reason.
    """

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        line = f"{len(self.loaded)} weights loaded, {len(self.fresh)} start fresh"
        return line + (": " + ", ".join(self.fresh) if self.fresh else "")


def warm_start(model: DualEncoder, words: list[str] | None, run: str | Path) -> WarmStart:
    """Take over the best weights of another run, by name and shape.

    Args:
        model: the model to fill.
        words: its vocabulary, where it has one of words; the rows of the word embedding are then taken over word by
            word, so the two runs may have different captions.
        run: the other run's folder.

    Raises:
        UserError: the folder holds no trained run, or nothing of it fits.
    """
    other = vse_tf.load(run)
    theirs, loaded, fresh = named_variables(other.model), [], []
    their_words = getattr(other.tokenizer, "vocabulary", None)
    for name, variable in named_variables(model).items():
        if "seed_generator" in name:
            continue
        if name not in theirs:
            fresh.append(f"{name} (not in {run})")
            continue
        value = keras.ops.convert_to_numpy(theirs[name])
        if words is not None and their_words is not None and "embedding" in name and len(value) == len(their_words):
            value = _by_word(keras.ops.convert_to_numpy(variable), words, value, their_words)
        if value.shape != tuple(variable.shape):
            fresh.append(f"{name} (shape {tuple(variable.shape)}, there {value.shape})")
            continue
        variable.assign(value)
        loaded.append(name)
    if not loaded:
        raise UserError(f"train.init_from: nothing in {run} fits this model")
    return WarmStart(tuple(loaded), tuple(fresh))


def _by_word(mine: np.ndarray, words: list[str], theirs: np.ndarray, their_words: list[str]) -> np.ndarray:
    """Embedding rows for my words: theirs where they have the word, else mine as initialised."""
    place = {word: i for i, word in enumerate(their_words)}
    rows = mine.copy()
    for i, word in enumerate(words):
        if word in place and mine.shape[1:] == theirs.shape[1:]:
            rows[i] = theirs[place[word]]
    return rows
