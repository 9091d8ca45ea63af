"""Copies across splits: planted ones are found, other scenes are not called copies."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from vse_tf.config import ShapesSettings
from vse_tf.data.fingerprints import SIDE, Fingerprints, fingerprints
from vse_tf.data.records import FileImages
from vse_tf.data.shapes import read_shapes
from vse_tf.data.sources.precomp import FeatureImages
from vse_tf.evaluation.near_duplicates import near_duplicates


@pytest.fixture(scope="module")
def scenes():
    """Training scenes at the size of small photos, and as many that show other pairs of objects."""
    splits = read_shapes(ShapesSettings(train_scenes=400, gallery_scenes=100, size=96)).splits
    return {name: splits[name].images.load(np.arange(len(splits[name]))) for name in ("train", "val")}


def recompressed(pixels, random):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(random.integers(40, 80)))
    return np.asarray(Image.open(buffer).convert("RGB"))


def mirrored(pixels, random):
    return recompressed(pixels[:, ::-1], random)


def cropped(pixels, random):
    """95 % of each side, from anywhere, at the size of the original."""
    side = len(pixels)
    size = round(0.95 * side)
    x, y = random.integers(0, side - size + 1, 2)
    part = Image.fromarray(pixels[y : y + size, x : x + size]).resize((side, side), Image.Resampling.BICUBIC)
    return recompressed(np.asarray(part), random)


def prints_of(pixels):
    images = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BOX)) for one in pixels]
    return Fingerprints(np.arange(len(images)), np.stack(images))


@pytest.mark.parametrize("change", [recompressed, mirrored, cropped])
def test_planted_copies_are_found_and_nothing_else(scenes, change):
    random = np.random.default_rng(0)
    chosen = random.permutation(len(scenes["train"]))[:60]
    copies = [change(scenes["train"][row], random) for row in chosen]
    prints = {"train": prints_of(scenes["train"]), "val": prints_of([*scenes["val"], *copies])}
    found = near_duplicates(prints)
    planted = {(int(row), len(scenes["val"]) + place) for place, row in enumerate(chosen)}
    right = {pair.rows for pair in found} & planted
    false = {pair.rows[1] for pair in found if pair.rows[1] < len(scenes["val"])}
    assert len(right) >= 0.95 * len(planted)
    assert len(false) <= 0.05 * len(scenes["val"])
    if change is mirrored:
        assert sum(pair.mirrored for pair in found if pair.rows in right) >= 0.9 * len(right)


def test_pairs_name_their_splits_in_order():
    pixels = np.random.default_rng(1).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    prints = {
        "train": Fingerprints(np.array([0, 2, 3]), pixels[:3]),
        "val": Fingerprints(np.array([5]), pixels[3:4]),
        "test": Fingerprints(np.arange(4), pixels[[4, 1, 5, 3]]),
    }
    found = {(pair.splits, pair.rows) for pair in near_duplicates(prints)}
    assert found == {(("train", "test"), (2, 1)), (("val", "test"), (5, 3))}
    assert near_duplicates({"train": prints["train"]}) == []


def test_images_of_one_colour_are_like_nothing():
    flat = np.full((2, SIDE, SIDE, 3), 200, np.uint8)
    one = Fingerprints(np.arange(2), flat)
    assert near_duplicates({"train": one, "val": one}) == []


def test_fingerprints_of_files_leave_out_what_cannot_be_read(noise_images, tmp_path):
    (tmp_path / "bad.png").write_text("not an image")
    good = sorted(noise_images.glob("*.png"))[:3]
    found = fingerprints(
        "x", FileImages((str(good[0]), str(tmp_path / "bad.png"), str(good[1]))), 10**6, progress=False
    )
    assert found.rows.tolist() == [0, 2]
    assert found.pixels.shape == (2, SIDE, SIDE, 3)
    assert fingerprints("x", FileImages(tuple(map(str, good))), 5, progress=False).rows.tolist() == []
    assert fingerprints("x", FeatureImages(np.zeros((2, 3)), np.arange(2)), 10, progress=False) is None
