"""HEIC, AVIF and TIFF: the pixels that Pillow shows, under the limits of other images; refused without the extra."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from vse_tf.preprocessing import photo_formats
from vse_tf.preprocessing.image_checks import refusal
from vse_tf.preprocessing.image_headers import photo_kind, read_header
from vse_tf.preprocessing.image_limits import PHOTO, REASONS, RefusedImageError
from vse_tf.preprocessing.images import decode
from vse_tf.preprocessing.photo_formats import as_decodable
from vse_tf.preprocessing.small_images import small_image

pytestmark = pytest.mark.extras
PHOTO_SIZE = (37, 22)
MANY = 10**8
HEADS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1",
    "TIFF": b"II*\0\x08\0\0\0\0\0",
}


def image(mode="RGB"):
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (4, 6, 4), np.uint8), "RGBA").resize(PHOTO_SIZE)
    return smooth if mode == "RGBA" else smooth.convert("RGB").convert(mode)


def encoded(kind, picture, orientation=1, **options):
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "HEIC":
        heif = pytest.importorskip("pillow_heif", reason="needs pip install 'vse_tf[photos]'")
        heif.from_pillow(picture).save(file, quality=90, exif=exif.tobytes())
    else:
        picture.save(file, kind, exif=exif, **options)
    return file.getvalue()


def shown(contents):
    """What Pillow shows, on white."""
    if photo_kind(contents) == "HEIC":
        pytest.importorskip("pillow_heif").register_heif_opener()
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(contents)))
    if not upright.has_transparency_data:
        return np.asarray(upright.convert("RGB"))
    clear = np.asarray(upright.convert("RGBA")).astype(np.uint16)
    alpha = clear[..., 3:]
    return ((clear[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


@pytest.fixture
def with_extra():
    pytest.importorskip("pillow_heif", reason="needs pip install 'vse_tf[photos]'")


@pytest.fixture
def without_extra(monkeypatch):
    monkeypatch.setattr(photo_formats, "find_spec", lambda name: None)


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pixels_are_those_that_pillow_shows(kind, orientation):
    contents = encoded(kind, image(), orientation)
    found = decode(tf.constant(as_decodable(contents, MANY)), MANY).numpy()
    assert found.shape[:2] == (PHOTO_SIZE if orientation >= 5 else PHOTO_SIZE[::-1])
    np.testing.assert_array_equal(found, shown(contents))


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "TIFF"])
def test_transparency_is_on_white(kind):
    contents = encoded(kind, image("RGBA"))
    np.testing.assert_array_equal(decode(tf.constant(as_decodable(contents, MANY)), MANY), shown(contents))


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("1", {"compression": "group4"}),
        ("L", {"compression": "tiff_lzw"}),
        ("P", {}),
        ("CMYK", {"compression": "tiff_adobe_deflate"}),
        ("LAB", {}),
        ("RGB", {"compression": "jpeg"}),
        ("YCbCr", {"compression": "jpeg"}),
    ],
)
def test_kinds_of_tiff(mode, options):
    contents = encoded("TIFF", image(mode), **options)
    np.testing.assert_array_equal(decode(tf.constant(as_decodable(contents, MANY)), MANY), shown(contents))


@pytest.mark.usefixtures("with_extra")
def test_sixteen_bits_are_reduced_to_the_upper_eight():
    levels = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    contents = encoded("TIFF", Image.fromarray(levels))
    found = decode(tf.constant(as_decodable(contents, MANY)), MANY).numpy()
    np.testing.assert_array_equal(found[..., 0], levels >> 8)


@pytest.mark.usefixtures("with_extra")
def test_the_first_frame_is_taken():
    pages = [image(), *[Image.new("RGB", (9, 9), color) for color in ("red", "blue")]]
    contents = encoded("TIFF", pages[0], save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(decode(tf.constant(as_decodable(contents, MANY)), MANY), np.asarray(pages[0]))


def tiff_of(width, height, *more):
    """A TIFF of one strip, with a few bytes of pixels and other tags."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 4, **dict(more)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (tiff_of(20_000, 20_000), "header: 20000 x 20000, at most 100000000 pixels"),
        (tiff_of(8, 8, (322, 60_000), (323, 60_000), (324, 8), (325, 4)), "tiles of 60000 x 60000 pixels"),
        (HEADS["TIFF"], "TIFF: "),
        (HEADS["HEIC"] + bytes(100), "HEIC: "),
        (HEADS["AVIF"] + bytes(100), "AVIF: "),
    ],
    ids=["pixels", "tiles", "TIFF", "HEIC", "AVIF"],
)
def test_costly_and_broken_ones_are_refused(contents, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        as_decodable(contents, MANY)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "TIFF"])
def test_the_limit_is_on_the_pixels_of_the_header(kind):
    contents, pixels = encoded(kind, image()), PHOTO_SIZE[0] * PHOTO_SIZE[1]
    assert as_decodable(contents, pixels)
    with pytest.raises(ValueError, match=r"data\.max_pixels"):
        as_decodable(contents, pixels - 1)


@pytest.mark.usefixtures("with_extra")
def test_jpegs_of_many_scans_are_refused_in_a_tiff():
    contents = encoded("TIFF", image(), compression="jpeg")
    with pytest.raises(ValueError, match="scans of 37 x 22 pixels"):
        as_decodable(contents + 40 * b"\xff\xda", PHOTO_SIZE[0] * PHOTO_SIZE[1])


@pytest.mark.usefixtures("with_extra")
@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "TIFF"])
def test_pages_show_them(kind):
    small = small_image(encoded(kind, image()), 18, MANY)
    assert small.size == (18, 11)


def test_other_files_stay_as_they_are():
    for contents in (b"", b"words", b"\xff\xd8\xff\xe0", b"\0\0\0\x18ftypisom"):
        assert as_decodable(contents, 1) is contents


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("kind", HEADS)
def test_without_the_extra_both_ways_out_are_named(kind):
    with pytest.raises(ValueError, match=rf"a {kind} image: read it with pip install 'vse_tf\[photos\]', or .* magick"):
        as_decodable(HEADS[kind], MANY)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_training_and_exported_graphs_name_the_command(head):
    with pytest.raises(RefusedImageError) as caught:
        read_header(head)
    assert (caught.value.code, str(caught.value)) == (PHOTO, REASONS[PHOTO])
    assert refusal(tf.constant(head), MANY).numpy().decode() == REASONS[PHOTO]
    assert "magick photo.heic photo.jpg" in REASONS[PHOTO]
    with pytest.raises(tf.errors.InvalidArgumentError, match="convert it with magick"):
        decode(tf.constant(head), MANY)
