"""One process at a time, by a lock on an open file: it goes with the process, however that ends. No TensorFlow."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from filelock import lock_descriptor


class BusyError(Exception):
    """Another process has the lock.

    Args:
        holder: its process id as it wrote it, "" where it has not yet.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"another process{holder and f' ({holder})'} has it")


class ProcessLock:
    """A lock between processes (and between objects of one process).

    The file stays; what counts is the lock on it. A child that this process forks does not have it. Where the file
    system has no locks, everybody gets it.

    Args:
        path: the lock file, in a folder that exists; it is made where it is missing.

    Example:
        >>> lock = ProcessLock(Path("runs/a/.lock"))
        >>> lock.acquire()
        >>> lock.release()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait: bool = False) -> None:
        """Take the lock; one that this object has stays taken.

        Args:
            wait: wait for it.

        Raises:
            BusyError: somebody else has it, and `wait` is off.
            OSError: the file cannot be written, or is something else than a file of this folder alone.
        """
        if self._handle is not None:
            return
        # The folder may be a stranger's: no link is followed, no pipe waited for, nothing truncated.
        flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
                raise OSError(errno.EINVAL, "not a file of its own", str(self.path))
            if _lock(handle, wait):
                os.ftruncate(handle, 0)
                os.write(handle, str(os.getpid()).encode())
            else:
                raise BusyError(os.read(handle, 20).decode("ascii", "replace").strip())
        except BaseException:
            os.close(handle)
            raise
        self._handle = handle
        _held.add(self)

    def release(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            _held.remove(self)


def _lock(handle: int, wait: bool) -> bool:
    try:
        return lock_descriptor(handle, blocking=wait)
    except OSError:
        # A file system without locks.
        return True


_held: set[ProcessLock] = set()


def _give_up() -> None:
    """In a forked child: close its copies, which would hold the locks beyond the parent's end."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_give_up)
