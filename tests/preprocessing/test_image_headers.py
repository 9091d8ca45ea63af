"""Headers: the Python rules against Pillow, the graph rules against the Python rules, and both against broken files."""

from __future__ import annotations

import io
import struct
import zlib
from bisect import bisect
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.bombs import jpeg_of_scans
from vse_tf.preprocessing import graph_headers
from vse_tf.preprocessing.graph_jpeg import plain_jpeg
from vse_tf.preprocessing.image_headers import read_header
from vse_tf.preprocessing.image_limits import COUNTED, FORMATS, REASONS
from vse_tf.preprocessing.images import decode

STRING = [tf.TensorSpec([], tf.string)]
header_in_graph = tf.function(graph_headers.read_graph_header, input_signature=STRING)
layout_in_graph = tf.function(lambda contents: graph_headers.read_graph_header(contents).layout, input_signature=STRING)
decode_small = tf.function(lambda contents: decode(contents, 20_000), input_signature=STRING)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_block(
    value: int = 6, order: str = "<", kind: int = 3, count: int = 1, entries: int = 1, first: int = 8
) -> bytes:
    """A TIFF block with one directory: other entries first, the orientation last."""
    mark = b"II\x2a\0" if order == "<" else b"MM\0\x2a"
    other = b"".join(struct.pack(order + "HHII", 0x0100 + i, 4, 1, 7) for i in range(entries - 1))
    entry = struct.pack(order + "HHI", 0x0112, kind, count) + struct.pack(
        order + ("HH" if kind == 3 else "I"), *([value, 0] if kind == 3 else [value])
    )
    return mark + struct.pack(order + "I", first) + struct.pack(order + "H", entries) + other + entry + b"\0\0\0\0"


def decode_in_python(contents: bytes) -> tf.Tensor:
    """With the header that Python reads."""
    return decode(contents, 20_000)


def decoded_or_none(function: Callable[[bytes], tf.Tensor], contents: bytes) -> np.ndarray | None:
    try:
        return function(contents).numpy()
    except tf.errors.InvalidArgumentError:
        return None


def jpeg_with(segments: bytes) -> bytes:
    return JPEG[:2] + segments + JPEG[2:]


def app1(block: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(block) + 8) + b"Exif\0\0" + block


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_announcing(width: int, height: int) -> bytes:
    ihdr = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + ihdr + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


rng = np.random.default_rng(5)
PHOTO = Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).resize((293, 23))
CLEAR = PHOTO.copy()
CLEAR.putalpha(Image.linear_gradient("L").resize(CLEAR.size))
JPEG = encoded(PHOTO, "JPEG")
FRAMES = [PHOTO.rotate(90 * i, expand=False) for i in range(3)]
EXIF = Image.Exif()
EXIF[0x0112] = 8

SAMPLES = {
    "jpeg": JPEG,
    "jpeg_progressive": encoded(PHOTO, "JPEG", progressive=True, exif=EXIF),
    "jpeg_grey": encoded(PHOTO.convert("L"), "JPEG", comment=b"\xff\xc0\xff\xff"),
    "jpeg_cmyk": encoded(PHOTO.convert("CMYK"), "JPEG", icc_profile=bytes(70_000)),
    "jpeg_big_endian": jpeg_with(app1(exif_block(3, ">", entries=9))),
    "jpeg_stray_bytes": JPEG[:20] + b"\0\0stray\xff\xff\xff\xd0" + app1(exif_block(5, kind=4)) + JPEG[20:],
    "jpeg_sequential_scans": jpeg_of_scans(293, 23, 4, 0xC0),
    "png": encoded(PHOTO, "PNG"),
    "png_palette": encoded(PHOTO.quantize(9), "PNG", transparency=3, icc_profile=bytes(900)),
    "png_exif": encoded(CLEAR, "PNG", exif=EXIF),
    "png_animated": encoded(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    "gif": encoded(PHOTO, "GIF"),
    "gif_animated": encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:], comment=bytes(600), loop=0),
    "bmp": encoded(PHOTO, "BMP"),
    "bmp_palette": encoded(PHOTO.quantize(9), "BMP"),
    "bmp_32": encoded(CLEAR, "BMP"),
    "webp_lossy": encoded(PHOTO, "WEBP"),
    "webp_lossless": encoded(PHOTO, "WEBP", lossless=True),
    "webp_alpha_exif": encoded(CLEAR, "WEBP", exif=EXIF),
}


