"""Keeps the cache folder below its size by evicting the least recently used entries. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vse_tf.atomic import write_text
from vse_tf.errors import UserError
from vse_tf.files import read_json
from vse_tf.locks import BusyError, ProcessLock

GB = 10**9
SIZE = "size.json"
# How deep below the cache folder the files or folders lie that are removed as a whole.
DEPTHS = {"features": 2, "text_features": 2, "verify": 1, "tfds": 1, "parquet": 1, "indexes": 1}
DEPTHS |= {"remote": 1}
# A folder in which each file is an entry, at any depth; its modification time stands for its version, and the time of
# its last access is set by hand.
SHARDS = "shards"
_LOCK, _LAST_USE, _IN_USE = ".lock", ".last_use", ".in_use-"
_claims: dict[Path, ProcessLock] = {}


class BoundedCache:
    """A cache folder of limited size.

    Its entries are the features of one split, the images of one TensorFlow Data set, the index of one image folder, one
    file of results. An entry that a process has claimed is not removed before that process ends.

    Args:
        folder: the cache folder.
        cache_size: its largest size in GB. None: the size in its file `size.json`; the first process to need it writes
            there a quarter of the disk's free space.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     cache = BoundedCache(Path(folder), cache_size=1)
        ...     entry = Path(folder, "features", "backbone", "images")
        ...     cache.claim(entry)
        ...     cache.make_room(4_000, "the features")
        ...     cache.limit()
        1000000000
    """

    def __init__(self, folder: Path, cache_size: float | None = None) -> None:
        self.folder = folder
        self.cache_size = cache_size

    def claim(self, entry: Path) -> None:
        """Mark an entry as used now, and keep it until this process ends. A cache that is read-only stays as it is.

        Args:
            entry: its folder, which need not exist yet.
        """
        with contextlib.suppress(OSError), self._locked():
            entry.mkdir(parents=True, exist_ok=True)
            (entry / _LAST_USE).touch()
            if entry not in _claims or not list(entry.glob(f"{_IN_USE}*")):
                _in_use(entry)
                lock = ProcessLock(entry / f"{_IN_USE}{secrets.token_hex(8)}")
                lock.acquire()
                _claims[entry] = lock

    def make_room(self, needed: int, what: str) -> None:
        """Remove entries, those first that were used least recently, until the cache can take this many bytes.

        Args:
            needed: number of bytes.
            what: what takes them, for the message.

        Raises:
            UserError: they do not fit, even without everything that no process uses.
        """
        limit = self.limit()
        if needed > limit:
            raise UserError(
                f"data.cache_size: {what} take {needed / GB:.1f} GB, and {self.folder} may hold {limit / GB:.1f} GB; "
                f"--data.cache_size {needed / GB * 1.1:.1f} allows it"
            )
        excess = self.used() + needed - limit
        if excess <= 0:
            return
        with self._locked():
            for entry in sorted(self._entries(), key=self._last_use):
                if excess <= 0:
                    break
                if entry.is_dir() and _in_use(entry):
                    continue
                size = _size(entry)
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)
                freed = size - _size(entry)
                excess -= freed
                if freed:
                    print(f"{entry}: removed ({freed / GB:.2g} GB, least recently used; data.cache_size)")
        if excess > 0:
            raise UserError(
                f"data.cache_size: {what} take {needed / GB:.1f} GB, and running processes use the rest of the "
                f"{limit / GB:.1f} GB that {self.folder} may hold; --data.cache_size "
                f"{(limit + excess) / GB * 1.1:.1f} allows it"
            )

    def used(self) -> int:
        """Bytes of all entries."""
        return sum(_size(entry) for entry in self._entries())

    def available(self) -> int:
        """Bytes that this process may use: the largest size without what other processes have claimed."""
        available = self.limit()
        # Under the lock: asking whether a claim is held takes it for a moment, just when its owner may be making it.
        with contextlib.suppress(OSError), self._locked():
            others = (entry for entry in self._entries() if entry not in _claims and entry.is_dir() and _in_use(entry))
            available -= sum(map(_size, others))
        return available

    def limit(self) -> int:
        """The largest size in bytes; the first time for a folder it is chosen, written to it and printed."""
        if self.cache_size is not None:
            return int(self.cache_size * GB)
        file = self.folder / SIZE
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return int(read_json(file)["gigabytes"] * GB)
        free = (self.used() + shutil.disk_usage(_existing(self.folder)).free) // 4
        with contextlib.suppress(OSError):
            write_text(file, json.dumps({"gigabytes": round(free / GB, 1)}))
        print(f"{self.folder}: the cache may take {free / GB:.1f} GB, a quarter of the free space (data.cache_size)")
        return free

    def _entries(self) -> list[Path]:
        patterns = [f"{kind}{'/[!.]*' * depth}" for kind, depth in DEPTHS.items()]
        shards = [path for path in (self.folder / SHARDS).rglob("[!.]*") if path.is_file()]
        return [*(path for pattern in patterns for path in self.folder.glob(pattern)), *shards]

    def _last_use(self, entry: Path) -> float:
        with contextlib.suppress(OSError):
            if (self.folder / SHARDS) in entry.parents:
                return entry.stat().st_atime
        for path in (entry / _LAST_USE, entry):
            with contextlib.suppress(OSError):
                return path.stat().st_mtime
        return 0.0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = ProcessLock(self.folder / _LOCK)
        lock.acquire(wait=True)
        try:
            yield
        finally:
            lock.release()


def _in_use(entry: Path) -> bool:
    """Whether a process that still runs has claimed an entry; the marks of others are removed."""
    found = False
    for path in entry.glob(f"{_IN_USE}*"):
        lock = ProcessLock(path)
        try:
            lock.acquire()
        except BusyError:
            found = True
            continue
        except OSError:
            continue
        lock.release()
        path.unlink(missing_ok=True)
    return found


def _size(entry: Path) -> int:
    sizes = 0
    folders = [entry]
    while folders:
        path = folders.pop()
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                with os.scandir(path) as found:
                    for item in found:
                        if item.is_dir(follow_symlinks=False):
                            folders.append(Path(item.path))
                        else:
                            sizes += item.stat(follow_symlinks=False).st_size
            else:
                sizes += path.lstat().st_size
    return sizes


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
