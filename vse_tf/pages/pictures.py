"""Pictures of nearest neighbours and thumbnail sprites, drawn for TensorBoard."""

from __future__ import annotations

import contextlib
import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont

RIGHT = (0, 128, 0)
WRONG = (130, 70, 66)
INK = (32, 32, 32)
PAPER = (255, 255, 255)
LINE = (210, 210, 210)
TILE = (250, 205, 150)  # a caption among thumbnails

_TEXT = 15  # font size
_LEADING = 19  # line height
_GAP = 10
_FRAME = 4
_IMAGE = 160  # side of an image above its captions
_COLUMN = 320  # width of the captions below an image: TensorBoard shows a picture of this width at its full size
_THUMB = 150  # side of an image below a caption
_SMALL_THUMB = 92  # the same where three of them are as wide as a column of captions
_LABEL = 96  # side of a tile with a caption, before it is scaled down
_SCORE = 52  # width of the score before a caption
_MAX_LINES = 3
_MAX_CHARACTERS = 400

_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# The first one installed is the fallback; fonts with Chinese characters come first, and they have Greek and Cyrillic.
_FALLBACK_FONTS = (
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "DejaVuSans.ttf",
)


def image_to_captions(images: Sequence[Picture], captions: Sequence[Sequence[tuple[str, float, bool]]]) -> Picture:
    """Draw images, each with its nearest captions below it, best first.

    The image's own captions are green with a bar on their left, the others grey-red. A long caption is truncated.
    Characters that neither the built-in font nor the installed fallback has are drawn as boxes.

    Args:
        images: uint8 `(h, w, 3)` each, of any size (also `(h, w)`, `(h, w, 1)`, and `(h, w, 4)` on white).
        captions: the captions of each image, any number: text, score, whether it is the image's own.

    Returns:
        The picture, uint8 `(h, w, 3)`.

    Raises:
        ValueError: no images, another number of caption lists, or an array that is not an image.

    Example:
        >>> image = np.zeros([30, 40, 3], np.uint8)
        >>> image_to_captions([image], [[("a dog runs", 0.71, True), ("a red car", 0.44, False)]]).shape
        (256, 340, 3)
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f"{len(images)} images and {len(captions)} lists of captions: expected equal numbers, at least one"
        )
    blocks = [
        [(match, score, _wrap(caption, _COLUMN - _SCORE)) for caption, score, match in group] for group in captions
    ]
    heights = [_IMAGE + _block_height(block) + (4 if block else 2) * _GAP for block in blocks]
    sheet = Image.new("RGB", (_COLUMN + 2 * _GAP, sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for image, block, height in zip(images, blocks, heights, strict=True):
        if top:
            draw.line((0, top, sheet.width, top), fill=LINE)
        sheet.paste(_letterbox(image, _IMAGE, _IMAGE), (_GAP, top + _GAP))
        left, y = _GAP, top + _IMAGE + 2 * _GAP
        for match, score, lines in block:
            colour = RIGHT if match else WRONG
            bottom = y + _LEADING * len(lines)
            if match:
                draw.rectangle((left - 6, y + 1, left - 4, bottom - 2), fill=colour)
            _write(draw, (left, y), f"{score:.3f}", colour)
            for line in lines:
                _write(draw, (left + _SCORE, y), line, colour)
                y += _LEADING
            y += _LEADING // 2
        top += height
    return np.asarray(sheet)


def captions_to_images(
    rows: Sequence[tuple[str, Sequence[tuple[Picture, float, bool]]]], small: bool = False
) -> Picture:
    """Draw captions, each with its nearest images below it, best first.

    The caption's own image has a green frame; each score is below its image.

    Args:
        rows: text and images of each caption, any number of images: uint8 `(h, w, 3)` of any size, score, whether it
            is the caption's own.
        small: three small images side by side, the others below them, for a card of TensorBoard.

    Returns:
        The picture, uint8 `(h, w, 3)`.

    Raises:
        ValueError: no captions, or an array that is not an image.

    Example:
        >>> image = np.zeros([30, 40, 3], np.uint8)
        >>> captions_to_images([("a dog runs", [(image, 0.71, True), (image, 0.44, False)])]).shape
        (226, 682, 3)
    """
    if not rows:
        raise ValueError("no captions to show")
    side = _SMALL_THUMB if small else _THUMB
    across = 3 if small else max(4, *(len(images) for _, images in rows))
    cell = side + 2 * _FRAME
    width = across * cell + (across + 1) * _GAP
    wrapped = [_wrap(caption, width - 2 * _GAP) for caption, _ in rows]
    line = cell + _LEADING + _GAP
    heights = [
        2 * _GAP + _LEADING * len(lines) + max(1, -(-len(images) // across)) * line
        for lines, (_, images) in zip(wrapped, rows, strict=True)
    ]
    sheet = Image.new("RGB", (width, sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (_, images), lines, height in zip(rows, wrapped, heights, strict=True):
        if top:
            draw.line((0, top, width, top), fill=LINE)
        y = top + _GAP
        for text in lines:
            _write(draw, (_GAP, y), text, INK)
            y += _LEADING
        y += _GAP // 2
        for number, (image, score, match) in enumerate(images):
            left, upper = _GAP + number % across * (cell + _GAP), y + number // across * line
            if match:
                draw.rectangle((left, upper, left + cell - 1, upper + cell - 1), fill=RIGHT)
            sheet.paste(_letterbox(image, side, side), (left + _FRAME, upper + _FRAME))
            _write(draw, (left + _FRAME, upper + cell + 2), f"{score:.3f}", RIGHT if match else WRONG)
        top += height
    return np.asarray(sheet)


@lru_cache(maxsize=1024)
def caption_tile(caption: str, size: int = 64) -> Picture:
    """Draw the beginning of a caption on a coloured tile, for a sprite with thumbnails of images.

    Args:
        caption: the caption.
        size: side of the tile in pixels.

    Returns:
        uint8 `(size, size, 3)`.

    Example:
        >>> caption_tile("two dogs in the snow").shape
        (64, 64, 3)
    """
    tile = Image.new("RGB", (_LABEL, _LABEL), TILE)
    draw = ImageDraw.Draw(tile)
    for number, line in enumerate(_wrap(caption, _LABEL - 6, 4)):
        _write(draw, (3, 8 + number * _LEADING), line, INK)
    return np.asarray(tile.resize((size, size), Image.Resampling.LANCZOS))


def sprite(images: Sequence[Picture], size: int = 64) -> Picture:
    """Draw the thumbnails of TensorBoard's embedding projector: a square grid, row by row, unused cells white.

    TensorBoard reads sprites of up to 8,192 x 8,192 pixels: 16,384 thumbnails of 64 x 64.

    Args:
        images: uint8 `(h, w, 3)` each, of any size.
        size: side of a thumbnail in pixels.

    Returns:
        uint8 `(s * size, s * size, 3)`, `s` the smallest integer with `s * s >= len(images)`.

    Raises:
        ValueError: no images, a size below 1, or an array that is not an image.

    Example:
        >>> image = np.zeros([30, 40, 3], np.uint8)
        >>> sprite([image] * 5, size=32).shape
        (96, 96, 3)
    """
    if not len(images) or size < 1:
        raise ValueError(f"a sprite of {len(images)} images of {size} pixels: both must be at least 1")
    side = math.isqrt(len(images) - 1) + 1
    sheet = np.full((side * size, side * size, 3), 255, np.uint8)
    for position, image in enumerate(images):
        top, left = position // side * size, position % side * size
        sheet[top : top + size, left : left + size] = np.asarray(_letterbox(image, size, size))
    return sheet


def _block_height(block: list[tuple[bool, float, list[str]]]) -> int:
    return sum(_LEADING * len(lines) + _LEADING // 2 for _, _, lines in block)


def _letterbox(image: Picture, width: int, height: int) -> Image.Image:
    """The image, its aspect ratio unchanged, in the middle of a white box."""
    box = Image.new("RGB", (width, height), PAPER)
    inner = _to_pillow(image)
    scale = min(width / inner.width, height / inner.height)
    fit = (max(1, round(inner.width * scale)), max(1, round(inner.height * scale)))
    if inner.size != fit:
        inner = inner.resize(fit, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    box.paste(inner, ((width - fit[0]) // 2, (height - fit[1]) // 2))
    return box


def _to_pillow(image: Picture) -> Image.Image:
    array = np.asarray(image)
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise ValueError(f"an image of shape {shape} and type {array.dtype}; expected uint8 (height, width, 3)")
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    converted = Image.fromarray(np.ascontiguousarray(array))
    if converted.mode == "RGBA":
        white = Image.new("RGBA", converted.size, (*PAPER, 255))
        converted = Image.alpha_composite(white, converted).convert("RGB")
    return converted


def _wrap(text: str, width: int, most: int = _MAX_LINES) -> list[str]:
    """Break a caption into at most this many lines of at most `width` pixels; a truncated one ends in dots."""
    text = _clean(text)
    cut = len(text) > _MAX_CHARACTERS
    words = text[:_MAX_CHARACTERS].split(" ")
    lines, line = [], ""
    while words:
        word = words.pop(0)
        longer = f"{line} {word}" if line else word
        if _width(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
            line = ""
            words.insert(0, word)
        else:  # a word wider than the line, or a script without spaces
            fits = max(1, _fitting(word, width))
            lines.append(word[:fits])
            if word[fits:]:
                words.insert(0, word[fits:])
        if len(lines) == most:
            cut = cut or bool(words)
            break
    if line:
        lines.append(line)
    if cut:
        last = lines[-1]
        lines[-1] = last[: _fitting(last, width - _width("..."))].rstrip() + "..."
    return lines or [""]


def _fitting(text: str, width: float) -> int:
    """Number of leading characters that fit."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(text[:middle]) <= width else (low, middle - 1)
    return low


