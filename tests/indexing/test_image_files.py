"""Content decides which files of a folder are images; the others are listed or counted."""

import shlex

import pytest
from PIL import Image

from vse_tf.data.records import Problem
from vse_tf.indexing.image_files import OTHER_SUFFIXES, SUFFIXES, refused_file
from vse_tf.indexing.items import Item, image_items
from vse_tf.preprocessing import photo_formats
from vse_tf.preprocessing.image_headers import format_of

HEIC, AVIF = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"\0\0\0\x1cftypavif\0\0\0\0"


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my images"
    folder.mkdir()
    for name in ("a.jpg", "b.png", "c.gif", "d.bmp", "e.webp"):
        Image.new("RGB", (8, 6), "red").save(folder / name)
    return folder


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG_large", ".tif", ".heic", ".txt", ""])
def test_a_readable_image_is_embedded_whatever_its_suffix(folder, suffix):
    for path in list(folder.iterdir()):
        path.rename(folder / f"{path.stem}{suffix}")
    assert all(isinstance(item, Item) for item in image_items(folder))
    assert len(list(image_items(folder))) == 5


@pytest.mark.parametrize(
    ("name", "contents", "kind"),
    [
        ("a.psd", b"8BPS" + bytes(20), "Photoshop"),
        ("a.NEF", b"MM\0*" + bytes(20), "raw camera"),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n", "JPEG 2000"),
        ("a.jxl", b"\0\0\0\x0cJXL \r\n", "JPEG XL"),
    ],
)
def test_an_image_that_is_not_read_is_listed_with_a_command(folder, name, contents, kind):
    (folder / name).write_bytes(contents)
    (problem,) = [item for item in image_items(folder) if isinstance(item, Problem)]
    assert problem.where == str(folder / name)
    assert problem.what.startswith(f"a {kind} image, which is not read; convert it: ")
    program, source, target = shlex.split(problem.what.split("convert it: ")[1])
    assert (program, source) == ("magick", str(folder / name))
    assert target.startswith(str(folder)) and target.endswith((".png", ".jpg"))


PHOTOS = [
    ("IMG_1.HEIC", HEIC, "HEIC"),
    ("no suffix", HEIC, "HEIC"),
    ("a.avif", AVIF, "AVIF"),
    ("scan.tif", b"II*\0" + bytes(20), "TIFF"),
    ("scan", b"MM\0*" + bytes(20), "TIFF"),
]


@pytest.mark.parametrize(("name", "contents", "kind"), PHOTOS)
def test_a_photo_is_embedded_with_the_extra_only(folder, name, contents, kind, monkeypatch):
    (folder / name).write_bytes(contents)
    monkeypatch.setattr(photo_formats, "find_spec", lambda name: object())
    assert name in [item.id for item in image_items(folder) if isinstance(item, Item)]
    monkeypatch.setattr(photo_formats, "find_spec", lambda name: None)
    (problem,) = [item for item in image_items(folder) if isinstance(item, Problem)]
    message, _, command = problem.what.partition("convert it: ")
    assert message == f"a {kind} image, which is not read; pip install 'vse_tf[photos]' reads it, or "
    assert shlex.split(command)[:2] == ["magick", str(folder / name)]


def test_other_files_are_counted_and_broken_ones_listed(folder):
    for name in ("notes.txt", "more.txt", "captions.json", "LICENSE", "movie.mp4", "empty", ".hidden"):
        (folder / name).write_bytes(b"" if name == "empty" else b"\0\0\0\x18ftypisom" if "mp4" in name else b"words")
    (folder / "broken.jfif").write_bytes(b"words")
    items = image_items(folder)
    for _ in range(2):
        found = list(items)
        assert [item.where for item in found if isinstance(item, Problem)] == [str(folder / "broken.jfif")]
        assert sum(isinstance(item, Item) for item in found) == 5
        assert items.ignored == {".txt": 2, ".json": 1, "": 2, ".mp4": 1}


def test_one_image_is_no_list(folder):
    (folder / "a.jpg").rename(folder / "a.jfif")
    with pytest.raises(Exception, match="is one image; name its folder"):
        image_items(folder / "a.jfif")


def test_suffixes_are_in_lower_case_and_in_one_list():
    assert not set(SUFFIXES) & set(OTHER_SUFFIXES)
    assert all(suffix == suffix.lower() for suffix in SUFFIXES + OTHER_SUFFIXES)
    assert refused_file(__file__) == ""
    assert [format_of(start) for start in (b"BM", b"\x89PNG", b"", b"RIFF1234WEBP")] == ["bmp", "", "", "webp"]
