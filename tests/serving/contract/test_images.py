"""Image files through a graph that decodes them: good ones, broken ones, and those that would fill the memory."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ask(server, *files):
    items = [{"b64": base64.b64encode(file).decode()} for file in files]
    return server.predict("photo", {"instances": items})


def bomb(width, height):
    """A PNG whose header announces more than its data hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(width * 3 + 1))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_images_are_decoded(server, kind):
    got = ask(server, encoded(Image.new("RGB", (40, 30), (200, 100, 50)), kind))
    assert got.status == 200
    np.testing.assert_allclose(got.json["predictions"], [[200, 100, 50]], atol=4)


def test_a_pixel_bomb_is_refused(server):
    for file in (bomb(60_000, 60_000), bomb(2_000, 1_000)):
        got = ask(server, file)
        assert got.status == 400
        assert "more pixels than" in got.error


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"this is no photo",
        encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG")[:900],
        encoded(Image.effect_noise((64, 64), 90).convert("RGB"))[:200],
        b"\xff\xd8\xff",
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "three bytes"],
)
def test_a_corrupt_image_is_the_requests_fault(server, file):
    got = ask(server, file)
    assert got.status == 400
    assert got.error
    assert ask(server, encoded(Image.new("RGB", (20, 20)))).status == 200


def test_one_corrupt_image_fails_its_own_request_only(server):
    good = encoded(Image.new("RGB", (20, 20), (9, 9, 9)))
    assert ask(server, good, b"broken", good).status == 400
    assert len(ask(server, good, good).json["predictions"]) == 2


def test_no_images(server):
    got = server.predict("photo", {"inputs": {"image_bytes": []}})
    assert (got.status, got.json) == (200, {"outputs": []})
