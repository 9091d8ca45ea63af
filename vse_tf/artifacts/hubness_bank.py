"""The bank of a run's hubness correction: vectors of its training split, in the run folder. Needs only NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vse_tf.artifacts.checkpoint_files import required_checkpoint
from vse_tf.artifacts.run_folder import ADVICE, RunFolder
from vse_tf.atomic import atomic_folder, write_json
from vse_tf.errors import UserError
from vse_tf.files import open_array, reason_of, sha256_of
from vse_tf.models.folding import EXTRA, Floats

BANK = 6000
"""Largest number of images, and of captions, in a bank; a smaller one corrects less."""
_AGAIN = "copy the run folder again"


@dataclass(frozen=True)
class Bank:
    """Vectors of the training split, which the hubness of images and captions is measured against.

    They are stored as float16, which moves a hubness by less than 0.0001.

    Args:
        images: float32 `(n, dim)`, unit rows: the bank of captions.
        captions: float32 `(m, dim)`, unit rows: the bank of images.
    """

    images: Floats
    captions: Floats


def chosen_rows(count: int, seed: int) -> np.ndarray:
    """The rows of a split's images, or captions, that make a bank: at most `BANK`, in ascending order.

    Args:
        count: number of images, or captions.
        seed: `train.seed`.
    """
    return np.sort(np.random.default_rng(seed).permutation(count)[:BANK])


def write_bank(run: RunFolder, bank: Bank) -> None:
    """Write the bank of a run's best model.

    Raises:
        UserError: there is no best model, or the folder cannot be written.
    """
    with atomic_folder(run.hubness.parent, ADVICE) as folder:
        for name, vectors in (("images", bank.images), ("captions", bank.captions)):
            np.save(folder / f"{name}.npy", vectors.astype(np.float16), allow_pickle=False)
        hashes = {name: sha256_of(folder / f"{name}.npy") for name in ("images", "captions")}
        checkpoint = required_checkpoint(run.checkpoints, "best").sha256
        write_json(folder / run.hubness.name, {"checkpoint": checkpoint, **hashes})


def read_bank(run: RunFolder, which: str = "best") -> Bank | None:
    """The bank of a run's model; None if the run has none for this model.

    Args:
        run: the run folder.
        which: `best` or `last`; a bank belongs to the best model, which may be the last one too.

    Raises:
        UserError: it is damaged.
    """
    described = run.hubness_of(which)
    if described is None:
        return None
    found = {name: _read(run, name, described) for name in ("images", "captions")}
    dim = run.settings().model.dim
    for name, vectors in found.items():
        # A tower may give a vector of zeros.
        if vectors.shape[1] != dim or not np.all(np.linalg.norm(vectors, axis=1) < 1.01):
            raise UserError(f"{run.hubness.parent / name}.npy: not unit vectors of {dim} dimensions; {_AGAIN}")
    return Bank(found["images"], found["captions"])


def vector_width(run: RunFolder, which: str = "best") -> int:
    """Dimensions of the vectors of a run's model, the correction included.

    Args:
        run: the run folder.
        which: `best` or `last`.
    """
    return run.settings().model.dim + (0 if run.hubness_of(which) is None else EXTRA)


def _read(run: RunFolder, name: str, described: dict[str, Any]) -> Floats:
    path = run.hubness.parent / f"{name}.npy"
    try:
        if sha256_of(path) != described.get(name):
            raise ValueError("its contents have changed since it was written")
        vectors = open_array(path)
        if vectors.ndim != 2 or vectors.dtype != np.float16 or not 1 <= len(vectors) <= BANK:
            raise ValueError(f"not 1 to {BANK} vectors of float16")
        return vectors.astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: damaged: {reason_of(error)}; {_AGAIN}") from None
