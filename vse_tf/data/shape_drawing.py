"""Generated scenes of two objects, drawn with Pillow."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

Axis = Literal["horizontal", "vertical"]
Colour = tuple[int, int, int]

AXES: tuple[Axis, ...] = ("horizontal", "vertical")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
COLOURS: dict[str, Colour] = {
    "red": (215, 25, 30),
    "orange": (250, 140, 10),
    "yellow": (250, 235, 40),
    "green": (15, 125, 45),
    "blue": (25, 60, 215),
    "purple": (140, 40, 165),
    "black": (10, 10, 10),
    "white": (252, 252, 252),
}
# Radius as a share of the scene's side. With the jitter along the axis a big object stays in its half.
SIZES = {"big": 0.205, "small": 0.11}
BACKGROUND: Colour = (152, 152, 152)
NOISE = 8  # grey levels, uniform in [-NOISE, NOISE]
JITTER_ALONG = 0.035  # share of the side, along the axis of the arrangement
JITTER_ACROSS = 0.08  # share of the side, across it

_DRAWING_STREAM = 1  # vse_tf.data.shapes uses the seed with other numbers


def _star(points: int, inner: float) -> tuple[tuple[float, float], ...]:
    """Corners of a star in the unit circle, the first one at the top."""
    corners = []
    for corner in range(2 * points):
        radius = inner if corner % 2 else 1.0
        angle = math.pi * corner / points
        corners.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return tuple(corners)


_DISC = 0.92  # a circle of radius 1 looks larger than the other shapes
_ARM = 0.32
# Corners in the box [-1, 1] x [-1, 1], y downwards; the origin lies inside each outline.
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)),
    "triangle": ((0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)),
    "star": _star(points=5, inner=0.42),
    "cross": (
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ),
    "diamond": ((0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)),
}


@dataclass(frozen=True, slots=True, order=True)
class ShapeObject:
    """One object of a scene: a key of `SIZES`, a key of `COLOURS` and one of `SHAPES`."""

    size: str
    colour: str
    shape: str


# All objects in a fixed order.
OBJECTS = tuple(ShapeObject(size, colour, shape) for size in SIZES for colour in COLOURS for shape in SHAPES)
_NUMBERS = {item: number for number, item in enumerate(OBJECTS)}


@dataclass(frozen=True, slots=True)
class Scene:
    """Two different objects and how they are arranged.

    Args:
        axis: `horizontal` (left and right) or `vertical` (above and below).
        first: the left or upper object.
        second: the right or lower object.
    """

    axis: Axis
    first: ShapeObject
    second: ShapeObject

    @property
    def mirror(self) -> Scene:
        """The same objects, swapped along the same axis."""
        return Scene(self.axis, self.second, self.first)

    @property
    def swapped(self) -> bool:
        """Whether the second object comes before the first in `OBJECTS`; true of either a scene or its mirror."""
        return _NUMBERS[self.first] > _NUMBERS[self.second]

    def random(self, seed: int, stream: int) -> np.random.Generator:
        """Random numbers of this scene and its mirror, independent of what else is generated.

        So a scene and its mirror differ in the order of their objects only: same jitter, same noise, same phrasing.

        Args:
            seed: seed of the set.
            stream: number of the use: each use has its own random numbers.
        """
        low, high = sorted((_NUMBERS[self.first], _NUMBERS[self.second]))
        return np.random.default_rng([seed, stream, AXES.index(self.axis), low, high])


def draw_scene(scene: Scene, size: int, seed: int) -> np.ndarray:
    """Draw a scene at double size, reduce it, add light noise.

    The image depends on the arguments only. Coordinates and noise are integers, so it is the same on every platform.

    Args:
        scene: what to draw.
        size: width and height in pixels.
        seed: seed of the set; position jitter and noise come from it and from the scene.

    Returns:
        RGB image, uint8 `(size, size, 3)`.

    Example:
        >>> left, right = ShapeObject("big", "red", "star"), ShapeObject("small", "blue", "cross")
        >>> draw_scene(Scene("horizontal", left, right), size=48, seed=0).shape
        (48, 48, 3)
    """
    rng = scene.random(seed, _DRAWING_STREAM)
    side = 2 * size
    along_jitter, across_jitter = round(JITTER_ALONG * side), round(JITTER_ACROSS * side)
    along = rng.integers(-along_jitter, along_jitter, size=2, endpoint=True)
    across = rng.integers(-across_jitter, across_jitter, size=2, endpoint=True)
    image = Image.new("RGB", (side, side), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for place, item in enumerate((scene.first, scene.second)):
        position = (side * (1 + 2 * place) // 4 + int(along[place]), side // 2 + int(across[place]))
        x, y = position if scene.axis == "horizontal" else position[::-1]
        _draw_object(draw, item, x, y, SIZES[item.size] * side)
    pixels = np.asarray(image.reduce(2), dtype=np.int16)
    noise = rng.integers(-NOISE, NOISE, size=pixels.shape, dtype=np.int16, endpoint=True)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def _draw_object(draw: ImageDraw.ImageDraw, item: ShapeObject, x: int, y: int, radius: float) -> None:
    """Draw one object around (x, y), all in pixels; corners are rounded here, so that Pillow gets integers."""
    colour = COLOURS[item.colour]
    if item.shape == "circle":
        reach = round(_DISC * radius)
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
    else:
        corners = [(x + round(dx * radius), y + round(dy * radius)) for dx, dy in _OUTLINES[item.shape]]
        draw.polygon(corners, fill=colour)


class DrawnImages:
    """The images of generated scenes, by row (see `vse_tf.data.records.Images`). Safe to use from several threads.

    Args:
        scenes: the scene of each row.
        size: width and height in pixels.
        seed: seed of the set.
        cache: draw all scenes at the first use and cache them (`len(scenes) * size * size * 3` bytes), or draw each
            scene whenever it is loaded. The pixels are the same.

    Example:
        >>> scene = Scene("vertical", ShapeObject("big", "red", "star"), ShapeObject("small", "blue", "cross"))
        >>> DrawnImages([scene, scene.mirror], size=48, seed=0, cache=True).load(np.array([1, 0])).shape
        (2, 48, 48, 3)
    """

    kind: Literal["files", "pixels", "features"] = "pixels"

    def __init__(self, scenes: Sequence[Scene], size: int, seed: int, cache: bool) -> None:
        self.scenes = tuple(scenes)
        self.size = size
        self.seed = seed
        self.cache = cache
        self._drawn: np.ndarray | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.scenes)

    def load(self, rows: np.ndarray) -> np.ndarray:
        """Images of the given rows.

        Args:
            rows: row numbers, integers `(n,)`.

        Returns:
            uint8 `(n, size, size, 3)`, a fresh array.

        Raises:
            IndexError: there is no such row.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows run from 0 to {len(self) - 1}, asked for {rows.min()} to {rows.max()}")
        return self._all()[rows] if self.cache else self._draw(rows)

    def _all(self) -> np.ndarray:
        with self._lock:
            if self._drawn is None:
                self._drawn = self._draw(np.arange(len(self)))
            return self._drawn

    def _draw(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), self.size, self.size, 3), dtype=np.uint8)
        for image, row in zip(images, rows, strict=True):
            image[...] = draw_scene(self.scenes[row], self.size, self.seed)
        return images
