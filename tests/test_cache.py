import json
import os
from pathlib import Path

import pytest

from vse_tf.cache import cache_folder, cached_result, read_cached, write_cached
from vse_tf.config import DataSettings


def test_the_folder_is_the_setting_or_the_variable_or_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VSE_TF_CACHE", "~/there")
    assert cache_folder(DataSettings(cache_dir="here")) == Path("here")
    assert cache_folder(DataSettings(cache_dir="~/here")) == tmp_path / "here"
    assert cache_folder(DataSettings()) == tmp_path / "there"
    monkeypatch.delenv("VSE_TF_CACHE")
    assert cache_folder(DataSettings()) == tmp_path / ".cache" / "vse_tf"


def test_a_user_without_a_home_has_a_folder_too(monkeypatch):
    def homeless(*_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("VSE_TF_CACHE", raising=False)
    assert cache_folder(DataSettings()).name == "vse_tf"


def test_values_are_read_back_and_damaged_files_are_ignored(tmp_path):
    path = tmp_path / "a.json"
    assert read_cached(path) is None
    write_cached(path, {"a": ["\udcff", 1]})
    assert read_cached(path) == {"a": ["\udcff", 1]}
    for damage in (b"", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(damage)
        assert read_cached(path) is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"cannot be written .*--data\.cache_dir"):
        write_cached(tmp_path / "file" / "a.json", 1)


def test_a_result_is_computed_again_only_for_another_file(tmp_path):
    file, folder = tmp_path / "data", tmp_path / "cache"
    file.write_text("one")
    calls: list[str] = []

    def compute() -> str:
        calls.append(file.read_text())
        return calls[-1]

    for _ in range(2):
        assert cached_result(folder, file, "text", compute) == "one"
    assert calls == ["one"]
    cached_result(folder, file, "other", compute)
    file.write_text("three")
    assert cached_result(folder, file, "text", compute) == "three"
    os.utime(file, ns=(1, 1))
    cached_result(folder, file, "text", compute)
    assert calls == ["one", "one", "three", "three"]
    for path in (folder / "verify").iterdir():
        path.write_text(json.dumps({"version": 0}))
    cached_result(folder, file, "text", compute)
    assert len(calls) == 5
    assert read_cached(folder / "verify" / "none") is None
