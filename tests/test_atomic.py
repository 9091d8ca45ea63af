"""Files and folders are written completely or not at all, on a full disk too."""

import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vse_tf.atomic import atomic_file, atomic_folder, write_array, write_text
from vse_tf.errors import UserError


def write(path, text):
    with atomic_folder(path, "free some space and export again") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "model").write_text(text)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_and_is_replaced_at_once(tmp_path):
    write(tmp_path / "models" / "1", "first")
    (tmp_path / "models" / ".1.writing").mkdir()
    (tmp_path / "models" / ".1.writing" / "left over").touch()
    write(tmp_path / "models" / "1", "second")
    assert (tmp_path / "models" / "1" / "sub" / "model").read_text() == "second"
    assert names(tmp_path / "models") == ["1"]
    assert names(tmp_path / "models" / "1") == ["sub"]


def test_a_full_disk_leaves_the_old_folder_and_nothing_half(tmp_path, monkeypatch):
    write(tmp_path / "1", "first")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Writing is buffered: a full disk often shows only when the contents are handed over.
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"1: cannot be written: No space left on device; free some space"):
        write(tmp_path / "1", "second")
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "1" / "results.json", "{}")
    assert names(tmp_path) == ["1"]
    assert (tmp_path / "1" / "sub" / "model").read_text() == "first"
    assert names(tmp_path / "1") == ["sub"]


def test_a_limit_of_the_system_is_a_full_disk_too(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"1: cannot be written: File too large"):
            write(tmp_path / "1", "x" * 5000)
        with pytest.raises(OSError, match="too large"):
            write_text(tmp_path / "a.txt", "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_other_errors_pass_and_leave_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "1", "x") as folder:
        (folder / "half").touch()
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_killed_writer_leaves_the_old_folder(tmp_path):
    write(tmp_path / "1", "first")
    code = (
        "import os, signal, sys; from pathlib import Path; from vse_tf.atomic import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), 'x') as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "1")], check=False)
    assert killed.returncode < 0
    assert (tmp_path / "1" / "sub" / "model").read_text() == "first"
    write(tmp_path / "1", "second")
    assert names(tmp_path) == ["1"]


KILLED = (
    "import os, signal, sys; from pathlib import Path; from vse_tf.atomic import atomic_file\n"
    "with atomic_file(Path(sys.argv[1])) as file:\n"
    "    file.write(b'half'); file.flush(); print('half', flush=True); sys.stdin.read()"
)


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path, pipe = tmp_path / "ev.json", subprocess.PIPE
    command = [sys.executable, "-c", KILLED, str(path)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as writer:
        writer.stdout.readline()
        # One that is still writing is left alone.
        write_text(path, "first")
        assert len(names(tmp_path)) == 2
        writer.kill()
    (tmp_path / ".ev.json.0123.tmp").touch()
    (tmp_path / ".other.json.01234567.tmp").touch()
    write_text(path, "second")
    assert names(tmp_path) == [".ev.json.0123.tmp", ".other.json.01234567.tmp", "ev.json"]
    assert path.read_text() == "second"


def test_a_name_with_wildcards_removes_only_its_own(tmp_path):
    (tmp_path / ".a.json.01234567.tmp").touch()
    write_text(tmp_path / "[ab].json", "x")
    write_text(tmp_path / "*.json", "x")
    assert names(tmp_path) == ["*.json", ".a.json.01234567.tmp", "[ab].json"]


def test_two_writers_at_once_each_write_all(tmp_path):
    def write_often(text):
        for _ in range(50):
            write_text(tmp_path / "a", text)

    threads = [threading.Thread(target=write_often, args=[letter * 5000]) for letter in "ab"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            assert (tmp_path / "a").read_text() in ("a" * 5000, "b" * 5000)
    assert names(tmp_path) == ["a"]


def test_an_array_on_a_full_disk_is_the_systems_own_error(tmp_path):
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left on device"):
        write_array(file, np.zeros(100_000, np.float32))
    with atomic_file(tmp_path / "a.npy") as file:
        write_array(file, np.arange(6, dtype=np.float16).reshape(2, 3))
    assert np.load(tmp_path / "a.npy").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old ü")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old ü"
    assert list(path.parent.iterdir()) == [path]