def _clean(text: str) -> str:
    """Characters that can be drawn, on one line: no controls, lone surrogates, joiners or variation selectors."""
    characters = (
        " " if character.isspace() else character
        for character in unicodedata.normalize("NFC", text)
        if character.isspace()
        or (unicodedata.category(character) not in {"Cc", "Cf", "Cs"} and not 0xFE00 <= ord(character) <= 0xFE0F)
    )
    return " ".join("".join(characters).split())


def _width(text: str) -> float:
    return sum(font.getlength(run) for font, run in _runs(text))


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    """Draw one line of text; its runs share one baseline."""
    x, y = at
    for font, run in _runs(text):
        draw.text((x, y + _TEXT), run, fill=colour, font=font, anchor="ls")
        x += font.getlength(run)


def _runs(text: str) -> list[tuple[Font, str]]:
    """The text in runs of one font."""
    return [(font, "".join(run)) for font, run in groupby(text, key=_font_of)]


@lru_cache(maxsize=8192)
def _font_of(character: str) -> Font:
    """The built-in font where it has the character, else the fallback, which may draw a box."""
    return _builtin() if character.isspace() or _has_glyph(_builtin(), character) else _fallback()


@lru_cache(maxsize=1)
def _builtin() -> Font:
    font = ImageFont.load_default(size=_TEXT)
    assert isinstance(font, Font)  # always, where a size is given
    return font


@lru_cache(maxsize=1)
def _fallback() -> Font:
    """The first of `_FALLBACK_FONTS` that is installed; without any, the built-in font."""
    files = (path for folder in _FONT_FOLDERS for path in Path(folder).expanduser().rglob("*.tt[cf]"))
    installed = {path.name: path for path in files if path.is_file()}  # opening a pipe would wait for ever
    for name in _FALLBACK_FONTS:
        if name in installed:
            with contextlib.suppress(OSError):  # a broken file
                return ImageFont.truetype(str(installed[name]), _TEXT)
    return _builtin()


def _has_glyph(font: Font, character: str) -> bool:
    """Whether the font draws the character as something else than the box of a character that it lacks."""
    lacking = "\U0010fffe"  # never a character
    return _glyph(font, character) != _glyph(font, lacking)


def _glyph(font: Font, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character, mode="L")
    return mask.size, bytes(mask)
