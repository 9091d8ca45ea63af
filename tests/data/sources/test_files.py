import gzip
import json
import os
from pathlib import Path

import pytest

from vse_tf.data.sources import files
from vse_tf.data.sources.files import one_path, read_json, read_text, same_id, several_paths, short_repr
from vse_tf.errors import UserError


def test_text_comes_without_its_mark_and_bad_bytes_survive(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffgrün".encode() + b"\xfc")
    assert read_text(path) == "grün\udcfc"
    for bad in (tmp_path, tmp_path / "gone", Path("a\0b")):
        with pytest.raises(UserError, match=r"--data\.annotations"):
            read_text(bad)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("text", ["image,caption\na.jpg,grün\n", '{"bild": "猫と犬"}', "x\n"])
def test_each_unicode_encoding_is_read(tmp_path, encoding, text):
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt") == text
    (tmp_path / "a.gz").write_bytes(gzip.compress(text.encode(encoding)))
    assert read_text(tmp_path / "a.gz") == text


def test_broken_utf16_is_one_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("grün".encode("utf-16") + b"x")
    with pytest.raises(UserError, match=r"a\.txt: the file is UTF-16, but broken at byte 10; save it as UTF-8"):
        read_text(tmp_path / "a.txt")


def test_a_gzip_file_that_grows_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SMALL_BYTES", 2**16)
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(bytes(2**24)))
    with pytest.raises(UserError, match=r"it decompresses to more than \d+ bytes; decompress it with gunzip"):
        read_text(path)
    for damaged in (gzip.compress(b"image,caption")[:-9], b"\x1f\x8b" + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"a\.csv\.gz: broken gzip file: "):
            read_text(path)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"PK\x03\x04", "Excel workbook or ZIP"), (b"PAR1", "Parquet"), (b"BZh9", "bzip2")]
)
def test_other_kinds_of_file_are_named(tmp_path, start, kind):
    (tmp_path / "a.csv").write_bytes(start + bytes(20))
    with pytest.raises(UserError, match=rf"a\.csv: an? {kind}.*, not text"):
        read_text(tmp_path / "a.csv")


def test_ids_are_numbers_however_they_are_written():
    assert [same_id(value) for value in ("12", "0", "-3", "012", "x", 7, None, "9" * 40)] == [
        12, 0, -3, "012", "x", 7, None, "9" * 40
    ]  # fmt: skip


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
