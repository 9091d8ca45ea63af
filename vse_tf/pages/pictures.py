"""Sheets of nearest neighbours and sprites, drawn for TensorBoard."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

RIGHT = (0, 128, 0)
WRONG = (130, 70, 66)
INK = (32, 32, 32)
PAPER = (255, 255, 255)
LINE = (210, 210, 210)
TILE = (230, 120, 40)  # a caption among pictures

_TEXT = 15  # font size
_LEADING = 19  # from one line of text to the next
_GAP = 10
_FRAME = 4
_PHOTO = 200  # side of the photo beside its captions
_COLUMN = 460  # width of the captions beside a photo
_THUMB = 150  # side of the images below a caption
_SCORE = 52  # width of the score before a caption
_MOST_LINES = 3
_MOST_CHARACTERS = 400

_FONT_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
# Starts of file names, those that cover most first.
_FONT_NAMES = (
    "dejavusans.",
    "notosanscjk",
    "notosansmonocjk",
    "notoserifcjk",
    "notosans-regular",
    "notosans[",
    "notoemoji",
    "notosans",
    "droidsansfallback",
    "wqy",
    "sourcehansans",
    "unifont",
    "symbola",
    "arialuni",
    "arial unicode",
    "pingfang",
    "hiragino",
    "msyh",
    "msgothic",
    "malgun",
    "seguisym",
    "seguiemj",
)
_FONT_CUTS = ("bold", "italic", "oblique", "light", "thin", "black", "medium", "condensed")
_MOST_FONTS = 60


def image_to_captions(images: Sequence[Picture], captions: Sequence[Sequence[tuple[str, float, bool]]]) -> Picture:
    """A sheet of photos, each with its nearest captions beside it, best first.

    The image's own captions are green with a bar before them, the others grey-red. Characters that no font at hand
    holds show as boxes; a long caption is cut.

    Args:
        images: uint8 `(h, w, 3)` each, of any size (also `(h, w)`, `(h, w, 1)`, and `(h, w, 4)` on white).
        captions: for each image its captions, any number: text, score, whether it is the image's own.

    Returns:
        The sheet, uint8 `(h, w, 3)`.

    Raises:
        ValueError: no images, not one list of captions an image, or an array that is no image.

    Example:
        >>> image_to_captions([photo], [[("a dog runs", 0.71, True), ("a red car", 0.44, False)]]).shape
        (220, 690, 3)
    """
    if not len(images) or len(images) != len(captions):
        raise ValueError(
            f"{len(images)} images and captions for {len(captions)}: expected one list an image, one or more"
        )
    blocks = [
        [(match, score, _wrap(caption, _COLUMN - _SCORE)) for caption, score, match in group] for group in captions
    ]
    heights = [max(_PHOTO, _block_height(block)) + 2 * _GAP for block in blocks]
    sheet = Image.new("RGB", (_PHOTO + _COLUMN + 3 * _GAP, sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for image, block, height in zip(images, blocks, heights, strict=True):
        if top:
            draw.line((0, top, sheet.width, top), fill=LINE)
        sheet.paste(_letterbox(image, _PHOTO, _PHOTO), (_GAP, top + _GAP))
        left, y = _PHOTO + 2 * _GAP, top + _GAP
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


def captions_to_images(rows: Sequence[tuple[str, Sequence[tuple[Picture, float, bool]]]]) -> Picture:
    """A sheet of captions, each with its nearest images below it, best first.

    The caption's own image stands in a green frame, the score below each.

    Args:
        rows: for each caption its text and its images, any number: uint8 `(h, w, 3)` of any size, score, whether it is
            the caption's own.

    Returns:
        The sheet, uint8 `(h, w, 3)`.

    Raises:
        ValueError: no captions, or an array that is no image.

    Example:
        >>> captions_to_images([("a dog runs", [(photo, 0.71, True), (other, 0.44, False)])]).shape
        (226, 682, 3)
    """
    if not rows:
        raise ValueError("no captions to show")
    across = max(4, *(len(images) for _, images in rows))
    cell = _THUMB + 2 * _FRAME
    width = across * cell + (across + 1) * _GAP
    wrapped = [_wrap(caption, width - 2 * _GAP) for caption, _ in rows]
    heights = [3 * _GAP + _LEADING * (len(lines) + 1) + cell for lines in wrapped]
    sheet = Image.new("RGB", (width, sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for (_, images), lines, height in zip(rows, wrapped, heights, strict=True):
        if top:
            draw.line((0, top, width, top), fill=LINE)
        y = top + _GAP
        for line in lines:
            _write(draw, (_GAP, y), line, INK)
            y += _LEADING
        y += _GAP // 2
        for place, (image, score, match) in enumerate(images):
            left = _GAP + place * (cell + _GAP)
            if match:
                draw.rectangle((left, y, left + cell - 1, y + cell - 1), fill=RIGHT)
            sheet.paste(_letterbox(image, _THUMB, _THUMB), (left + _FRAME, y + _FRAME))
            _write(draw, (left + _FRAME, y + cell + 2), f"{score:.3f}", RIGHT if match else WRONG)
        top += height
    return np.asarray(sheet)


def sprite(images: Sequence[Picture], size: int = 64) -> Picture:
    """The thumbnails of TensorBoard's embedding projector: a square grid, row by row, unused places white.

    TensorBoard reads sprites up to 8,192 pixels a side: 16,384 images at 64.

    Args:
        images: uint8 `(h, w, 3)` each, of any size.
        size: side of a thumbnail in pixels.

    Returns:
        uint8 `(s * size, s * size, 3)`, `s` the smallest number with `s * s >= len(images)`.

    Raises:
        ValueError: no images, a size below 1, or an array that is no image.

    Example:
        >>> sprite([photo] * 5, size=32).shape
        (96, 96, 3)
    """
    if not len(images) or size < 1:
        raise ValueError(f"a sprite of {len(images)} images of {size} pixels: expected one or more of each")
    side = math.isqrt(len(images) - 1) + 1
    sheet = np.full((side * size, side * size, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // side * size, place % side * size
        sheet[top : top + size, left : left + size] = np.asarray(_letterbox(image, size, size))
    return sheet


def _block_height(block: list[tuple[bool, float, list[str]]]) -> int:
    return sum(_LEADING * len(lines) + _LEADING // 2 for _, _, lines in block)


def _letterbox(image: Picture, width: int, height: int) -> Image.Image:
    """The image at its own shape in the middle of a white box."""
    box = Image.new("RGB", (width, height), PAPER)
    photo = _to_image(image)
    scale = min(width / photo.width, height / photo.height)
    fit = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    if photo.size != fit:
        photo = photo.resize(fit, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    box.paste(photo, ((width - fit[0]) // 2, (height - fit[1]) // 2))
    return box


def _to_image(image: Picture) -> Image.Image:
    array = np.asarray(image)
    shape = array.shape
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or not array.size:
        raise ValueError(f"an image of shape {shape} and type {array.dtype}; expected uint8 (height, width, 3)")
    if array.shape[-1] == 1:
        array = np.repeat(array, 3, axis=-1)
    photo = Image.fromarray(np.ascontiguousarray(array))
    if photo.mode == "RGBA":
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, (*PAPER, 255)), photo).convert("RGB")
    return photo


def _wrap(text: str, width: int) -> list[str]:
    """Cut a caption into lines of at most `width` pixels; what has no room ends in dots."""
    text = _clean(text)
    cut = len(text) > _MOST_CHARACTERS
    words = text[:_MOST_CHARACTERS].split(" ")
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
        if len(lines) == _MOST_LINES:
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
    """One line of characters that can be drawn: no controls, lone surrogates, joiners or variation selectors."""
    shown = (
        " " if character.isspace() else character
        for character in unicodedata.normalize("NFC", text)
        if character.isspace()
        or (unicodedata.category(character) not in {"Cc", "Cf", "Cs"} and not 0xFE00 <= ord(character) <= 0xFE0F)
    )
    return " ".join("".join(shown).split())


def _width(text: str) -> float:
    return sum(font.getlength(run) for font, run in _runs(text))


def _write(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    """Draw one line; all its runs stand on one base line."""
    x, y = at
    for font, run in _runs(text):
        if isinstance(font, ImageFont.FreeTypeFont):
            draw.text((x, y + _TEXT), run, fill=colour, font=font, anchor="ls")
        else:
            draw.text((x, y), run, fill=colour, font=font)
        x += font.getlength(run)


def _runs(text: str) -> list[tuple[Font, str]]:
    """The text in runs, each with a font that holds its characters."""
    if not isinstance(_builtin(), ImageFont.FreeTypeFont):  # Pillow without FreeType has a bitmap font of Latin-1
        text = text.encode("latin-1", "replace").decode("latin-1")
    return [(font, "".join(run)) for font, run in groupby(text, key=_font_of)]


@lru_cache(maxsize=8192)
def _font_of(character: str) -> Font:
    """The first font that holds the character; the built-in one, which draws a box, where none does."""
    builtin = _builtin()
    if not isinstance(builtin, ImageFont.FreeTypeFont) or character.isspace() or _holds(builtin, character):
        return builtin
    for path in _font_files():
        font = _load(path)
        if font is not None and _holds(font, character):
            return font
    return builtin


@lru_cache(maxsize=1)
def _builtin() -> Font:
    return ImageFont.load_default(size=_TEXT)


def _holds(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether the font has a glyph of its own for the character (and not the box of all those it lacks)."""
    try:
        return _glyph(font, character) != _missing(font)
    except OSError:
        return False


@lru_cache(maxsize=64)
def _missing(font: ImageFont.FreeTypeFont) -> tuple[tuple[int, int], bytes]:
    return _glyph(font, "\U0010fffe")  # never a character


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character, mode="L")
    return mask.size, bytes(mask)


@lru_cache(maxsize=64)
def _load(path: Path) -> ImageFont.FreeTypeFont | None:
    try:
        font = ImageFont.truetype(str(path), _TEXT)
        _missing(font)
    except (OSError, ValueError):  # fixed-size colour fonts, broken files
        return None
    return font


@lru_cache(maxsize=1)
def _font_files() -> tuple[Path, ...]:
    """Installed upright fonts known to cover much, best first. Only asked for where the built-in one falls short."""
    found = []
    for folder in _FONT_FOLDERS:
        for inside, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                low = name.lower()
                place = next((i for i, start in enumerate(_FONT_NAMES) if low.startswith(start)), None)
                if place is None or not low.endswith((".ttf", ".ttc", ".otf")) or any(cut in low for cut in _FONT_CUTS):
                    continue
                if (path := Path(inside, name)).is_file():  # not a pipe, which would be waited for
                    found.append((place, path))
    return tuple(path for _, path in sorted(found)[:_MOST_FONTS])
