"""Fingerprints of images: their pixels at a size at which copies look alike. NumPy and Pillow only."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vse_tf.data.records import EncodedImages, Images
from vse_tf.display import phase_if
from vse_tf.preprocessing.small_images import small_image

SIDE = 32
_BLOCK = 256


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of the images of a split that can be read.

    Args:
        rows: int64 `(n,)`, the row of each.
        pixels: uint8 `(n, SIDE, SIDE, 3)`.
    """

    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]


def fingerprints(
    name: str, images: Images, max_pixels: int, workers: int | None = None, progress: bool = True
) -> Fingerprints | None:
    """Read all images of a split once.

    Args:
        name: the split, for the progress bar.
        images: its images.
        max_pixels: image files whose header announces more pixels are left out.
        workers: number of parallel reads (default: number of CPU cores).
        progress: show a bar.

    Returns:
        The fingerprints; None of precomputed features.
    """
    if images.kind == "features":
        return None
    rows, pixels = [], []
    with (
        phase_if(progress, f"comparing images ({name})", len(images), "images") as bar,
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        for start in range(0, len(images), _BLOCK):
            some = range(start, min(start + _BLOCK, len(images)))
            for row, one in zip(some, pool.map(lambda row: _of_row(images, row, max_pixels), some), strict=True):
                if one is not None:
                    rows.append(row)
                    pixels.append(one)
            bar.update(len(some))
    return Fingerprints(np.array(rows, np.int64), np.array(pixels, np.uint8).reshape(-1, SIDE, SIDE, 3))


def _of_row(images: Images, row: int, max_pixels: int) -> NDArray[np.uint8] | None:
    if images.kind == "pixels":
        image = Image.fromarray(images.load(np.array([row]))[0])
    elif isinstance(images, EncodedImages):
        try:
            image = small_image(images.read(row), 4 * SIDE, max_pixels)
        except (OSError, ValueError):
            return None
    else:
        return None
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))
