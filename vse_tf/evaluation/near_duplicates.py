"""Copies of images in different splits: recompressed, mirrored, or cropped by a few percent.

The images of two splits are compared at 8 x 8 pixels first, which a crop hardly changes, also mirrored. Pairs that are
alike are compared at 32 x 32 pixels, with the crops that a copy may have: a pair is a copy if the correlation of the
pixels is at least `LEAST`. NumPy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vse_tf.data.fingerprints import SIDE, Fingerprints
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.similarity import Floats

LEAST = 0.955
"""Smallest correlation of the pixels of two copies."""
_COARSE = 8
_COARSE_LEAST = 0.85
_CANDIDATES = 5
_CROPS = (1.0, 0.975, 0.95, 0.925, 0.9)


@dataclass(frozen=True)
class NearDuplicate:
    """Two images of different splits that are copies of one.

    Args:
        splits: the two splits.
        rows: the row of each image in its split.
        similarity: correlation of their pixels.
        mirrored: one is the mirror image of the other.
    """

    splits: tuple[str, str]
    rows: tuple[int, int]
    similarity: float
    mirrored: bool


def near_duplicates(prints: Mapping[str, Fingerprints]) -> list[NearDuplicate]:
    """Find copies of images across splits.

    Args:
        prints: the fingerprints of each split.

    Returns:
        Pairs of images, the most similar first; an image has one pair per other split.

    Example:
        >>> pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
        >>> rows = np.arange(3)
        >>> prints = {"train": Fingerprints(rows, pixels), "val": Fingerprints(rows[:1], pixels[2:, :, ::-1])}
        >>> [(one.rows, one.mirrored) for one in near_duplicates(prints)]
        [((2, 0), True)]
    """
    found = []
    for one, two in combinations(prints, 2):
        # Each image of the smaller split looks for its copy.
        small, large = sorted((one, two), key=lambda name: len(prints[name].rows))
        for a, b, similarity, mirrored in _pairs(prints[small].pixels, prints[large].pixels):
            row = {small: int(prints[small].rows[a]), large: int(prints[large].rows[b])}
            found.append(NearDuplicate((one, two), (row[one], row[two]), similarity, mirrored))
    return sorted(found, key=lambda pair: (-pair.similarity, pair.splits, pair.rows))


def _pairs(asked: NDArray[np.uint8], among: NDArray[np.uint8]) -> Iterator[tuple[int, int, float, bool]]:
    """The best copy of each image, if it has one: both positions, their correlation, whether one is mirrored."""
    if not len(asked) or not len(among):
        return
    gallery = _coarse(among)
    either = [(mirrored, asked[:, :, ::-1] if mirrored else asked) for mirrored in (False, True)]
    near = {mirrored: nearest(_coarse(pixels), gallery, _CANDIDATES) for mirrored, pixels in either}
    for row in range(len(asked)):
        best = (LEAST, -1, False)
        for mirrored, pixels in either:
            for other, score in zip(*(each[row].tolist() for each in near[mirrored]), strict=True):
                if score >= _COARSE_LEAST:
                    best = max(best, (_likeness(pixels[row], among[other]), other, mirrored))
        if best[1] >= 0:
            yield row, best[1], best[0], best[2]


def _likeness(one: NDArray[np.uint8], two: NDArray[np.uint8]) -> float:
    """The largest correlation of two images over the crops that one may be of the other."""
    return max(_best_crop(one, two), _best_crop(two, one))


def _best_crop(complete: NDArray[np.uint8], crop: NDArray[np.uint8]) -> float:
    image, wanted = Image.fromarray(complete), _unit(crop.reshape(1, -1))[0]
    windows = []
    for size in _CROPS:
        slack = SIDE * (1 - size)
        places = (0.0, slack / 2, slack) if slack else (0.0,)
        windows += [(x, y, x + SIDE * size, y + SIDE * size) for x in places for y in places]
    resized = [image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box) for box in windows]
    return float((_unit(np.stack([np.asarray(each).reshape(-1) for each in resized])) @ wanted).max())


def _coarse(pixels: NDArray[np.uint8]) -> Floats:
    size = SIDE // _COARSE
    means = pixels.reshape(len(pixels), _COARSE, size, _COARSE, size, 3).mean(axis=(2, 4), dtype=np.float32)
    return _unit(means.reshape(len(pixels), -1))


def _unit(rows: NDArray[np.generic]) -> Floats:
    """Rows without their mean, at unit length; a row of equal values is zero and is like nothing."""
    apart = rows.astype(np.float32)
    apart -= apart.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(apart, axis=1, keepdims=True)
    unit: Floats = (apart / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit
