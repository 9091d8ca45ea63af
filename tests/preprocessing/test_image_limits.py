"""What strangers send costs little or is refused, in Python and in the graph alike; what people send passes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.bombs import BOMBS, HARMLESS, jpeg_of_scans, segment
from tests.honest_images import HONEST, noisy_gif
from vse_tf.data.bad_images import BadImages
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.records import FileImages
from vse_tf.data.verify import verify
from vse_tf.pages.thumbnails import thumbnail
from vse_tf.preprocessing import graph_headers, image_limits
from vse_tf.preprocessing.graph_headers import read_graph_header
from vse_tf.preprocessing.image_checks import refusal
from vse_tf.preprocessing.image_headers import read_header
from vse_tf.preprocessing.images import decode, decode_random_view
from vse_tf.preprocessing.view import ImageView

LIMIT = 50_000_000
STRING = [tf.TensorSpec([], tf.string)]
refused = tf.function(lambda contents: refusal(contents, LIMIT), input_signature=STRING)
decoded = tf.function(lambda contents: decode(contents, LIMIT), input_signature=STRING)


def refused_in_python(contents: bytes) -> str:
    try:
        header = read_header(contents)
    except ValueError as error:
        return str(error)
    return image_limits.above_limit(header.width, header.height, header.scans, LIMIT)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_in_both_places_in_the_same_words(name: str) -> None:
    contents, words = BOMBS[name]
    assert words in refused_in_python(contents)
    assert refused(contents).numpy().decode() == refused_in_python(contents)


@pytest.mark.parametrize("name", HONEST)
def test_what_surrounds_the_pixels_changes_nothing(name: str) -> None:
    contents, plain = HONEST[name]
    assert refused_in_python(contents) == ""
    assert refused(contents).numpy() == b""
    np.testing.assert_array_equal(decoded(contents), decoded(plain))
    # With the header that Python reads.
    np.testing.assert_array_equal(decode(contents, LIMIT), decoded(plain))


PROBE = """
import json, sys, time
import tensorflow as tf

decode = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]

def memory(key):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(key))

found = {}
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        contents = tf.constant(file.read())
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before, start, reason = memory("VmRSS"), time.process_time(), ""
    try:
        decode(contents=contents)
    except tf.errors.InvalidArgumentError as error:
        reason = error.message
    found[path] = [time.process_time() - start, memory("VmHWM") - before, reason]
assert not [name for name in sys.modules if name.startswith("vse_tf")]
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak memory is read from Linux's /proc")
def test_no_file_costs_much_in_a_bare_tensorflow(tmp_path: Path) -> None:
    """Seconds of CPU time and megabytes; before, each bomb took many seconds, gigabytes or both."""
    module = tf.Module()
    signature = tf.function(lambda contents: {"pixels": decode(contents, LIMIT)}, input_signature=None)
    signature = signature.get_concrete_function(contents=tf.TensorSpec([], tf.string))
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=signature)
    files = {name: contents for name, (contents, _) in BOMBS.items()} | HARMLESS
    paths = {name: tmp_path / f"{number}.bin" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name])
    # The first file of every format pays for what TensorFlow does once.
    first = [tmp_path / f"first{number}" for number in range(3)]
    for path, name in zip(first, ("progressive", "png of texts", "gif animated"), strict=True):
        path.write_bytes(HONEST[name][0])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(tmp_path / "model"), *map(str, first), *map(str, paths.values())],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = {name: json.loads(done.stdout.splitlines()[-1])[str(path)] for name, path in paths.items()}
    for name, (_, words) in BOMBS.items():
        assert words in found[name][2], name
    for name, (seconds, megabytes, _) in found.items():
        assert seconds < 4, (name, seconds)
        assert megabytes < 200, (name, megabytes)


def test_the_limits_themselves_are_allowed() -> None:
    assert refused(jpeg_of_scans(100, 100, 64)).numpy() == b""
    assert refused(jpeg_of_scans(100, 100, 65)).numpy() == b"65 scans, at most 64"
    # 20 scans of 50 million pixels.
    assert refused(jpeg_of_scans(10_000, 5_000, 20)).numpy() == b""
    assert b"21 scans of 10000 x 5000 pixels" in refused(jpeg_of_scans(10_000, 5_000, 21)).numpy()


def test_nothing_behind_the_first_end_is_decoded() -> None:
    """An end inside a comment would end the counting, but not the decoding."""
    hidden = jpeg_of_scans(64, 64, 100, between=segment(0xFE, b"\xff\xd9"))
    header = read_header(hidden)
    assert header.scans == 1
    assert header.end == hidden.index(b"\xff\xd9") + 2 == int(read_graph_header(tf.constant(hidden)).end)
    with pytest.raises(tf.errors.InvalidArgumentError, match="jpeg"):
        decoded(hidden)
    with pytest.raises(tf.errors.InvalidArgumentError, match="jpeg"):
        decode_random_view(hidden, LIMIT, (8, 8), (0.5, 1.0), False, [0, 1])


def test_too_many_bytes_are_refused_in_both_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("image_headers", "graph_headers"):
        monkeypatch.setattr(f"vse_tf.preprocessing.{module}.MAX_BYTES", 5000)
    graph_headers._read.cache_clear()  # a trace holds the limits of its time
    contents = HONEST["optimised"][1].ljust(5001, b"\0")
    reason = read_graph_header(tf.constant(contents)).problem(LIMIT).numpy().decode()
    assert reason.startswith("5001 bytes, at most ")
    assert refused_in_python(contents) == reason
    assert refused_in_python(contents[:5000]) == ""
    graph_headers._read.cache_clear()


def test_a_gif_in_pieces_of_any_size_is_its_pixels() -> None:
    contents = noisy_gif(300)
    pixels = decoded(contents)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(contents)).convert("RGB")))
    # The same data in pieces of 1 byte, and of 255 and 3 in turn.
    at = contents.index(b",", 13 + 768) + 11
    data, place = b"", at
    while contents[place]:
        data += contents[place + 1 : place + 1 + contents[place]]
        place += 1 + contents[place]
    for sizes in ([1], [255, 3]):
        pieces, rest, turn = b"", data, 0
        while rest:
            piece, rest = rest[: sizes[turn % len(sizes)]], rest[sizes[turn % len(sizes)] :]
            pieces, turn = pieces + bytes([len(piece)]) + piece, turn + 1
        np.testing.assert_array_equal(decoded(contents[:at] + pieces + contents[place:]), pixels)


def test_headers_are_enough_to_find_bombs(tmp_path: Path) -> None:
    """The scans of a progressive JPEG lie all over the file, and texts may fill its first part."""
    files = {
        "bomb.jpg": jpeg_of_scans(100, 100, 70, between=segment(0xFE, bytes(2000))),
        "bomb.png": BOMBS["zTXt"][0],
        "wide.jpg": jpeg_of_scans(7000, 7000, 60),
        "phone.jpg": HONEST["phone"][0],
        "texts.png": HONEST["png of texts"][0],
    }
    for name, contents in files.items():
        (tmp_path / name).write_bytes(contents)
    for cached in range(2):
        found = verify([str(tmp_path / name) for name in files], "headers", LIMIT, tmp_path / "cache", progress=False)
        assert {Path(path).name: reason for path, reason in found.items()} == {
            "bomb.jpg": "70 scans, at most 64",
            "bomb.png": "1000 compressed texts and profiles, at most 64",
            "wide.jpg": "60 scans of 7000 x 7000 pixels, at most 1000000000 pixels in all",
        }, cached


def test_an_image_above_the_limit_on_bytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vse_tf.data.verify.MAX_BYTES", 5000)
    path = tmp_path / "image.jpg"
    path.write_bytes(HONEST["optimised"][1].ljust(5001, b"\0"))
    (reason,) = verify([str(path)], "decode", LIMIT, tmp_path, progress=False).values()
    assert reason.startswith("5001 bytes, at most ")


def test_embedding_reads_regular_files_up_to_the_limit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vse_tf.data.records.MAX_BYTES", 5000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_bytes(HONEST["optimised"][0])
    (tmp_path / "long").write_bytes(HONEST["optimised"][0].ljust(5001, b"\0"))
    (tmp_path / "bomb").write_bytes(BOMBS["progressive of 500 scans"][0][:4900])
    names = ["pipe", "good", "long", "bomb", "none"]
    bad = BadImages("skip", LIMIT)
    ((_, rows),) = ImageReader(ImageView((8, 8), max_pixels=LIMIT), 1).batches(
        FileImages([str(tmp_path / name) for name in names]), 8, bad
    )
    assert list(rows) == [1]
    assert {Path(path).name: problem.what for path, problem in bad.problems.items()} == {
        "pipe": "cannot be read: not a regular file but a pipe",
        "long": "cannot be read: 5001 bytes, more than the limit of 5000",
        "bomb": "undecodable: 450 scans, at most 64",
        "none": "missing image",
    }


@pytest.mark.parametrize("name", BOMBS)
def test_thumbnails_apply_the_same_limits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(BOMBS[name][0])
    with pytest.raises(ValueError) as caught:
        thumbnail(path, max_pixels=LIMIT)
    assert BOMBS[name][1] in str(caught.value)


def test_thumbnails_decode_nothing_behind_the_first_end(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(HARMLESS["end in a comment"])
    with pytest.raises((ValueError, OSError)):
        thumbnail(path)
    path.write_bytes(HONEST["phone"][0])
    assert Image.open(io.BytesIO(thumbnail(path))).size == (150, 100)
