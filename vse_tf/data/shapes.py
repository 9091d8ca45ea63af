"""The built-in set: generated scenes of two objects with templated captions.

There are 96 objects (6 shapes, 8 colours, 2 sizes), so 4,560 unordered pairs of different objects, and every pair has
four arrangements: both orders, left to right and top to bottom. A fifth of the pairs is never trained on; the
galleries `val`, `test` and `hard` are made of those, and no two galleries share a pair. A caption names size, colour
and shape of both objects and their places, so it is true of one arrangement only, and no two scenes share a caption:
retrieval is well defined.

`hard` holds all four arrangements of each of its pairs, so every scene is next to one with the same words in
another order. In `train` a scene's mirror follows it, in the same `Record.group`: without the mirror in its batch a
model learns to ignore word order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product

import numpy as np

from vse_tf.config import ShapesSettings
from vse_tf.data.records import Collection, Record, Split
from vse_tf.data.shape_drawing import AXES, OBJECTS, Axis, DrawnImages, Scene, ShapeObject
from vse_tf.errors import UserError
from vse_tf.setting_types import check_values

UNSEEN_SHARE = 0.2  # share of the object pairs that training never sees

# Two forms per template. {first} is the left or upper object; the second form names the objects in the other order.
_TEMPLATES: dict[Axis, tuple[tuple[str, str], ...]] = {
    "horizontal": (
        ("{first} left of {second}", "{second} right of {first}"),
        ("{first} to the left of {second}", "{second} to the right of {first}"),
        ("{first} is on the left side of {second}", "{second} is on the right side of {first}"),
        ("{first} on the left and {second} on the right", "{second} on the right and {first} on the left"),
        ("on the left {first}, on the right {second}", "on the right {second}, on the left {first}"),
        ("{first} with {second} to its right", "{second} with {first} to its left"),
        ("there is {first} and, further right, {second}", "there is {second} and, further left, {first}"),
    ),
    "vertical": (
        ("{first} above {second}", "{second} below {first}"),
        ("{first} over {second}", "{second} under {first}"),
        ("{first} is higher up than {second}", "{second} is lower down than {first}"),
        ("{first} at the top and {second} at the bottom", "{second} at the bottom and {first} at the top"),
        ("at the top {first}, at the bottom {second}", "at the bottom {second}, at the top {first}"),
        ("{first} with {second} beneath it", "{second} with {first} above it"),
        ("there is {first} and, further down, {second}", "there is {second} and, further up, {first}"),
    ),
}
_FORMS = {axis: tuple(form for template in pairs for form in template) for axis, pairs in _TEMPLATES.items()}
# No word has two meanings, otherwise a caption would be true of two scenes.
_SYNONYMS = {
    "big": ("big", "large"),
    "small": ("small", "little"),
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "star": ("star", "asterisk"),
    "cross": ("cross", "plus"),
    "diamond": ("diamond", "rhombus"),
}
# Names of each object, the same number for all.
_PHRASES: dict[ShapeObject, tuple[str, ...]] = {
    item: tuple(
        f"a {size} {item.colour} {shape}" for size, shape in product(_SYNONYMS[item.size], _SYNONYMS[item.shape])
    )
    for item in OBJECTS
}
_PHRASE_PAIRS = tuple(product(range(len(_PHRASES[OBJECTS[0]])), repeat=2))

_PAIRS = tuple(combinations(OBJECTS, 2))
_UNSEEN = round(UNSEEN_SHARE * len(_PAIRS))
MOST_CAPTIONS = len(_FORMS["horizontal"]) * len(_PHRASE_PAIRS)
MOST_TRAIN_SCENES = 4 * (len(_PAIRS) - _UNSEEN)
MOST_GALLERY_SCENES = 4 * (_UNSEEN // 3)  # the three galleries share no pair

# Uses of the seed; vse_tf.data.shape_drawing has stream 1.
_SPLIT_STREAM = 0
_CAPTION_STREAM = 2


def read_shapes(settings: ShapesSettings) -> Collection:
    """Generate the built-in set. The same settings give the same scenes, captions and pixels everywhere.

    - `train`: `train_scenes` scenes over 80 % of the object pairs; rows 2k and 2k + 1 are a scene and its mirror and
      have group k.
    - `val`, `test`: `gallery_scenes` different scenes each, drawn at random from all arrangements of unseen pairs.
    - `hard`: all four arrangements of `gallery_scenes / 4` unseen pairs, one pair after the other.

    Args:
        settings: number and size of scenes, captions per scene, seed (`data.shapes`).

    Returns:
        The splits `train`, `val`, `test` and `hard`, with images of kind `pixels`, uint8 `(size, size, 3)`.

    Raises:
        UserError: a setting is out of range; the message names the key.

    Example:
        >>> collection = read_shapes(ShapesSettings(train_scenes=64, gallery_scenes=16))
        >>> len(collection.split("hard")), len(collection.split("hard").records[0].captions)
        (16, 5)
    """
    _check(settings)
    scenes = _choose_scenes(settings)
    return Collection("shapes", {name: _make_split(name, chosen, settings) for name, chosen in scenes.items()})


def describe(scene: Scene, count: int, seed: int) -> tuple[str, ...]:
    """Different captions of a scene, each true of no other scene.

    The first 14 are the forms of the 7 templates of the scene's axis, in a random order; then they are repeated
    with other synonyms. The mirror's captions are the same with the two objects' phrases swapped.

    Args:
        scene: what to describe.
        count: number of captions, up to `MOST_CAPTIONS`.
        seed: seed of the set.

    Returns:
        `count` different captions.

    Example:
        >>> left, right = ShapeObject("small", "red", "circle"), ShapeObject("big", "blue", "star")
        >>> describe(Scene("horizontal", left, right), count=2, seed=0)[1]
        'a large blue star to the right of a small red circle'
    """
    rng = scene.random(seed, _CAPTION_STREAM)
    forms = _FORMS[scene.axis]
    form_order = rng.permutation(len(forms)).tolist()
    phrase_order = rng.permutation(len(_PHRASE_PAIRS)).tolist()
    captions = []
    for number in range(count):
        turn, place = divmod(number, len(forms))
        # A form gets another phrase pair in each turn, so all captions differ.
        phrases = _PHRASE_PAIRS[phrase_order[(turn + place) % len(_PHRASE_PAIRS)]]
        first, second = phrases[::-1] if scene.swapped else phrases
        captions.append(
            forms[form_order[place]].format(
                first=_PHRASES[scene.first][first],
                second=_PHRASES[scene.second][second],
            )
        )
    return tuple(captions)


def _check(settings: ShapesSettings) -> None:
    """Raise a UserError for the first setting that is out of range."""
    check_values(settings, "data.shapes.")

    def fail(key: str, wanted: str) -> None:
        raise UserError(f"data.shapes.{key}: {getattr(settings, key)} does not work; give {wanted}")

    if settings.train_scenes % 2 or settings.train_scenes > MOST_TRAIN_SCENES:
        fail("train_scenes", f"an even number from 2 to {MOST_TRAIN_SCENES} (each scene comes with its mirror)")
    if settings.gallery_scenes % 4 or settings.gallery_scenes > MOST_GALLERY_SCENES:
        fail("gallery_scenes", f"a multiple of 4 from 4 to {MOST_GALLERY_SCENES} (an object pair has 4 arrangements)")
    if settings.captions > MOST_CAPTIONS:
        fail("captions", f"a number from 1 to {MOST_CAPTIONS} (the templates give no more different ones)")


def _choose_scenes(settings: ShapesSettings) -> dict[str, list[Scene]]:
    """The scenes of each split, in row order."""
    rng = np.random.default_rng([settings.seed, _SPLIT_STREAM])
    order = rng.permutation(len(_PAIRS)).tolist()
    pairs = [_PAIRS[number] for number in order]
    unseen, trained = pairs[:_UNSEEN], pairs[_UNSEEN:]
    hard = settings.gallery_scenes // 4
    middle = (hard + len(unseen)) // 2

    half = [Scene(axis, *pair) for pair in trained for axis in AXES]
    train = [half[number] for number in rng.permutation(len(half))[: settings.train_scenes // 2]]

    def gallery(of: Sequence[tuple[ShapeObject, ShapeObject]]) -> list[Scene]:
        candidates = _arrangements(of)
        return [candidates[number] for number in rng.permutation(len(candidates))[: settings.gallery_scenes]]

    return {
        "train": [scene for each in train for scene in (each, each.mirror)],
        "val": gallery(unseen[hard:middle]),
        "test": gallery(unseen[middle:]),
        "hard": _arrangements(unseen[:hard]),
    }


def _arrangements(pairs: Sequence[tuple[ShapeObject, ShapeObject]]) -> list[Scene]:
    """All four arrangements of each pair."""
    return [arranged for pair in pairs for axis in AXES for arranged in (Scene(axis, *pair), Scene(axis, *pair).mirror)]


def _make_split(name: str, scenes: Sequence[Scene], settings: ShapesSettings) -> Split:
    records = tuple(
        Record(
            image=f"shapes/{name}/{row:06d}",
            captions=describe(scene, settings.captions, settings.seed),
            split=name,
            row=row,
            group=row // 2 if name == "train" else None,
        )
        for row, scene in enumerate(scenes)
    )
    return Split(name, records, DrawnImages(scenes, settings.size, settings.seed, settings.cache))
