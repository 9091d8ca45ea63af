"""Drawn scenes: what the pixels show, and images by row."""

from __future__ import annotations

import threading
from itertools import combinations

import numpy as np
import pytest

from vse_tf.config import ShapesSettings
from vse_tf.data import shape_drawing
from vse_tf.data.shape_drawing import COLOURS, OBJECTS, SHAPES, DrawnImages, Scene, ShapeObject, draw_scene
from vse_tf.data.shapes import read_shapes


def _drawn(name: str, settings: ShapesSettings) -> tuple[tuple[Scene, ...], np.ndarray]:
    """The scenes of a split and their pictures."""
    images = read_shapes(settings).split(name).images
    assert isinstance(images, DrawnImages)
    return images.scenes, images.load(np.arange(len(images)))


# --- pixels ----------------------------------------------------------------------------------------------------------

PALETTE = {**COLOURS, "grey": (152, 152, 152)}


def _colour_names(pixels: np.ndarray) -> np.ndarray:
    """The name of each pixel's colour; `edge` where two colours are mixed."""
    distance = np.abs(pixels[..., None, :].astype(int) - np.array(list(PALETTE.values()))).max(-1)
    return np.where(distance.min(-1) <= shape_drawing.NOISE, np.array(list(PALETTE))[distance.argmin(-1)], "edge")


def _halves(scene: Scene, pixels: np.ndarray) -> list[np.ndarray]:
    """First and second half of a picture along the scene's axis."""
    return np.array_split(pixels, 2, axis=1 if scene.axis == "horizontal" else 0)


def _object_of(shape: str, size: str = "big", colour: str = "red") -> ShapeObject:
    return ShapeObject(size, colour, shape)


@pytest.mark.parametrize("size", [16, 33, 48, 64])
def test_each_half_shows_its_object_in_its_colour(size: int) -> None:
    scenes, pictures = _drawn("train", ShapesSettings(train_scenes=200, size=size, captions=1))
    assert pictures.shape == (200, size, size, 3) and pictures.dtype == np.uint8
    for scene, picture in zip(scenes, pictures, strict=True):
        for item, half in zip((scene.first, scene.second), _halves(scene, picture), strict=True):
            colours = set(np.unique(_colour_names(half)).tolist())
            assert colours - {"grey", "edge"} == {item.colour}, scene


def test_mirrors_differ_in_the_order_of_their_objects_only() -> None:
    _, pictures = _drawn("train", ShapesSettings(train_scenes=60, captions=1))
    for one, other in zip(pictures[::2], pictures[1::2], strict=True):
        # Where neither shows an object, even the noise is the same.
        grey = (_colour_names(one) == "grey") & (_colour_names(other) == "grey")
        assert grey.mean() > 0.3
        np.testing.assert_array_equal(one[grey], other[grey])
        assert (one != other).any()


def test_another_seed_draws_a_scene_otherwise() -> None:
    scene = Scene("vertical", OBJECTS[5], OBJECTS[40])
    np.testing.assert_array_equal(draw_scene(scene, 48, 0), draw_scene(scene, 48, 0))
    assert (draw_scene(scene, 48, 0) != draw_scene(scene, 48, 1)).mean() > 0.5


def test_the_middle_of_an_object_has_its_colour() -> None:
    checked = 0
    for scene, picture in zip(*_drawn("val", ShapesSettings(gallery_scenes=100, captions=1)), strict=True):
        names = _colour_names(picture)
        if scene.first.colour == scene.second.colour:
            continue
        places = []
        for item in (scene.first, scene.second):
            y, x = (round(float(where.mean())) for where in np.nonzero(names == item.colour))
            assert np.abs(picture[y, x].astype(int) - COLOURS[item.colour]).max() <= shape_drawing.NOISE, scene
            places.append(x if scene.axis == "horizontal" else y)
        assert places[0] < 24 < places[1]
        checked += 1
    assert checked > 60


def test_big_objects_cover_more_than_small_ones_of_every_shape() -> None:
    for shape in SHAPES:
        scene = Scene("horizontal", _object_of(shape, "small"), _object_of(shape, "big"))
        small, big = ((_colour_names(half) != "grey").sum() for half in _halves(scene, draw_scene(scene, 48, 0)))
        assert big > 2.2 * small > 0, (shape, small, big)


