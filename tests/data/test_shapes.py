"""The generated shapes set: what its splits and captions promise."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest

from vse_tf.config import ShapesSettings
from vse_tf.data import shapes
from vse_tf.data.records import Collection
from vse_tf.data.shape_drawing import COLOURS, OBJECTS, DrawnImages, Scene, ShapeObject
from vse_tf.data.shapes import describe, read_shapes
from vse_tf.errors import UserError

GALLERIES = ("val", "test", "hard")
SMALL = ShapesSettings(train_scenes=60, gallery_scenes=40)

# --- the oracle: what an English reader makes of a caption -----------------------------------------------------------

MEANT = {
    **{"large": "big", "little": "small", "disc": "circle", "box": "square", "wedge": "triangle"},
    **{"asterisk": "star", "plus": "cross", "rhombus": "diamond"},
}
FIRST_SIDES = {"left", "top", "above", "over", "higher", "up"}
SECOND_SIDES = {"right", "bottom", "below", "under", "lower", "down", "beneath"}


def parse(caption: str) -> Scene:
    """The one scene that a caption describes."""
    named = [ShapeObject(*(MEANT.get(word, word) for word in m)) for m in re.findall(r"\ba (\w+) (\w+) (\w+)", caption)]
    assert len(named) == 2 and set(named) <= set(OBJECTS), caption
    words = re.findall(r"\w+", re.sub(r"\ba \w+ \w+ \w+", "", caption))
    side = next(word for word in words if word in FIRST_SIDES | SECOND_SIDES)
    # "X with Y to its right" and "X and, further right, Y" place Y; every other phrasing places X.
    about_second = bool({"its", "it", "further"} & set(words))
    swap = (side in SECOND_SIDES) != about_second
    first, second = named[::-1] if swap else named
    return Scene("horizontal" if {"left", "right"} & set(words) else "vertical", first, second)


def scenes_of(collection: Collection, name: str) -> list[Scene]:
    """The scenes of a split as its images hold them."""
    images = collection.split(name).images
    assert isinstance(images, DrawnImages)
    return list(images.scenes)


def pairs_of(scenes: list[Scene]) -> set[frozenset[ShapeObject]]:
    return {frozenset((scene.first, scene.second)) for scene in scenes}


def pixels_of(collection: Collection, name: str) -> np.ndarray:
    split = collection.split(name)
    return split.images.load(np.arange(len(split)))


@pytest.fixture(scope="module")
def default() -> Collection:
    """The set as a user gets it."""
    return read_shapes(ShapesSettings())


@pytest.fixture(scope="module")
def small() -> Collection:
    return read_shapes(SMALL)


# --- splits ----------------------------------------------------------------------------------------------------------


def test_default_set_has_the_announced_size(default: Collection) -> None:
    assert default.source == "shapes" and default.skipped == ()
    assert {name: len(split) for name, split in default.splits.items()} == {
        "train": 8000,
        **dict.fromkeys(GALLERIES, 500),
    }
    for name, split in default.splits.items():
        assert len(split.images) == len(split)
        assert [record.row for record in split.records] == list(range(len(split)))
        assert {record.split for record in split.records} == {name}
        assert {len(record.captions) for record in split.records} == {5}
    assert default.split("train").records[123].image == "shapes/train/000123"


@pytest.mark.parametrize("seed", [0, 1])
def test_training_and_galleries_share_no_object_pair(seed: int) -> None:
    collection = read_shapes(ShapesSettings(seed=seed, captions=1))
    pairs = {name: pairs_of(scenes_of(collection, name)) for name in collection.splits}
    for one, other in combinations(pairs, 2):
        assert not pairs[one] & pairs[other], (one, other)


def test_a_fifth_of_the_pairs_is_never_trained_on() -> None:
    full = read_shapes(
        ShapesSettings(train_scenes=shapes.MOST_TRAIN_SCENES, gallery_scenes=shapes.MOST_GALLERY_SCENES, captions=1)
    )
    train = scenes_of(full, "train")
    assert len(set(train)) == len(train) == 14592
    assert len(pairs_of(train)) == 3648 == round(0.8 * 96 * 95 / 2)
    assert not pairs_of(train) & set().union(*(pairs_of(scenes_of(full, name)) for name in GALLERIES))


def test_every_scene_shows_two_different_objects_and_comes_once(default: Collection) -> None:
    for name in default.splits:
        scenes = scenes_of(default, name)
        assert len(set(scenes)) == len(scenes), name
        assert all(scene.first != scene.second for scene in scenes)


def test_train_uses_every_object_and_both_axes(default: Collection) -> None:
    scenes = scenes_of(default, "train")
    assert {scene.first for scene in scenes} == set(OBJECTS)
    axes = Counter(scene.axis for scene in scenes)
    assert 0.9 < axes["horizontal"] / axes["vertical"] < 1.1


def test_mirrors_share_a_group_and_swap_the_objects(default: Collection) -> None:
    scenes, records = scenes_of(default, "train"), default.split("train").records
    groups: dict[int | None, list[int]] = {}
    for record in records:
        groups.setdefault(record.group, []).append(record.row)
    assert len(groups) == 4000 and None not in groups
    for one, other in groups.values():
        assert scenes[one].axis == scenes[other].axis
        assert (scenes[one].first, scenes[one].second) == (scenes[other].second, scenes[other].first)
    assert all(record.group is None for name in GALLERIES for record in default.split(name).records)


def test_a_mirrors_captions_have_the_same_words(small: Collection) -> None:
    records = small.split("train").records
    for one, other in zip(records[::2], records[1::2], strict=True):
        for mine, its in zip(one.captions, other.captions, strict=True):
            assert mine != its and sorted(re.findall(r"\w+", mine)) == sorted(re.findall(r"\w+", its))


def test_hard_gallery_holds_all_arrangements_of_each_pair(default: Collection) -> None:
    scenes = scenes_of(default, "hard")
    expected = {
        Scene(axis, *order)
        for pair in pairs_of(scenes)
        for axis in ("horizontal", "vertical")
        for order in (tuple(pair), tuple(pair)[::-1])
    }
    assert len(pairs_of(scenes)) == 125 and set(scenes) == expected


def test_held_out_galleries_hold_mirrors_and_look_alikes(default: Collection) -> None:
    """Word order decides in val and test too, and so do single attributes."""
    for name in ("val", "test"):
        scenes = set(scenes_of(default, name))
        assert sum(scene.mirror in scenes for scene in scenes) > 100
        assert len({(s.axis, s.first.shape, s.second.shape) for s in scenes}) <= 72 < len(scenes)


# --- captions --------------------------------------------------------------------------------------------------------


def test_every_caption_is_read_as_its_own_scene(default: Collection) -> None:
    for name, split in default.splits.items():
        for scene, record in zip(scenes_of(default, name), split.records, strict=True):
            for caption in record.captions:
                assert parse(caption) == scene, caption


def test_all_captions_of_a_scene_are_different_and_read_as_it() -> None:
    for scene in (
        Scene("horizontal", OBJECTS[3], OBJECTS[77]),
        Scene("vertical", OBJECTS[77], OBJECTS[3]),
        Scene("vertical", OBJECTS[0], OBJECTS[1]),
    ):
        captions = describe(scene, shapes.MOST_CAPTIONS, seed=5)
        assert len(set(captions)) == len(captions) == 224
        assert {parse(caption) for caption in captions} == {scene}


@pytest.mark.parametrize("count", [1, 2, 5, 13, 14, 15, 29, 100, 224])
def test_any_number_of_captions(count: int) -> None:
    collection = read_shapes(ShapesSettings(train_scenes=8, gallery_scenes=12, captions=count))
    for name, split in collection.splits.items():
        for record in split.records:
            assert len(record.captions) == len(set(record.captions)) == count
        if name in GALLERIES:
            assert len(set(split.captions)) == len(split.captions)


def test_no_caption_is_shared_in_a_gallery(default: Collection) -> None:
    for name in default.splits:
        captions = default.split(name).captions
        assert len(set(captions)) == len(captions), name


def test_fourteen_captions_use_all_seven_templates_both_ways(small: Collection) -> None:
    for scene in scenes_of(small, "train")[:10]:
        frames = {re.sub(r"\ba \w+ \w+ \w+", "_", caption) for caption in describe(scene, 14, seed=0)}
        assert len(frames) == 14


def test_captions_use_every_phrasing_and_word(default: Collection) -> None:
    captions = default.split("train").captions
    frames = Counter(re.sub(r"\ba \w+ \w+ \w+", "_", caption) for caption in captions)
    assert len(frames) == 28 and min(frames.values()) > 0.7 * len(captions) / 28
    words = Counter(word for caption in captions for word in re.findall(r"\w+", caption))
    assert set(MEANT) | set(MEANT.values()) | set(COLOURS) <= set(words)
    assert min(words.values()) > 500


# --- determinism -----------------------------------------------------------------------------------------------------


def test_same_seed_same_set_other_seed_another(small: Collection) -> None:
    again = read_shapes(SMALL)
    other = read_shapes(ShapesSettings(train_scenes=60, gallery_scenes=40, seed=1))
    for name in small.splits:
        assert small.split(name).records == again.split(name).records
        np.testing.assert_array_equal(pixels_of(small, name), pixels_of(again, name))
        assert scenes_of(small, name) != scenes_of(other, name)
    scene = scenes_of(small, "train")[0]
    assert describe(scene, 5, 0) != describe(scene, 5, 1)


def digest(collection: Collection) -> str:
    total = hashlib.sha256()
    for split in collection.splits.values():
        total.update("\n".join(split.captions).encode())
        total.update(split.images.load(np.arange(len(split))).tobytes())
    return total.hexdigest()


def test_another_process_makes_the_same_bytes_without_tensorflow(small: Collection) -> None:
    program = (
        "import sys, hashlib, numpy as np\n"
        "from vse_tf.config import ShapesSettings\n"
        "from vse_tf.data.shapes import read_shapes\n"
        "total = hashlib.sha256()\n"
        "for split in read_shapes(ShapesSettings(train_scenes=60, gallery_scenes=40)).splits.values():\n"
        "    total.update('\\n'.join(split.captions).encode())\n"
        "    total.update(split.images.load(np.arange(len(split))).tobytes())\n"
        "print(total.hexdigest(), 'tensorflow' in sys.modules, 'keras' in sys.modules)\n"
    )
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [digest(small), "False", "False"]


def test_scenes_depend_on_neither_caption_count_nor_image_size(small: Collection) -> None:
    changed = read_shapes(ShapesSettings(train_scenes=60, gallery_scenes=40, captions=2, size=32, cache=False))
    for name in small.splits:
        assert scenes_of(changed, name) == scenes_of(small, name)
        for mine, its in zip(small.split(name).records, changed.split(name).records, strict=True):
            assert mine.captions[:2] == its.captions


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_scenes", 0),
        ("train_scenes", 101),
        ("train_scenes", -2),
        ("train_scenes", 14594),
        ("gallery_scenes", 0),
        ("gallery_scenes", 50),
        ("gallery_scenes", -4),
        ("gallery_scenes", 1220),
        ("size", 15),
        ("captions", 0),
        ("captions", 225),
        ("seed", -1),
    ],
)
def test_a_wrong_setting_is_named(key: str, value: int) -> None:
    wrong: dict[str, Any] = {key: value}
    with pytest.raises(UserError, match=rf"^data\.shapes\.{key}: {value} ") as caught:
        read_shapes(ShapesSettings(**wrong))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("settings", [{"train_scenes": 2}, {"gallery_scenes": 4}, {"gallery_scenes": 1216}])
def test_the_limits_themselves_work(settings: dict[str, Any]) -> None:
    collection = read_shapes(ShapesSettings(**{"train_scenes": 20, "gallery_scenes": 20, "captions": 1, **settings}))
    for name, split in collection.splits.items():
        wanted = settings.get("train_scenes" if name == "train" else "gallery_scenes", 20)
        assert len(set(scenes_of(collection, name))) == len(split) == wanted
