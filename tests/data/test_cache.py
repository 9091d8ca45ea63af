import json
import os
from pathlib import Path

import pytest

from vse_tf.config import DataSettings
from vse_tf.data import cache
from vse_tf.data.cache import cache_folder, keep, kept, remember


def test_the_folder_is_the_setting_then_the_variable_then_the_home(monkeypatch, tmp_path):
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


def test_kept_values_come_back_and_damage_is_as_nothing(tmp_path):
    path = tmp_path / "a.json"
    assert kept(path) is None
    keep(path, {"a": ["\udcff", 1]})
    assert kept(path) == {"a": ["\udcff", 1]}
    for damage in (b"", b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(damage)
        assert kept(path) is None


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match=r"cannot be written .*--data\.cache_dir"):
        keep(tmp_path / "file" / "a.json", 1)


def test_a_result_is_computed_again_only_for_another_file(tmp_path):
    file, folder = tmp_path / "data", tmp_path / "cache"
    file.write_text("one")
    calls: list[str] = []

    def compute() -> str:
        calls.append(file.read_text())
        return calls[-1]

    for _ in range(2):
        assert remember(folder, file, "text", compute) == "one"
    assert calls == ["one"]
    remember(folder, file, "other", compute)
    file.write_text("three")
    assert remember(folder, file, "text", compute) == "three"
    os.utime(file, ns=(1, 1))
    remember(folder, file, "text", compute)
    assert calls == ["one", "one", "three", "three"]
    for path in (folder / "verify").iterdir():
        path.write_text(json.dumps({"version": 0}))
    remember(folder, file, "text", compute)
    assert len(calls) == 5
    assert cache.kept(folder / "verify" / "none") is None
