import os

from vse_tf.data import records
from vse_tf.data.equal_files import equal_files
from vse_tf.data.records import FileImages


def write(folder, **contents):
    for name, text in contents.items():
        (folder / name).write_bytes(text)
    return {name: str(folder / name) for name in contents}


def equal(paths):
    return equal_files({split: FileImages(names) for split, names in paths.items()})


def test_equal_files_of_two_splits_are_found(tmp_path):
    big = b"x" * 10_000
    # Equal ends, other beginnings; equal sizes, other ends; and a file that is only equal in its own split.
    files = write(tmp_path, a=big, b=b"y" + big[1:], c=big[:-1] + b"y", d=b"z", e=b"z", f=big, g=b"")
    paths = {"train": [files[name] for name in "abde"], "val": [files[name] for name in "cf"], "test": [files["g"]]}
    assert equal(paths) == [[("train", files["a"]), ("val", files["f"])]]
    assert equal({"train": [*files.values()]}) == []


def test_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    files = write(tmp_path, a=b"1", b=b"22", c=b"33")
    opened = []
    open_regular = records.open_regular
    monkeypatch.setattr(records, "open_regular", lambda path, limit: opened.append(path) or open_regular(path, limit))
    assert equal({"train": [files["a"], files["b"]], "val": [files["c"]]}) == []
    assert sorted(opened) == [files["b"], files["c"]]


def test_files_that_cannot_be_read_are_left_out(tmp_path):
    files = write(tmp_path, a=b"1", b=b"1")
    os.mkfifo(tmp_path / "pipe")
    paths = {"train": [files["a"], str(tmp_path / "pipe")], "val": [files["b"], str(tmp_path / "gone")]}
    assert equal(paths) == [[("train", files["a"]), ("val", files["b"])]]