def gif_with(*controls: bytes) -> bytes:
    """A GIF with graphic control extensions in front of its frame."""
    at = SAMPLES["gif"].index(b",\0\0\0\0")
    return SAMPLES["gif"][:at] + b"".join(b"\x21\xf9" + control for control in controls) + SAMPLES["gif"][at:]


def png_with(before: bytes = b"", behind: bytes = b"", end: bytes = b"") -> bytes:
    """A PNG with chunks in front of its pixels, behind them, and behind its end."""
    png = SAMPLES["png"]
    first, last = png.index(b"IDAT") - 4, png.index(b"IEND") - 4
    return png[:first] + before + png[first:last] + behind + png[last:] + end


def webp_with(*chunks: tuple[bytes, bytes], flags: int = 0x08) -> bytes:
    """A WebP with chunks between its header and its pixels."""
    webp = encoded(PHOTO, "WEBP", exif=EXIF)
    head = webp[:20] + bytes([flags]) + webp[21:30]
    pieces = [kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks]
    return head + b"".join(pieces) + webp[30 : webp.index(b"EXIF")]


def exif_chunk(value: int) -> bytes:
    return png_chunk(b"eXIf", exif_block(value))


_PLTE, _TRNS, _OTHER = (png_chunk(kind, bytes(6)) for kind in (b"PLTE", b"tRNS", b"tIME"))
_FRAME_END = JPEG.index(b"\xff\xc0") + 19
_SCANS = SAMPLES["jpeg_progressive"]
# What moves the parts, the orientation or the end, with the number that tells: the parts of a GIF and PNG as far as
# they do not depend on Pillow's compression, the orientation of others.
CASES: dict[str, tuple[bytes, object]] = {
    "gif, transparent": (gif_with(b"\4\1\0\0\7\0"), 7),
    "gif, index without the flag": (gif_with(b"\4\0\0\0\7\0"), -1),
    "gif, transparent, then not": (gif_with(b"\4\1\0\0\7\0", b"\4\0\0\0\7\0"), -1),
    "gif, two transparent": (gif_with(b"\4\1\0\0\7\0", b"\4\1\0\0\5\0"), 5),
    "gif, control of 3 bytes": (gif_with(b"\3\1\0\0\0"), -1),
    "gif, control of 5 bytes": (gif_with(b"\5\1\0\0\7\0\0"), -1),
    "png, palette and transparency": (png_with(_PLTE + _TRNS), (33, 51)),
    "png, two of each": (png_with(_PLTE + _TRNS + _PLTE + _TRNS), (33, 51)),
    "png, both behind the pixels": (png_with(behind=_PLTE + _TRNS), (0, 0)),
    "png, pixels in two places": (png_with(behind=_OTHER + png_chunk(b"IDAT", bytes(9)) + _PLTE), (0, 0)),
    "png, EXIF behind the pixels": (png_with(behind=exif_chunk(7)), 7),
    "png, two EXIF": (png_with(exif_chunk(5), exif_chunk(7)), 5),
    "png, an empty EXIF first": (png_with(png_chunk(b"eXIf", b""), exif_chunk(7)), 1),
    "png, EXIF behind the end": (png_with(end=exif_chunk(7)), 1),
    "webp, EXIF behind an odd chunk": (webp_with((b"ODD ", b"abc"), (b"EXIF", exif_block(7))), 7),
    "webp, EXIF without the flag": (webp_with((b"EXIF", exif_block(7)), flags=0), 1),
    "webp, two EXIF": (webp_with((b"EXIF", exif_block(5)), (b"EXIF", exif_block(7))), 5),
    "webp, flag without EXIF": (webp_with(), 1),
    "jpeg, EXIF behind the frame": (JPEG[:_FRAME_END] + app1(exif_block(7)) + JPEG[_FRAME_END:], 1),
    "jpeg, two EXIF": (jpeg_with(app1(exif_block(5)) + app1(exif_block(7))), 5),
    "jpeg, XMP first": (jpeg_with(b"\xff\xe1\0\x0bhttp://x\0" + app1(exif_block(7))), 7),
    "jpeg, APP2 like EXIF": (jpeg_with(app1(exif_block(7)).replace(b"\xff\xe1", b"\xff\xe2")), 1),
    "jpeg, an empty APP1 first": (jpeg_with(b"\xff\xe1\0\2" + app1(exif_block(7))), 7),
    "jpeg, scans and bytes behind the end": (_SCANS + bytes(50), len(_SCANS)),
    "jpeg, scans and a second end": (_SCANS + _SCANS, len(_SCANS)),
    "jpeg, scans without an end": (_SCANS[:-2], len(_SCANS) - 2),
}
ANIMATED_WEBP = encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:])
Outcome = tuple[object, ...]


