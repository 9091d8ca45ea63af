"""The pictures and sprites that TensorBoard shows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from vse_tf.pages import pictures
from vse_tf.pages.pictures import captions_to_images, image_to_captions, sprite

BLUE = (10, 20, 200)


@pytest.fixture
def fresh_fonts():
    """Clear the cached fonts before and after a test that changes what is installed."""
    caches = (pictures._font_of, pictures._fallback)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def image(height=40, width=60, colour=BLUE):
    return np.full((height, width, 3), colour, np.uint8)


def has(picture, colour):
    return bool((picture == np.uint8(colour)).all(axis=-1).any())


def count(picture, colour):
    return int((picture == np.uint8(colour)).all(axis=-1).sum())


def test_captions_of_an_image_are_coloured():
    sheet = image_to_captions([image()], [[("a dog runs", 0.71, True), ("a red car", 0.44, False)]])
    assert sheet.shape == (256, 340, 3)
    assert sheet.dtype == np.uint8
    assert tuple(sheet[90, 90]) == BLUE  # middle of the image
    assert tuple(sheet[15, 90]) == pictures.PAPER  # letterbox above it
    assert tuple(sheet[190, 5]) == pictures.RIGHT  # bar left of the correct caption
    right, wrong = sheet[180:199, 10:], sheet[208:227, 10:]
    assert has(right, pictures.RIGHT) and not has(right, pictures.WRONG)
    assert has(wrong, pictures.WRONG) and not has(wrong, pictures.RIGHT)


def test_captions_to_images_frames_the_right_one():
    row = ("a dog runs", [(image(), 0.7, False), (image(60, 40), 0.6, True), (image(), 0.5, False)])
    sheet = captions_to_images([row])
    assert sheet.shape == (226, 682, 3)
    left, top = 10 + 158 + 10, 10 + 19 + 5
    assert tuple(sheet[top, left]) == tuple(sheet[top + 157, left + 157]) == pictures.RIGHT
    assert tuple(sheet[top, 10]) == tuple(sheet[top, left + 168]) == pictures.PAPER
    for column in range(3):
        assert tuple(sheet[top + 79, 10 + 79 + 168 * column]) == BLUE
    assert has(sheet[:top], pictures.INK)


def test_any_number_of_captions_and_images():
    sheet = image_to_captions([image(), image(), image()], [[], [("one", 1.0, True)], [("more", 0.1, False)] * 30])
    assert sheet.shape[0] == 3 * 180 + (28 + 20) + (30 * 28 + 20)
    assert captions_to_images([("none", []), ("seven", [(image(), 0.0, False)] * 7)]).shape[1] == 7 * 158 + 80
    with pytest.raises(ValueError, match="at least one"):
        image_to_captions([], [])
    with pytest.raises(ValueError, match="2 images and 1 lists of captions"):
        image_to_captions([image(), image()], [[]])
    with pytest.raises(ValueError, match="no captions"):
        captions_to_images([])


@pytest.mark.parametrize("long", ["word " * 10_000, "x" * 10_000, "一只狗" * 3000])
def test_long_captions_are_wrapped_and_truncated(long):
    sheet = image_to_captions([image()], [[(long, 0.5, False), ("next", 0.4, True)]])
    assert sheet.shape == (180 + 3 * 19 + 9 + 28 + 20, 340, 3)
    lines = pictures._wrap(long, 300)
    assert len(lines) == 3
    assert lines[-1].endswith("...")
    assert all(pictures._width(line) <= 300 for line in lines)


def test_wrapping_keeps_every_word():
    text = "a brown dog with a red collar runs over the wet grass"
    lines = pictures._wrap(text, 200)
    assert len(lines) == 2
    assert " ".join(lines) == text
    assert pictures._wrap(" one\n\ttwo  ", 200) == ["one two"]
    assert pictures._wrap("", 200) == [""]
    assert pictures._wrap("a\ud800\x00b\u200d❤\ufe0f", 200) == ["ab❤"]


@pytest.mark.parametrize(
    "caption",
    [
        "狗在跑",
        "a dog 🐕‍🦺 ❤️ 👨‍👩‍👧",
        "Ein Hund läuft über die Straße",
        "كلب يجري",
        "\x00\x07\ud800 lone",
        "\u200d",
        "",
        "\U0010fffe",
    ],
)
def test_no_character_raises(caption):
    image_to_captions([image()], [[(caption, float("nan"), True)]])
    captions_to_images([(caption, [(image(), -0.5, True)])])


def test_no_character_raises_without_installed_fonts(monkeypatch, fresh_fonts):
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", ())
    image_to_captions([image()], [[("狗 🐕 и собака", 0.5, True)]])
    assert pictures._font_of("狗") is pictures._builtin()


def test_the_fallback_font_draws_what_the_builtin_lacks(monkeypatch, tmp_path, fresh_fonts):
    (tmp_path / "deep").mkdir()
    for name in ("DejaVuSans-Bold.ttf", "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Other.ttf", "DejaVuSans.txt"):
        (tmp_path / "deep" / name).write_bytes(b"")
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", (str(tmp_path),))
    opened = []
    monkeypatch.setattr(pictures.ImageFont, "truetype", lambda path, size: opened.append(path) or "installed")
    assert pictures._font_of("狗") == "installed"
    assert opened == [str(tmp_path / "deep" / "NotoSansCJK-Regular.ttc")]
    assert pictures._font_of("a") is pictures._builtin()
    assert [run for _, run in pictures._runs("a 狗狗 b")] == ["a ", "狗狗", " b"]


def test_a_broken_font_file_is_skipped(monkeypatch, tmp_path, fresh_fonts):
    (tmp_path / "msyh.ttc").write_bytes(b"not a font")
    os.mkfifo(tmp_path / "NotoSansCJK-Regular.ttc")
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", (str(tmp_path),))
    image_to_captions([image()], [[("собака 狗", 0.5, True)]])
    assert pictures._fallback() is pictures._builtin()


def test_a_missing_glyph_of_the_builtin_font_is_noticed():
    font = pictures._builtin()
    assert pictures._has_glyph(font, "a")
    assert not pictures._has_glyph(font, "狗")


def test_a_card_of_images_is_as_wide_as_one_of_captions():
    card = captions_to_images([("a dog runs", [(image(), 0.7, False)] * 5)], small=True)
    assert card.shape == (20 + 19 + 2 * (100 + 19 + 10), 340, 3)
    assert has(card[-60:], BLUE)  # the fourth and the fifth image


def test_caption_tiles_are_told_apart():
    one, other = (pictures.caption_tile(caption) for caption in ("two dogs run", "a red car"))
    assert one.shape == (64, 64, 3)
    assert tuple(one[0, 0]) == pictures.TILE
    assert (one != other).any()


def test_sprite_is_a_square_grid_filled_with_white():
    colours = [(i * 10, 0, 0) for i in range(5)]
    grid = sprite([image(7 + i, 7 + i, colour) for i, colour in enumerate(colours)], size=16)
    assert grid.shape == (48, 48, 3)
    assert grid.dtype == np.uint8
    for i, colour in enumerate(colours):
        top, left = i // 3 * 16, i % 3 * 16
        assert (grid[top : top + 16, left : left + 16] == np.uint8(colour)).all()
    assert (grid[16:32, 32:] == 255).all() and (grid[32:] == 255).all()


@pytest.mark.parametrize(("images", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_sprite_side(images, side):
    assert sprite([image()] * images, size=8).shape == (side * 8, side * 8, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (33, 32), (640, 480)])
def test_any_size_is_letterboxed(height, width):
    (thumb,) = [sprite([image(height, width)], size=32)]
    painted = count(thumb, BLUE)
    assert {tuple(thumb[15, 15]), tuple(thumb[16, 16])} >= {BLUE}
    scale = 32 / max(height, width)
    assert painted == max(1, round(height * scale)) * max(1, round(width * scale))
    assert painted + count(thumb, (255, 255, 255)) == 32 * 32


def test_gray_and_transparent_images():
    gray = np.full((8, 8), 77, np.uint8)
    clear = np.zeros((8, 8, 4), np.uint8)
    grid = sprite([gray, gray[..., None], clear], size=8)
    assert (grid[:8] == 77).all()
    assert (grid[8:] == 255).all()


@pytest.mark.parametrize("bad", [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_an_error(bad):
    with pytest.raises(ValueError, match="expected uint8"):
        sprite([bad])
    with pytest.raises(ValueError, match="a sprite of 0 images"):
        sprite([])
