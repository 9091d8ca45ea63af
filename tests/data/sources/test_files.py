import json
import os
from pathlib import Path

import pytest
from source_files import make_images

from vse_tf.data.sources import files
from vse_tf.data.sources.files import ImageFolder, one_path, read_json, read_text, several_paths, short_repr
from vse_tf.errors import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    make_images(tmp_path, "outside.jpg", "images2/near.jpg")
    return make_images(tmp_path / "images", "a.jpg", "sub/b.jpg", "sub/deep/Ünï.jpg")


def test_names_are_found_however_they_are_written(images):
    folder = ImageFolder(images)
    real = os.path.realpath(images)
    for name in ("a.jpg", "./a.jpg", "sub/../a.jpg", "sub//..//a.jpg", str(images / "a.jpg"), "../images/a.jpg"):
        assert folder.find(name) == f"{real}/a.jpg"
    assert folder.find("sub/deep/Ünï.jpg") == f"{real}/sub/deep/Ünï.jpg"
    assert folder.relative(folder.find("sub/./b.jpg")) == "sub/b.jpg"


@pytest.mark.parametrize(
    "name",
    [
        "../outside.jpg",
        "sub/../../outside.jpg",
        "/etc/hostname",
        "../images2/near.jpg",
        "../missing.jpg",
        "gone/../../x",
    ],
)
def test_paths_that_lead_outside(images, name):
    with pytest.raises(ValueError, match=r"^path outside the image folder: "):
        ImageFolder(images).find(name)


def test_links_may_lead_anywhere_inside_only(images, tmp_path):
    (images / "inner.jpg").symlink_to("sub/b.jpg")
    (images / "outer.jpg").symlink_to(tmp_path / "outside.jpg")
    (images / "broken.jpg").symlink_to("nothing.jpg")
    (images / "loop.jpg").symlink_to("loop.jpg")
    (images / "folder").symlink_to(tmp_path / "images2")
    (tmp_path / "door").symlink_to(images)
    for root in (images, tmp_path / "door"):
        folder = ImageFolder(root)
        assert folder.find("inner.jpg") == folder.find("sub/b.jpg")
        for name in ("outer.jpg", "folder/near.jpg"):
            with pytest.raises(ValueError, match=r"^path outside the image folder: "):
                folder.find(name)
        for name in ("broken.jpg", "loop.jpg"):
            with pytest.raises(ValueError, match=r"^missing image: "):
                folder.find(name)


@pytest.mark.parametrize("name", ["gone.jpg", "sub/gone.jpg", "gone/a.jpg", "a.jpg/b.jpg", "x" * 5000])
def test_missing(images, name):
    with pytest.raises(ValueError, match=r"^missing image: "):
        ImageFolder(images).find(name)


@pytest.mark.parametrize("name", ["", "  ", ".", "..", "sub", "sub/", "a\0.jpg", "\ud800.jpg"])
def test_what_is_no_image_path(images, name):
    with pytest.raises(ValueError, match=r"^bad image path: ") as info:
        ImageFolder(images).find(name)
    str(info.value).encode()


def test_each_folder_is_listed_once_and_no_plain_file_asked_for(images, monkeypatch):
    folder = ImageFolder(images)
    listed: list[str] = []
    asked: list[str] = []
    scandir, stat = os.scandir, os.stat

    def spy_scandir(path):
        listed.append(path)
        return scandir(path)

    def spy_stat(path, **options):
        asked.append(path)
        return stat(path, **options)

    monkeypatch.setattr(os, "scandir", spy_scandir)
    monkeypatch.setattr(os, "stat", spy_stat)
    for _ in range(3):
        for name in ("a.jpg", "sub/b.jpg"):
            folder.find(name)
    assert sorted(listed) == sorted(os.path.realpath(p) for p in (images, images / "sub"))
    assert asked == []


def test_a_name_that_the_listing_spells_otherwise_is_asked_for(images, monkeypatch):
    folder = ImageFolder(images)
    monkeypatch.setattr(folder, "_listing", lambda _: {})
    assert folder.find("a.jpg") == os.path.realpath(images / "a.jpg")


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"no such folder; .*--data\.images"):
        ImageFolder(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        ImageFolder(tmp_path / "file")


def test_text_comes_without_its_mark_and_bad_bytes_survive(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffgrün".encode() + b"\xfc")
    assert read_text(path) == "grün\udcfc"
    path.write_text("grün", encoding="utf-16")
    with pytest.raises(UserError, match="UTF-16"):
        read_text(path)
    for bad in (tmp_path, tmp_path / "gone", Path("a\0b")):
        with pytest.raises(UserError, match=r"--data\.annotations"):
            read_text(bad)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "line 1, column 1: broken JSON: the file is empty"),
        (b'{"a":\n [1,\n 2}', "line 3, column 3: broken JSON"),
        (b'{"a":\n "gr\xfcn"}', "line 2: not UTF-8 .byte 0xfc."),
        (b"[" * 100_000, "broken JSON"),
        (b"1" * 5000, "broken JSON"),
    ],
)
def test_broken_json(tmp_path, contents, message):
    path = tmp_path / "a.json"
    path.write_bytes(contents)
    with pytest.raises(UserError, match=message):
        read_json(path)


def test_good_json(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("\ufeff" + json.dumps({"ü": ["\ud83d"]}), encoding="utf-8")
    assert read_json(path) == {"ü": ["\ud83d"]}


def test_paths_of_a_setting():
    assert several_paths(["a", "b"], "data.images", "folder") == [Path("a"), Path("b")]
    assert one_path("~", "data.images", "folder") == Path.home()
    nothings: list[list[str] | str | None] = [None, [], ""]
    for nothing in nothings:
        with pytest.raises(UserError, match=r"no folder given; name it with --data\.images"):
            several_paths(nothing, "data.images", "folder")
    with pytest.raises(UserError, match=r"--data\.images names 2 paths"):
        one_path(["a", "b"], "data.images", "folder")


def test_foreign_values_are_shown_short_and_printable():
    for value in ("\ud800\n\x1b[31m", "x" * 1000, ["a"] * 1000, {"\udcff": "\u2028"}):
        text = short_repr(value)
        assert len(text) <= 120
        assert text.isprintable()
        text.encode()


@pytest.mark.parametrize("read", [files.read_text, files.read_json, lambda path: files.read_array(path, str(path))])
def test_pipes_devices_and_looping_links_are_one_line(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    wanted = {"pipe": "a pipe", "device": "a device", "loop": "symbolic links", "folder": "a folder", "gone": "No such"}
    for name, reason in wanted.items():
        with pytest.raises(UserError, match=rf"{name}: .*{reason}"):
            read(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"id": ' + "9" * 5000 + "}"])
def test_deep_nesting_and_long_numbers_are_broken_json(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="broken JSON"):
        files.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("shape", ["(-1,)", "(-2, -3)", "(1000000000000,)", "(True,)", "(2**63,)"])
def test_an_array_whose_header_lies_is_one_line(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    (tmp_path / "a.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"1234"
    )
    with pytest.raises(UserError, match=r"a\.npy: not an \.npy file of plain numbers"):
        files.read_array(tmp_path / "a.npy", str(tmp_path / "a.npy"))
