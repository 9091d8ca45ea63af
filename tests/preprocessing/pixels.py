"""Stored pixels of generated images: `python -m tests.preprocessing.pixels` stores those of a new PIXELS_VERSION."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.images import PIXELS_VERSION
from vse_tf.preprocessing.view import ImageView

FOLDER = Path(__file__).parent / "data" / "pixels"
STORED = FOLDER.with_suffix(".npz")
VIEW = ImageView((24, 32), resize=36, random_crop=True, crop_scale=(0.2, 0.9), flip=True)
CROPS = 2


def pixels() -> dict[str, np.ndarray]:
    """The views of each image of the folder that a feature cache holds, but for the mirrored one; in whole levels."""
    specs = tf.TensorSpec([], tf.string), tf.TensorSpec([2], tf.int32)
    centre = tf.function(lambda contents: VIEW.of_file(contents, None), input_signature=specs[:1])
    crop = tf.function(VIEW.of_file, input_signature=specs)
    found = {}
    for path in sorted(FOLDER.iterdir()):
        contents = tf.io.read_file(str(path))
        views = [centre(contents), *(crop(contents, [number, 5]) for number in range(CROPS))]
        for name, view in zip(("centre", "crop0", "crop1"), views, strict=True):
            found[f"{path.name}/{name}"] = np.round(view.numpy()).astype(np.uint8)
    return found


def differences(found: dict[str, np.ndarray], stored: dict[str, np.ndarray]) -> dict[str, int]:
    """By how many levels the views of two sets of pixels differ, where it is more than one."""
    levels = {name: int(np.abs(found[name].astype(int) - stored[name]).max()) for name in found.keys() & stored.keys()}
    return {name: level for name, level in sorted(levels.items()) if level > 1}


def read_stored() -> tuple[int, dict[str, np.ndarray]]:
    """The version of the stored pixels, and the pixels."""
    with np.load(STORED) as file:
        arrays = dict(file)
    return int(arrays.pop("version")), arrays


def store() -> None:
    """Store the pixels of this version; images that are new to the folder need no new version."""
    found = pixels()
    version, stored = read_stored() if STORED.exists() else (0, {})
    changed = differences(found, stored)
    if changed and version == PIXELS_VERSION:
        raise SystemExit(f"pixels differ by {changed}; raise PIXELS_VERSION in vse_tf/preprocessing/images.py first")
    np.savez_compressed(STORED, version=PIXELS_VERSION, **found)


if __name__ == "__main__":
    store()
