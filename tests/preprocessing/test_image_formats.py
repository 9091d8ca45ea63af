"""Decoding of every format against Pillow, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from vse_tf.preprocessing import images
from vse_tf.preprocessing.image_headers import read_header

STRING = [tf.TensorSpec([], tf.string)]
LIMIT = 1_000_000
in_graph = tf.function(lambda contents: images.decode(contents, LIMIT), input_signature=STRING)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def draw_image(width: int = 61, height: int = 43, seed: int = 0) -> Image.Image:
    """Smooth colours with some grain, so that chroma and filters matter."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    grain = rng.integers(-9, 10, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse).astype(int) + grain, 0, 255).astype(np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    return image


def on_white(image: Image.Image) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def expected(contents: bytes) -> np.ndarray:
    """What a viewer shows, by Pillow, float64."""
    with Image.open(io.BytesIO(contents)) as image:
        return on_white(ImageOps.exif_transpose(image))


def decoded(contents: bytes) -> np.ndarray:
    pixels = in_graph(contents)
    assert pixels.dtype == tf.uint8
    return pixels.numpy().astype(np.float64)


def png16(array: np.ndarray, colour: int) -> bytes:
    """A 16-bit PNG; Pillow writes none with colours."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bmp_with_alpha(image: Image.Image) -> bytes:
    """A 32-bit BMP with a V4 header that declares the alpha channel; Pillow writes none."""
    rgba = np.asarray(image)[::-1]
    pixels = rgba[..., [2, 1, 0, 3]].tobytes()
    head = struct.pack("<IiiHHIIiiII", 108, *image.size, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + bytes(52)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def palette_with_clear(image: Image.Image) -> Image.Image:
    paletted = image.quantize(16)
    paletted.info["transparency"] = 3
    return paletted


RGB = draw_image()
SIDES = struct.pack("<HH", *RGB.size)
RGBA = with_alpha(RGB)
GREY = RGB.convert("L")

FILES = {
    "jpeg": (encoded(RGB, "JPEG", quality=90), 0),
    "jpeg_420_progressive": (encoded(RGB, "JPEG", quality=70, subsampling=2, progressive=True), 0),
    "jpeg_grey": (encoded(GREY, "JPEG"), 0),
    "jpeg_cmyk": (encoded(RGB.convert("CMYK"), "JPEG", quality=95), 3),
    "png": (encoded(RGB, "PNG"), 0),
    "png_grey": (encoded(GREY, "PNG"), 0),
    "png_1_bit": (encoded(GREY.convert("1"), "PNG"), 0),
    "png_1_bit_key": (encoded(GREY.convert("1"), "PNG", transparency=0), 0),
    "png_2_bits": (encoded(RGB.quantize(3), "PNG", bits=2), 0),
    "png_alpha": (encoded(RGBA, "PNG"), 0.51),
    "png_grey_alpha": (encoded(RGBA.convert("LA"), "PNG"), 0.51),
    "png_colour_key": (encoded(RGB, "PNG", transparency=RGB.getpixel((5, 5))), 0),
    "png_palette": (encoded(RGB.quantize(16), "PNG"), 0),
    "png_palette_clear": (encoded(palette_with_clear(RGB), "PNG", transparency=3), 0),
    "gif": (encoded(RGB, "GIF"), 0),
    "gif_grey_interlaced": (encoded(GREY, "GIF", interlace=True), 0),
    "gif_clear": (encoded(palette_with_clear(RGB), "GIF", transparency=3), 0),
    "gif_animated": (
        encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90), GREY.convert("RGB")], loop=0),
        0,
    ),
    "bmp": (encoded(RGB, "BMP"), 0),
    "bmp_grey": (encoded(GREY, "BMP"), 0),
    "bmp_palette": (encoded(RGB.quantize(9), "BMP"), 0),
    "bmp_32_unused": (encoded(RGBA, "BMP"), 0),
    "bmp_32_alpha": (bmp_with_alpha(RGBA), 0.51),
    "bmp_trailing_bytes": (encoded(RGB, "BMP") + b"tail", 0),
    "webp_lossy": (encoded(RGB, "WEBP", quality=80), 0),
    "webp_lossless": (encoded(RGB, "WEBP", lossless=True), 0),
    "webp_alpha": (encoded(RGBA, "WEBP", lossless=True, exact=True), 0.51),
    "webp_alpha_lossy": (encoded(RGBA, "WEBP", quality=80), 0.51),
}


@pytest.mark.parametrize("name", FILES)
def test_decode_shows_what_pillow_shows(name: str) -> None:
    contents, tolerance = FILES[name]
    want, got = expected(contents), decoded(contents)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance


def test_transparent_samples_do_have_hidden_colours() -> None:
    for name in (
        "png_alpha",
        "png_1_bit_key",
        "png_palette_clear",
        "png_colour_key",
        "gif_clear",
        "webp_alpha",
        "bmp_32_alpha",
    ):
        with Image.open(io.BytesIO(FILES[name][0])) as image:
            hidden = np.asarray(image.convert("RGBA"))[..., :3]
        assert np.abs(hidden - expected(FILES[name][0])).max() > 20, name


def test_16_bit_png_keeps_the_upper_byte() -> None:
    rng = np.random.default_rng(1)
    for colour, channels in ((0, 1), (2, 3)):
        array = rng.integers(0, 1 << 16, (9, 11, channels), np.uint16)
        assert np.array_equal(decoded(png16(array, colour)), np.broadcast_to(array >> 8, (9, 11, 3)))


def test_top_down_bmp() -> None:
    contents = FILES["bmp"][0]
    flipped = contents[:22] + struct.pack("<i", -43) + contents[26:]
    assert np.array_equal(decoded(flipped), decoded(contents)[::-1])


def test_gif_frame_smaller_than_its_canvas_lies_on_white() -> None:
    contents = bytearray(FILES["gif"][0])
    frame = contents.index(b"\x2c\0\0\0\0" + SIDES)
    contents[6:10] = struct.pack("<HH", 80, 60)
    contents[frame + 1 : frame + 5] = struct.pack("<HH", 10, 5)
    got = decoded(bytes(contents))
    assert got.shape == (60, 80, 3)
    assert np.array_equal(got[5:48, 10:71], decoded(FILES["gif"][0]))
    got[5:48, 10:71] = 255
    assert (got == 255).all()
    contents[6:10] = struct.pack("<HH", 4, 4)
    assert decoded(bytes(contents)).shape == (48, 71, 3)
    assert read_header(bytes(contents)).height == 48


def test_later_gif_frames_are_not_decoded() -> None:
    """TensorFlow alone unpacks every frame and makes the first as large as the largest."""
    contents, larger = FILES["gif"][0], encoded(draw_image(100, 80), "GIF")
    second = larger[larger.index(b"\x2c\0\0\0\0" + struct.pack("<HH", 100, 80)) :]
    assert tf.io.decode_gif(contents[:-1] + second).shape == (2, 80, 100, 3)
    assert np.array_equal(decoded(contents[:-1] + second), decoded(contents))
    assert np.array_equal(decoded(contents[:-1]), decoded(contents))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, image in (("JPEG", RGB), ("PNG", RGBA), ("WEBP", RGB)):
        for big in (False, True):
            exif.endian = ">" if big else "<"
            contents = encoded(image, kind, exif=exif.tobytes())
            want, got = expected(contents), decoded(contents)
            assert got.shape == want.shape == ((61, 43, 3) if orientation >= 5 else (43, 61, 3))
            assert np.abs(got - want).max() <= 0.51


HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
HUGE += struct.pack(">I", zlib.crc32(HUGE[12:])) + b"\0\0\0\x10IDAT"


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (HUGE, "more pixels than data.max_pixels allows; header: 50000 x 50000, at most 1000000 pixels"),
        (b"A caption in a file named image.jpg", "not a JPEG, PNG, GIF, BMP or WebP image"),
        (b"", "not a JPEG"),
        (FILES["jpeg"][0][:150], "truncated or broken image header"),
        (FILES["jpeg"][0][:-300], "Invalid JPEG data"),
        (FILES["png"][0][:-300], "PNG"),
        (FILES["gif"][0][:-300], "GIF"),
        (FILES["bmp"][0][:-300], "bmp"),
        (FILES["webp_lossy"][0][:-300], "WebP"),
        (encoded(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)]), "animated WebP"),
    ],
    ids=["huge", "text", "empty", "header cut off", "jpeg", "png", "gif", "bmp", "webp", "animated"],
)
def test_refusals(contents: bytes, reason: str) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?i){reason}"):
        in_graph(contents)


def test_refusals_outside_a_graph_and_in_a_data_set() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        images.decode(HUGE, LIMIT)
    assert caught.value.message == (
        "the header announces more pixels than data.max_pixels allows; header: 50000 x 50000, at most 1000000 pixels"
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        images.decode(b"no image", LIMIT)
    assert caught.value.message == "not a JPEG, PNG, GIF, BMP or WebP image"
    stream = tf.data.Dataset.from_tensors(HUGE).map(in_graph)
    with pytest.raises(tf.errors.InvalidArgumentError, match="50000 x 50000"):
        next(iter(stream))
    with pytest.raises(tf.errors.InvalidArgumentError, match="50000 x 50000"):
        images.decode_random_view(HUGE, LIMIT, (8, 8), (0.1, 1.0), True, [0, 1])


def test_the_limit_itself_is_allowed() -> None:
    contents = FILES["jpeg"][0]
    assert images.decode(contents, 61 * 43).shape == (43, 61, 3)
    assert in_graph.get_concrete_function().output_shapes.as_list() == [None, None, 3]
    with pytest.raises(tf.errors.InvalidArgumentError, match="61 x 43, at most 2622 pixels"):
        images.decode(contents, 61 * 43 - 1)
