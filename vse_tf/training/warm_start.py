"""Starts a run from another run's weights."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

import vse_tf
from vse_tf.artifacts.checkpoints import named_variables
from vse_tf.artifacts.trained_model import StoredModel
from vse_tf.errors import UserError
from vse_tf.models.dual_encoder import DualEncoder


def check_start(run: str | Path) -> None:
    """Refuse a run to start from that is missing or has no model, before features are computed for minutes.

    Raises:
        UserError: the folder holds no trained run.
    """
    try:
        StoredModel(run)
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from None


def warm_start(model: DualEncoder, words: list[str] | None, run: str | Path) -> str:
    """Load the best weights of another run into a model, by name and shape.

    Args:
        model: the model to fill.
        words: its vocabulary, where it has one of words; the rows of the word embedding are then loaded word by word,
            so the two runs may have different captions.
        run: the other run's folder.

    Returns:
        One line: how many weights were loaded, and which ones start fresh and why.

    Raises:
        UserError: the folder holds no trained run, or none of its weights fit.

    Example:
        >>> warm_start(model, tokenizer.vocabulary, "runs/flickr8k-convse-0")
        '24 weights loaded, 1 start fresh: model/image_tower/head/kernel (shape (2048, 1024), there (2048, 512))'
    """
    other = vse_tf.load(run)
    other_variables, other_words = named_variables(other.model.parts), getattr(other.tokenizer, "vocabulary", None)
    loaded, fresh = 0, []
    for name, variable in named_variables(model.parts).items():
        if "seed_generator" in name:
            continue
        if name not in other_variables:
            fresh.append(f"{name} (not in {run})")
            continue
        value = keras.ops.convert_to_numpy(other_variables[name])
        if words is not None and other_words is not None and "embedding" in name and len(value) == len(other_words):
            value = _by_word(keras.ops.convert_to_numpy(variable), words, value, other_words)
        if value.shape != tuple(variable.shape):
            fresh.append(f"{name} (shape {tuple(variable.shape)}, there {value.shape})")
            continue
        variable.assign(value)
        loaded += 1
    if not loaded:
        raise UserError(f"train.init_from: no weight of {run} fits this model")
    return f"{loaded} weights loaded, {len(fresh)} start fresh" + (": " + ", ".join(fresh) if fresh else "")


def _by_word(initial: np.ndarray, words: list[str], other: np.ndarray, other_words: list[str]) -> np.ndarray:
    """Embedding rows for `words`: the other run's where it has the word, else the initial one."""
    other_row = {word: i for i, word in enumerate(other_words)}
    rows = initial.copy()
    for i, word in enumerate(words):
        if word in other_row and initial.shape[1:] == other.shape[1:]:
            rows[i] = other[other_row[word]]
    return rows
