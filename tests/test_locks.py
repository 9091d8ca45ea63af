"""Locks between processes: who holds one, when it ends, and lock files that others made."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vse_tf import locks
from vse_tf.locks import BusyError, ProcessLock

pytestmark = pytest.mark.lowest

# Takes the lock, forks a child that lives on, says the child's number from there, and waits.
FORKS = (
    "import os, sys, time; from pathlib import Path; from vse_tf.locks import ProcessLock\n"
    "lock = ProcessLock(Path(sys.argv[1])); lock.acquire()\n"
    "if os.fork() == 0: print(os.getpid(), flush=True)\n"
    "time.sleep(600)"
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


def test_the_holder_is_named_and_may_take_it_twice(path):
    lock = ProcessLock(path)
    lock.acquire()
    lock.acquire()
    with pytest.raises(BusyError) as busy:
        ProcessLock(path).acquire()
    assert busy.value.holder == str(os.getpid())
    lock.release()
    lock.release()
    other = ProcessLock(path)
    other.acquire()
    other.release()


def test_waiting_ends_when_the_holder_gives_it_back(path):
    lock, other, got = ProcessLock(path), ProcessLock(path), threading.Event()
    lock.acquire()
    waiting = threading.Thread(target=lambda: (other.acquire(wait=True), got.set(), other.release()))
    waiting.start()
    assert not got.is_set()
    lock.release()
    waiting.join(timeout=60)
    assert got.is_set()


def test_a_forked_child_holds_nothing_after_its_parents_end(path):
    with subprocess.Popen([sys.executable, "-c", FORKS, str(path)], stdout=subprocess.PIPE, text=True) as process:
        child = int(process.stdout.readline())
        try:
            with pytest.raises(BusyError, match=str(process.pid)):
                ProcessLock(path).acquire()
            process.kill()
            process.wait()
            os.kill(child, 0)
            lock = ProcessLock(path)
            lock.acquire()
            lock.release()
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "pipe", "folder"])
def test_a_strangers_lock_file_is_neither_followed_nor_changed(tmp_path, path, kind):
    diary = tmp_path / "diary.txt"
    diary.write_text("mine")
    make = {
        "link": lambda: path.symlink_to(diary),
        "dangling link": lambda: path.symlink_to(tmp_path / "new"),
        "hard link": lambda: path.hardlink_to(diary),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises(OSError, match=r"symbolic links|not a file of its own|directory"):
        ProcessLock(path).acquire()
    assert diary.read_text() == "mine"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_everybody_gets_it_where_there_are_no_locks(path, monkeypatch, code):
    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks, "lock_descriptor", refuse)
    for lock in (ProcessLock(path), ProcessLock(path)):
        lock.acquire()
        assert Path(path).read_text() == str(os.getpid())
