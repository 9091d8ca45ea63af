import os
import subprocess
import sys
from pathlib import Path

import pytest

from vse_tf.cache_size import GB, BoundedCache
from vse_tf.errors import UserError

MB = 10**6


def entry(folder, name, size, age):
    path = folder / "features" / "backbone" / name
    path.mkdir(parents=True)
    (path / "centre-000000000.npy").write_bytes(bytes(size))
    (path / ".last_use").touch()
    os.utime(path / ".last_use", (10**9 - age, 10**9 - age))
    return path


def test_the_least_recently_used_makes_room(tmp_path, capsys):
    old, older, new = (entry(tmp_path, name, 4 * MB, age) for name, age in (("a", 20), ("b", 30), ("c", 10)))
    cache = BoundedCache(tmp_path, 0.015)
    cache.make_room(3 * MB, "the features of train")
    assert old.exists()
    assert older.exists()
    cache.make_room(4 * MB, "the features of train")
    assert not older.exists()
    assert capsys.readouterr().out.startswith(f"{older}: removed (0.004 GB, least recently used")
    assert old.exists()
    cache.claim(old)
    cache.make_room(8 * MB, "the features of train")
    assert old.exists()
    assert not new.exists()


def test_results_and_data_sets_count_too(tmp_path):
    entry(tmp_path, "a", 2 * MB, 1)
    verified = tmp_path / "verify" / "images.json"
    verified.parent.mkdir()
    verified.write_bytes(bytes(MB))
    images = tmp_path / "tfds" / "coco_captions" / "2014" / "1.1.0"
    images.mkdir(parents=True)
    (images / "00000000.jpg").write_bytes(bytes(3 * MB))
    cache = BoundedCache(tmp_path, 0.1)
    assert cache.used() == 6 * MB
    cache.make_room(100 * MB, "the features of train")
    assert cache.used() == 0


def test_what_does_not_fit_is_refused_and_removes_nothing(tmp_path):
    existing = entry(tmp_path, "a", MB, 1)
    with pytest.raises(UserError, match=r"train take 12\.0 GB.* 10\.0 GB; --data\.cache_size 13\.2 allows it"):
        BoundedCache(tmp_path, 10).make_room(12 * GB, "the features of train")
    assert existing.exists()


def test_what_a_running_process_uses_stays(tmp_path):
    used = entry(tmp_path, "a", 2 * MB, 1)
    program = (
        "from pathlib import Path; from vse_tf.cache_size import BoundedCache; "
        f"BoundedCache(Path({str(tmp_path)!r})).claim(Path({str(used)!r})); print('claimed', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "claimed\n"
        with pytest.raises(UserError, match="running processes use the rest"):
            BoundedCache(tmp_path, 0.003).make_room(2 * MB, "the features of train")
        assert used.exists()
        # Without the marks of the claim.
        assert BoundedCache(tmp_path, 0.003).available() == pytest.approx(10**6, abs=100)
        process.kill()
    BoundedCache(tmp_path, 0.003).make_room(2 * MB, "the features of train")
    assert not used.exists()
    assert BoundedCache(tmp_path, 0.003).available() == 3 * 10**6


def test_the_size_is_chosen_once_and_printed(tmp_path, capsys, monkeypatch):
    free = [40 * GB]
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": free[0]}))
    folder = tmp_path / "not" / "yet"
    assert BoundedCache(folder).limit() == 10 * GB
    assert "may take 10.0 GB, a quarter of the free space" in capsys.readouterr().out
    free[0] = GB
    assert BoundedCache(folder).limit() == 10 * GB
    assert BoundedCache(folder, 3).limit() == 3 * GB
    assert capsys.readouterr().out == ""


def test_a_cache_that_is_read_only_is_read(tmp_path):
    (tmp_path / "file").touch()
    BoundedCache(tmp_path / "file").claim(Path(tmp_path, "file", "features", "a", "b"))