def python_outcome(contents: bytes) -> Outcome:
    """All that the header says, or why it is refused."""
    try:
        header = read_header(contents)
    except ValueError as error:
        return (str(error),)
    return header.format, header.width, header.height, header.orientation, header.scans, header.end, header.parts


def graph_outcome(contents: bytes) -> Outcome:
    header = header_in_graph(contents)
    if code := int(header.code):
        return (f"{int(header.count)} {REASONS[code]}" if code in COUNTED else REASONS[code],)
    width, height, turned, scans, end = (
        int(number) for number in (header.width, header.height, header.orientation, header.scans, header.end)
    )
    # An end behind the file's means all of it.
    end, parts = min(end, len(contents)), tuple(map(int, header.parts))
    return FORMATS[int(header.format)], width, height, turned, scans, end, parts


@pytest.mark.parametrize("name", SAMPLES)
def test_header_is_what_pillow_reads(name: str) -> None:
    header = read_header(SAMPLES[name])
    with Image.open(io.BytesIO(SAMPLES[name])) as image:
        assert (header.width, header.height) == image.size
        assert header.format.upper() == image.format
        assert header.orientation == image.getexif().get(0x0112, 1)
    assert header.pixels == 293 * 23
    is_turned = "exif" in name or name in ("jpeg_progressive", "jpeg_big_endian", "jpeg_stray_bytes")
    assert is_turned == (header.orientation > 1)


@pytest.mark.parametrize("name", SAMPLES)
def test_both_give_the_decoder_the_same_layout(name: str) -> None:
    layout, contents = layout_in_graph(SAMPLES[name]).numpy(), SAMPLES[name]
    layout[2] = min(layout[2], len(contents))
    assert read_header(contents).layout == tuple(layout)
    np.testing.assert_array_equal(decode(contents, 20_000), decode_small(contents))


def test_parts_are_where_the_decoder_needs_them() -> None:
    png, gif = SAMPLES["png_palette"], SAMPLES["gif_animated"]
    palette, clear, start, end = read_header(png).parts
    assert [png[at + 4 : at + 8] for at in (palette, clear, start, end)] == [b"PLTE", b"tRNS", b"IDAT", b"IEND"]
    at, _, *rest = read_header(gif).parts
    assert (gif[at], rest) == (0x2C, [0, 0])
    palette = PHOTO.quantize(9)
    assert read_header(encoded(palette, "GIF", transparency=3)).parts[1] == 3
    assert read_header(encoded(palette, "GIF")).parts[1] == -1


@pytest.mark.parametrize("name", SAMPLES)
def test_graph_and_python_read_the_same_from_any_part_of_a_file(name: str) -> None:
    contents = SAMPLES[name]
    assert graph_outcome(contents) == python_outcome(contents)
    # The shortest part that is enough, and what is around it.
    enough = bisect(range(len(contents)), 0, key=lambda length: len(python_outcome(contents[:length])) > 1)
    for length in [*range(0, 60), *range(60, min(len(contents), 1000), 37), *range(enough - 12, enough + 2)]:
        assert graph_outcome(contents[:length]) == python_outcome(contents[:length]), length


