"""A lock between processes, held on an open file: it ends with its process. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import lock_descriptor


class BusyError(Exception):
    """Another process has the lock; the message names it: `another process (4711)`.

    Args:
        holder: its process id as it wrote it, "" if it has not yet.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"another process{holder and f' ({holder})'}")


class ProcessLock:
    """A lock between processes (and between objects of one process).

    The file remains after a release; only the lock on it counts. A forked child does not have the lock. On a file
    system without locks every process gets it.

    Args:
        path: the lock file, in a folder that exists; it is made if it is missing.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as run:
        ...     first, second = ProcessLock(Path(run, ".lock")), ProcessLock(Path(run, ".lock"))
        ...     first.acquire()
        ...     try:
        ...         second.acquire()
        ...     except BusyError as busy:
        ...         print(busy)
        ...     first.release()
        another process (...)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._handle: int | None = None

    def acquire(self, wait: bool = False) -> None:
        """Take the lock; does nothing if this object has it.

        Args:
            wait: wait until it is free.

        Raises:
            BusyError: another process or object has it, and `wait` is off.
            OSError: the file cannot be written, or is a link or no regular file.
        """
        if self._handle is not None:
            return
        # The folder may come from others: links are not followed, pipes not waited for, other files not truncated.
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
        """Release the lock."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
            _held.remove(self)


@contextlib.contextmanager
def process_lock(path: Path, does: str) -> Iterator[None]:
    """Hold a lock between processes; if another process has it, say so and wait.

    Args:
        path: the lock file.
        does: what the holder of the lock does, for the message.
    """
    lock = ProcessLock(path)
    try:
        lock.acquire()
    except BusyError as busy:
        print(f"{path.parent}: {busy} {does}; waiting for it", file=sys.stderr)
        lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()


def _lock(handle: int, wait: bool) -> bool:
    try:
        return lock_descriptor(handle, blocking=wait)
    except OSError:
        # A file system without locks.
        return True


_held: set[ProcessLock] = set()


def _close_copies() -> None:
    """In a forked child: close its copies, which would hold the locks after the parent's end."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