@pytest.mark.parametrize("size", ["big", "small"])
def test_shapes_differ_in_outline(size: str) -> None:
    masks = {}
    for shape in SHAPES:
        scene = Scene("horizontal", _object_of(shape, size), _object_of("circle", colour="blue"))
        mask = np.pad(_colour_names(draw_scene(scene, 48, 0)) == "red", 12)
        y, x = (round(float((where.min() + where.max()) / 2)) for where in np.nonzero(mask))
        masks[shape] = mask[y - 12 : y + 13, x - 12 : x + 13]
    for one, other in combinations(SHAPES, 2):
        differing = (masks[one] ^ masks[other]).sum() / (masks[one] | masks[other]).sum()
        assert differing > 0.15, (one, other, differing)


@pytest.mark.parametrize("shape", SHAPES)
def test_no_object_leaves_its_half_or_the_picture(shape: str) -> None:
    """At any jitter, nothing is drawn over the middle line and nothing is cut off at the border."""
    scene = Scene("horizontal", _object_of(shape), _object_of(shape, colour="blue"))
    extents = []
    for seed in range(60):
        names = _colour_names(draw_scene(scene, 48, seed))
        for colour, half in (("red", slice(0, 24)), ("blue", slice(24, 48))):
            y, x = np.nonzero(names == colour)
            assert half.start <= x.min() and x.max() < half.stop
            extents.append((np.ptp(y), np.ptp(x)))
    # What is cut off or covered is smaller than the rest; rounding to whole pixels gives one pixel at each end.
    assert np.ptp(extents, axis=0).max() <= 2


def test_positions_and_background_vary_a_little() -> None:
    scene = Scene("vertical", _object_of("circle"), _object_of("star", colour="blue"))
    pictures = [draw_scene(scene, 48, seed) for seed in range(30)]
    centres = [np.mean(np.nonzero(_colour_names(picture) == "red"), axis=1) for picture in pictures]
    spread = np.ptp(centres, axis=0)
    assert 1 <= spread[0] <= 4 and 3 <= spread[1] <= 8.5  # pixels along and across
    corner = np.stack(pictures)[:, 22:26, :4].astype(int) - shape_drawing.BACKGROUND
    assert 3 < corner.std() < 7 and np.abs(corner).max() == shape_drawing.NOISE


# --- images by row ---------------------------------------------------------------------------------------------------


def _images(cache: bool, count: int = 20) -> DrawnImages:
    scenes = [Scene("horizontal", OBJECTS[number], OBJECTS[number + 1]) for number in range(count)]
    return DrawnImages(scenes, size=24, seed=3, cache=cache)


def test_on_the_fly_equals_cached() -> None:
    rows = np.array([7, 0, 7, 19, 3])
    cached, drawn = _images(cache=True), _images(cache=False)
    assert cached.kind == drawn.kind == "pixels" and len(cached) == len(drawn) == 20
    for _ in range(2):
        np.testing.assert_array_equal(cached.load(rows), drawn.load(rows))
    np.testing.assert_array_equal(cached.load(rows)[3], draw_scene(cached.scenes[19], 24, 3))
    assert cached.load(np.array([], dtype=np.int64)).shape == drawn.load(np.array([])).shape == (0, 24, 24, 3)


@pytest.mark.parametrize("cache", [True, False])
def test_a_caller_may_change_what_it_got(cache: bool) -> None:
    images = _images(cache)
    before = images.load(np.array([2]))
    images.load(np.array([2]))[...] = 0
    np.testing.assert_array_equal(images.load(np.array([2])), before)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("row", [-1, 20])
def test_an_unknown_row_is_an_error(cache: bool, row: int) -> None:
    with pytest.raises(IndexError, match="0 to 19"):
        _images(cache).load(np.array([0, row]))


@pytest.mark.parametrize(("cache", "drawings"), [(True, 90), (False, 8 * 3)])
def test_threads_get_the_same_pictures(monkeypatch: pytest.MonkeyPatch, cache: bool, drawings: int) -> None:
    """Cached: eight threads at once draw each scene once. Otherwise only what is asked for is drawn."""
    images, rows = _images(cache, count=90), np.array([5, 60, 89])
    expected = _images(cache, count=90).load(rows)
    drawn: list[Scene] = []
    draw = shape_drawing.draw_scene

    def counting(scene: Scene, size: int, seed: int) -> np.ndarray:
        drawn.append(scene)
        return draw(scene, size, seed)

    monkeypatch.setattr(shape_drawing, "draw_scene", counting)
    barrier, results = threading.Barrier(8), []

    def work() -> None:
        barrier.wait()
        results.append(images.load(rows))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and len(drawn) == drawings
    for result in results:
        np.testing.assert_array_equal(result, expected)
