"""Thumbnails and the contact sheet: no text from a caption or a file name is interpreted."""

import base64
import io
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vse_tf.artifacts.index import Item
from vse_tf.indexing.search import Hit
from vse_tf.pages.contact_sheet import contact_sheet, hits_picture
from vse_tf.pages.thumbnails import thumbnail

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


def opened(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


def test_a_thumbnail_is_small_upright_and_on_white(tmp_path):
    wide = Image.new("RGB", (800, 400), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    wide.save(tmp_path / "turned.jpg", exif=exif)
    assert opened(thumbnail(tmp_path / "turned.jpg", 100)).shape == (100, 50, 3)
    Image.new("RGBA", (10, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = opened(thumbnail(tmp_path / "clear.png", 100))
    assert clear.shape == (20, 10, 3)
    assert clear.min() > 250
    for mode in ("L", "P", "CMYK", "LA", "I;16"):
        path = tmp_path / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (30, 30)).save(path)
        assert opened(thumbnail(path, 20)).shape == (20, 20, 3)


def bomb(path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_what_is_not_an_image_is_refused(tmp_path):
    bomb(tmp_path / "bomb.png")
    (tmp_path / "text.jpg").write_text("not an image")
    Image.effect_noise((64, 64), 90).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    for name, kind in (("bomb.png", ValueError), ("text.jpg", ValueError), ("cut.jpg", OSError), ("gone", OSError)):
        with pytest.raises(kind):
            thumbnail(tmp_path / name)


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts, self.sources, self.handlers = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        self.handlers += [key for key, _ in attrs if key.startswith("on")]

    def handle_data(self, data):
        self.texts.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_shows_hits_and_runs_nothing(tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (600, 300), (0, 200, 0)).save(path)
    hits = [
        Hit(1, 4, 0.912, Item(EVIL, path=EVIL), path),
        Hit(2, 5, 0.5, Item("gone.jpg", path="gone.jpg"), tmp_path / "gone.jpg"),
        Hit(3, 6, 0.25, Item("7", caption=EVIL)),
    ]
    page = contact_sheet(EVIL, hits)
    found = read(page)
    assert "script" not in found.tags
    assert not found.handlers
    assert len(found.sources) == 1
    jpeg = base64.b64decode(found.sources[0].removeprefix("data:image/jpeg;base64,"))
    picture = opened(jpeg)
    assert picture.shape == (128, 256, 3)
    assert abs(picture.mean((0, 1)) - [0, 200, 0]).max() < 5
    text = "".join(found.texts)
    assert text.count(EVIL) == 4
    for expected in ("1 · 0.912", "2 · 0.500", "no picture"):
        assert expected in text
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)


def test_an_image_as_the_query_is_shown(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a&b.png")
    found = read(contact_sheet("a&b.png", [], image=tmp_path / "a&b.png"))
    assert len(found.sources) == 1
    assert "a&b.png" in "".join(found.texts)


def test_a_lone_surrogate_can_be_written():
    contact_sheet("\ud800", [Hit(1, 0, 1.0, Item("1", caption="\ud800"))]).encode()


def test_queries_and_their_hits_as_one_picture(tmp_path):
    Image.new("RGB", (60, 30), (0, 200, 0)).save(tmp_path / "image.png")
    hit = Hit(1, 4, 0.912, Item("a", path="image.png"), tmp_path / "image.png")
    gone = Hit(2, 5, 0.5, Item("b", path="gone"), tmp_path / "gone")
    results = [("two dogs", [hit, gone]), ("a cat", [gone])]
    for suffix, kind in ((".png", "PNG"), (".JPG", "JPEG")):
        picture = Image.open(io.BytesIO(hits_picture(results, suffix)))
        assert picture.format == kind
        pixels = np.asarray(picture.convert("RGB")).astype(int)
        green = (abs(pixels - [0, 200, 0]).max(axis=2) < 12).mean(axis=1)
        assert green[: len(green) // 2].max() > 0.05
        assert green[len(green) // 2 :].max() == 0