def test_graph_header_has_pixels_and_orientation() -> None:
    header = header_in_graph(SAMPLES["jpeg_progressive"])
    assert (int(header.pixels), int(header.orientation)) == (293 * 23, 8)
    assert int(header_in_graph(b"no image").pixels) == -1
    assert int(header_in_graph(JPEG[:40]).pixels) == -1
    assert int(header_in_graph(png_announcing(50_000, 50_000)).pixels) == 2_500_000_000
    assert int(header_in_graph(b"").orientation) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_in_both_byte_orders_and_types(order: str, value: int) -> None:
    for kind in (3, 4):
        block = exif_block(value, order, kind, entries=4)
        prefixed = jpeg_with(b"\xff\xe0\0\x04ab" + app1(block))
        chunk = SAMPLES["png"][:33] + png_chunk(b"eXIf", block) + SAMPLES["png"][33:]
        webp = SAMPLES["webp_alpha_exif"]
        at = webp.index(b"EXIF")
        webp = webp[:at] + b"EXIF" + struct.pack("<I", len(block) + 6) + b"Exif\0\0" + block
        for contents in (prefixed, chunk, webp):
            assert graph_outcome(contents) == python_outcome(contents)
            assert graph_outcome(contents)[3] == value


MALFORMED = {
    "value 0": exif_block(0),
    "value 9": exif_block(9),
    "value 6 in the upper bytes": exif_block(6 << 16, kind=4),
    "two values": exif_block(6, count=2),
    "text": exif_block(6, kind=2),
    "directory points at itself": exif_block(6, first=4),
    "directory outside": exif_block(6, first=0xFFFFFFF0),
    "directory cut off": exif_block(6)[:-8],
    "entries beyond the end": exif_block(6, entries=1)[:8] + b"\xff\xff" + bytes(60),
    "unknown byte order": b"XX" + exif_block(6)[2:],
    "wrong magic": b"II\x2b\0" + exif_block(6)[4:],
    "mixed byte order": b"MM\0\x2a" + exif_block(6)[4:],
    "empty": b"",
    "two bytes": b"II",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_exif_is_orientation_1(name: str) -> None:
    contents = jpeg_with(app1(MALFORMED[name]))
    assert python_outcome(contents) == graph_outcome(contents)
    assert graph_outcome(contents)[:5] == ("jpeg", 293, 23, 1, 1)


def test_a_directory_with_a_huge_count_is_read_as_far_as_it_goes() -> None:
    block = exif_block(6)
    block = block[:8] + b"\xff\xff" + block[10:]
    contents = jpeg_with(app1(block))
    assert python_outcome(contents) == graph_outcome(contents)
    assert graph_outcome(contents)[:5] == ("jpeg", 293, 23, 6, 1)


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "not a JPEG"),
        (b"A caption, not an image.\n", "not a JPEG"),
        (b"\xff\xd8\xff", "truncated or broken"),
        (b"\xff\xd8" + b"\xff\xfe\0\x02" * 5000 + JPEG[2:], "truncated or broken"),
        (b"\xff\xd8\xff" + bytes(100_000), "truncated or broken"),
        (png_announcing(0, 7), "truncated or broken"),
        (SAMPLES["gif"][:13] + b"\x21\xfe" + b"\x01a" * 10_000, "truncated or broken"),
        (ANIMATED_WEBP, "animated WebP"),
        (encoded(PHOTO.convert("1"), "BMP"), "BMP of a kind"),
        (SAMPLES["bmp"][:30] + b"\x01" + SAMPLES["bmp"][31:], "BMP of a kind"),
    ],
    ids=["empty", "text", "start", "comments", "zeros", "no width", "gif comments", "animated", "1 bit", "compressed"],
)
def test_refusals_name_the_reason_in_one_line(contents: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        read_header(contents)
    assert "\n" not in str(caught.value)
    assert graph_outcome(contents) == (str(caught.value),)
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        decode_small(contents)


@pytest.mark.parametrize("name", CASES)
def test_both_find_the_parts_the_orientation_and_the_end_of(name: str) -> None:
    contents, expected = CASES[name]
    seen = python_outcome(contents)
    assert graph_outcome(contents) == seen
    _, _, _, turned, _, end, parts = seen
    found = end if "scans" in name else parts[1] if name[:3] == "gif" else parts[:2] if expected != turned else turned
    assert found == expected
    np.testing.assert_array_equal(decoded_or_none(decode_small, contents), decoded_or_none(decode_in_python, contents))


@st.composite
def damaged(draw: st.DrawFn, names: list[str]) -> bytes:
    """A file with bytes of its first part changed, cut out or put in, mostly where the structure is."""
    name = draw(st.sampled_from(names))
    contents = bytearray(SAMPLES[name] if name in SAMPLES else CASES[name][0])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(contents) - 1, draw(st.sampled_from([40, 120, 800])))))
        piece = draw(
            st.binary(max_size=3) | st.sampled_from([b"\xff", b"\0\0", b"\xff\xff\xff\xff", b"\xff\xe1", b"\x21\xf9"])
        )
        contents[at : at + draw(st.sampled_from([len(piece), len(piece), 0, 1]))] = piece
        contents = contents or bytearray(b"\0")
    return bytes(contents)


