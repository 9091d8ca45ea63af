import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vse_tf.data import verify as module
from vse_tf.data.verify import HEADER_BYTES, verify

LIMIT = 10_000


def picture(kind: str = "jpeg", size: tuple[int, int] = (20, 10), **options) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "images"
    folder.mkdir()
    contents = {
        "good.jpg": picture(),
        "good.png": picture("png"),
        "truncated.jpg": picture()[:-60],
        "header.jpg": picture()[:30],
        "text.jpg": b"this is a text file and no picture " * 20,
        "empty.jpg": b"",
        "large.png": picture("png", (101, 100)),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: str(folder / name) for name in [*contents, "gone.jpg"]}


def check(files: dict[str, str], how, cache: Path, limit: int = LIMIT) -> dict[str, str]:
    found = verify(list(files.values()), how, limit, cache, workers=2, progress=False)
    return {Path(path).name: reason for path, reason in found.items()}


def test_headers_find_what_headers_can_tell(files, tmp_path):
    found = check(files, "headers", tmp_path / "cache")
    assert set(found) == {"header.jpg", "text.jpg", "empty.jpg", "large.png", "gone.jpg"}
    assert "not a JPEG" in found["text.jpg"]
    assert found["empty.jpg"] == "empty file"
    assert found["large.png"] == "10100 pixels, more than data.max_pixels=10000"
    assert found["gone.jpg"] == "cannot be read: No such file or directory"


def test_decoding_finds_the_rest_with_the_same_words(files, tmp_path):
    headers = check(files, "headers", tmp_path / "a")
    found = check(files, "decode", tmp_path / "b")
    assert set(found) == {*headers, "truncated.jpg"}
    assert {name: found[name] for name in headers} == headers
    assert all("\n" not in reason and "{{" not in reason for reason in found.values())


def test_none_looks_at_nothing(files, tmp_path):
    assert check(files, "none", tmp_path / "cache") == {}
    assert check({}, "decode", tmp_path / "cache") == {}
    assert not (tmp_path / "cache").exists()


def test_a_frame_header_beyond_the_first_part_is_found(tmp_path):
    path = tmp_path / "notes.jpg"
    plain = picture()
    notes = b"\xff\xe4" + (60_002).to_bytes(2, "big") + bytes(60_000)
    path.write_bytes(plain[:2] + notes * 2 + plain[2:])
    assert path.stat().st_size > HEADER_BYTES
    assert verify([str(path)], "headers", LIMIT, tmp_path, progress=False) == {}
    assert verify([str(path)], "headers", 199, tmp_path, progress=False) == {
        str(path): "200 pixels, more than data.max_pixels=199"
    }


def test_no_more_than_the_first_part_of_a_large_file_is_read(tmp_path, monkeypatch):
    path = tmp_path / "large.png"
    path.write_bytes(picture("png", (400, 400), compress_level=0))
    read: list[int] = []

    class Spy(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(module, "open_regular", Spy)
    assert verify([str(path)], "headers", 10**6, tmp_path / "cache", progress=False) == {}
    assert read == [HEADER_BYTES]


@pytest.fixture
def looked(monkeypatch) -> list[str]:
    """Names of the files whose contents were read, in any check."""
    names: list[str] = []
    original = module._check_contents

    def spy(path, limit):
        names.append(Path(path).name)
        return original(path, limit)

    monkeypatch.setattr(module, "_check_contents", spy)
    return names


def test_a_result_is_kept_until_the_file_changes(files, tmp_path, looked):
    first = check(files, "headers", tmp_path)
    assert sorted(looked) == sorted(files)
    looked.clear()
    assert check(files, "headers", tmp_path) == first
    assert looked == ["gone.jpg"]
    looked.clear()
    Path(files["text.jpg"]).write_bytes(picture())
    os.utime(files["good.jpg"], ns=(5, 5))
    Path(files["gone.jpg"]).write_bytes(picture())
    found = check(files, "headers", tmp_path)
    assert sorted(looked) == ["gone.jpg", "good.jpg", "text.jpg"]
    assert set(found) == set(first) - {"text.jpg", "gone.jpg"}


def test_decode_results_serve_for_headers_but_not_the_reverse(files, tmp_path, looked):
    del files["gone.jpg"]
    check(files, "headers", tmp_path)
    looked.clear()
    decoded = check(files, "decode", tmp_path)
    # What its header condemned stays condemned.
    assert sorted(looked) == ["good.jpg", "good.png", "truncated.jpg"]
    looked.clear()
    assert check(files, "decode", tmp_path) == decoded
    assert check(files, "headers", tmp_path) == decoded
    assert looked == []


def test_another_limit_decodes_only_newly_allowed_images(files, tmp_path, looked):
    del files["gone.jpg"]
    check(files, "decode", tmp_path)
    looked.clear()
    assert "large.png" not in check(files, "headers", tmp_path, 10**6)
    assert set(check(files, "headers", tmp_path, 1)) == set(files)
    assert looked == []
    assert "large.png" not in check(files, "decode", tmp_path, 10**6)
    assert looked == ["large.png"]


def test_sets_that_share_a_folder_keep_each_others_results(files, tmp_path, looked):
    del files["gone.jpg"]
    names = sorted(files)
    check({name: files[name] for name in names[:3]}, "headers", tmp_path)
    check({name: files[name] for name in names[3:]}, "headers", tmp_path)
    looked.clear()
    check(files, "headers", tmp_path)
    assert looked == []


def test_a_disk_that_fails_once_condemns_nothing_for_ever(files, tmp_path, monkeypatch):
    class Failing(io.FileIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    path = files["good.jpg"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "open_regular", Failing)
        found = verify([path], "headers", LIMIT, tmp_path, progress=False)
    assert found == {path: "cannot be read: Input/output error"}
    assert verify([path], "headers", LIMIT, tmp_path, progress=False) == {}


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"rules": 1}', '{"rules": 1, "images": {"x": 5}}', '{"rules": 0}'])
def test_a_damaged_file_of_results_is_written_anew(files, tmp_path, looked, damage):
    first = check(files, "headers", tmp_path)
    (file,) = (tmp_path / "verify").iterdir()
    undamaged = json.loads(file.read_text())
    file.write_text(damage)
    looked.clear()
    assert check(files, "headers", tmp_path) == first
    assert len(looked) == len(files)
    assert json.loads(file.read_text()) == undamaged


def test_what_was_found_before_an_interruption_is_kept(files, tmp_path, monkeypatch):
    original = module.check_header

    def interrupted(path):
        if path.endswith("good.png"):
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(module, "check_header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(list(files.values()), "headers", LIMIT, tmp_path, workers=1, progress=False)
    (file,) = (tmp_path / "verify").iterdir()
    assert [Path(path).name for path in json.loads(file.read_text())["images"]] == ["good.jpg"]


def test_a_cache_that_cannot_be_written_stops_nothing(files, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="cannot be written") as warned:
        found = check(files, "headers", tmp_path / "cache")
    assert len(warned) == 1
    assert "text.jpg" in found


def test_progress_is_shown_only_when_asked_for_and_slow(files, tmp_path, capsys, monkeypatch):
    shown = []
    original = module.phase_if

    def spy(*arguments):
        shown.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "phase_if", spy)
    for progress in (True, False):
        verify(list(files.values()), "headers", LIMIT, tmp_path / str(progress), progress=progress)
    assert [(each[0], each[1]) for each in shown] == [(True, "checking images"), (False, "checking images")]
    assert "checking images" not in capsys.readouterr().err
