"""The sheets and sprites of TensorBoard."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import ImageFont

from vse_tf.pages import pictures
from vse_tf.pages.pictures import captions_to_images, image_to_captions, sprite

BLUE = (10, 20, 200)


@pytest.fixture
def fresh_fonts():
    """Forget chosen fonts before and after a test that changes what is installed."""
    caches = (pictures._font_of, pictures._builtin, pictures._font_files)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def photo(height=40, width=60, colour=BLUE):
    return np.full((height, width, 3), colour, np.uint8)


def has(picture, colour):
    return bool((picture == np.uint8(colour)).all(axis=-1).any())


def count(picture, colour):
    return int((picture == np.uint8(colour)).all(axis=-1).sum())


def test_image_to_captions_shows_the_photo_and_colours_the_captions():
    sheet = image_to_captions([photo()], [[("a dog runs", 0.71, True), ("a red car", 0.44, False)]])
    assert sheet.shape == (220, 690, 3)
    assert sheet.dtype == np.uint8
    assert tuple(sheet[110, 110]) == BLUE  # middle of the photo
    assert tuple(sheet[15, 110]) == pictures.PAPER  # letterbox above it
    assert tuple(sheet[20, 215]) == pictures.RIGHT  # bar before the right caption
    right, wrong = sheet[10:29, 220:], sheet[38:57, 220:]
    assert has(right, pictures.RIGHT) and not has(right, pictures.WRONG)
    assert has(wrong, pictures.WRONG) and not has(wrong, pictures.RIGHT)


def test_captions_to_images_frames_the_right_one():
    row = ("a dog runs", [(photo(), 0.7, False), (photo(60, 40), 0.6, True), (photo(), 0.5, False)])
    sheet = captions_to_images([row])
    assert sheet.shape == (226, 682, 3)
    left, top = 10 + 158 + 10, 10 + 19 + 5
    assert tuple(sheet[top, left]) == tuple(sheet[top + 157, left + 157]) == pictures.RIGHT
    assert tuple(sheet[top, 10]) == tuple(sheet[top, left + 168]) == pictures.PAPER
    for place in range(3):
        assert tuple(sheet[top + 79, 10 + 79 + 168 * place]) == BLUE
    assert has(sheet[:top], pictures.INK)


def test_any_number_of_captions_and_images():
    sheet = image_to_captions([photo(), photo(), photo()], [[], [("one", 1.0, True)], [("more", 0.1, False)] * 30])
    assert sheet.shape[0] == 220 + 220 + 30 * 28 + 20
    assert captions_to_images([("none", []), ("seven", [(photo(), 0.0, False)] * 7)]).shape[1] == 7 * 158 + 80
    with pytest.raises(ValueError, match="one or more"):
        image_to_captions([], [])
    with pytest.raises(ValueError, match="2 images and captions for 1"):
        image_to_captions([photo(), photo()], [[]])
    with pytest.raises(ValueError, match="no captions"):
        captions_to_images([])


@pytest.mark.parametrize("long", ["word " * 10_000, "x" * 10_000, "一只狗" * 3000])
def test_long_captions_are_wrapped_and_cut(long):
    sheet = image_to_captions([photo()], [[(long, 0.5, False), ("next", 0.4, True)]])
    assert sheet.shape == (220, 690, 3)
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
    image_to_captions([photo()], [[(caption, float("nan"), True)]])
    captions_to_images([(caption, [(photo(), -0.5, True)])])


def test_no_character_raises_without_installed_fonts(monkeypatch, fresh_fonts):
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", ())
    image_to_captions([photo()], [[("狗 🐕 и собака", 0.5, True)]])
    assert pictures._font_of("狗") is pictures._builtin()


def test_no_character_raises_with_the_bitmap_font(monkeypatch, fresh_fonts):
    bitmap = ImageFont.load_default_imagefont()
    monkeypatch.setattr(pictures.ImageFont, "load_default", lambda size: bitmap)
    image_to_captions([photo()], [[("狗 🐕 Straße " * 40, 0.5, True)]])


def test_an_installed_font_is_used_for_what_the_builtin_one_lacks(monkeypatch, tmp_path, fresh_fonts):
    class Both:
        """Stands in for an installed font that holds everything."""

    (tmp_path / "deep").mkdir()
    for name in ("DejaVuSans-Bold.ttf", "NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Other.ttf", "DejaVuSans.txt"):
        (tmp_path / "deep" / name).write_bytes(b"")
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", (str(tmp_path),))
    names = [path.name for path in pictures._font_files()]
    assert names == ["DejaVuSans.ttf", "NotoSansCJK-Regular.ttc"]
    installed = Both()
    monkeypatch.setattr(pictures, "_load", lambda path: installed if "CJK" in path.name else None)
    monkeypatch.setattr(pictures, "_holds", lambda font, character: font is installed or character.isascii())
    assert pictures._font_of("狗") is installed
    assert pictures._font_of("a") is pictures._builtin()
    assert [run for _, run in pictures._runs("a 狗狗 b")] == ["a ", "狗狗", " b"]


def test_a_broken_font_file_is_passed_over(monkeypatch, tmp_path, fresh_fonts):
    (tmp_path / "unifont-broken.ttf").write_bytes(b"not a font")
    monkeypatch.setattr(pictures, "_FONT_FOLDERS", (str(tmp_path),))
    image_to_captions([photo()], [[("собака 狗", 0.5, True)]])


def test_builtin_font_knows_what_it_lacks():
    font = pictures._builtin()
    assert pictures._holds(font, "a")
    assert not pictures._holds(font, "狗")


def test_sprite_is_a_square_grid_filled_with_white():
    colours = [(i * 10, 0, 0) for i in range(5)]
    grid = sprite([photo(7 + i, 7 + i, colour) for i, colour in enumerate(colours)], size=16)
    assert grid.shape == (48, 48, 3)
    assert grid.dtype == np.uint8
    for i, colour in enumerate(colours):
        top, left = i // 3 * 16, i % 3 * 16
        assert (grid[top : top + 16, left : left + 16] == np.uint8(colour)).all()
    assert (grid[16:32, 32:] == 255).all() and (grid[32:] == 255).all()


@pytest.mark.parametrize(("images", "side"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_sprite_side(images, side):
    assert sprite([photo()] * images, size=8).shape == (side * 8, side * 8, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (33, 32), (640, 480)])
def test_any_size_is_letterboxed(height, width):
    (thumb,) = [sprite([photo(height, width)], size=32)]
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