@settings(max_examples=300, deadline=None)
@given(damaged(sorted(SAMPLES) + sorted(CASES)))
def test_damaged_headers_give_the_same_answer_in_both_places(contents: bytes) -> None:
    assert graph_outcome(contents) == python_outcome(contents)


@settings(max_examples=150, deadline=None)
@given(damaged(sorted(SAMPLES)))
def test_damaged_files_have_the_size_of_their_header_or_fail(contents: bytes) -> None:
    try:
        pixels = decode_small(contents)
    except tf.errors.InvalidArgumentError:
        return
    header = read_header(contents)
    expected = (header.height, header.width) if header.orientation < 5 else (header.width, header.height)
    assert pixels.shape == (*expected, 3)


@settings(max_examples=150, deadline=None)
@given(damaged([name for name in SAMPLES if name.startswith("jpeg")]))
def test_jpeg_size_is_the_one_the_decoder_sees(contents: bytes) -> None:
    try:
        height, width, _ = tf.io.extract_jpeg_shape(contents).numpy()
    except tf.errors.InvalidArgumentError:
        return
    # Thousands of stray bytes are refused though the decoder would pass over them.
    seen = python_outcome(contents)
    assert seen[1:3] == (width, height) or len(seen) == 1


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\0\0WEBPVP8X"]),
    st.binary(max_size=200),
)
def test_noise_behind_a_magic_number(magic: bytes, noise: bytes) -> None:
    assert graph_outcome(magic + noise) == python_outcome(magic + noise)


def test_the_short_way_is_taken_by_plain_jpegs_alone():
    def taken(contents):
        plain, _, _, width, height = plain_jpeg(tf.constant(contents))
        return (int(width), int(height)) if plain else None

    short = {"jpeg", "jpeg_grey", "jpeg_sequential_scans"}
    for name in short:
        header = read_header(SAMPLES[name])
        assert taken(SAMPLES[name]) == (header.width, header.height)
    for name in sorted(set(SAMPLES) - short):
        assert taken(SAMPLES[name]) is None, name
    # The size is behind what the short way reads, behind more segments, or cut off.
    comment = b"\xff\xfe" + struct.pack(">H", 102) + bytes(100)
    assert taken(jpeg_with(comment)) == taken(JPEG)
    assert taken(jpeg_with(10 * comment)) is None
    assert taken(jpeg_with(17 * b"\xff\xfe\0\x02")) is None
    assert all(taken(JPEG[:end]) is None for end in range(JPEG.index(b"\xff\xc0") + 9))
