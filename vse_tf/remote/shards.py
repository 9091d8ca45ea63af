"""Remote shards: files in the cache folder that come when they are needed, or ahead of that.

The rest of the package sees local paths. A shard that the cache has evicted is not fetched again for one image: the
image's bytes are read from where the shard is.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import queue
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from vse_tf.addresses import HTTP, is_pattern, last_name, pattern_folder
from vse_tf.atomic import atomic_file
from vse_tf.cache import cache_folder
from vse_tf.cache_size import SHARDS, BoundedCache
from vse_tf.config import DataSettings
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular
from vse_tf.remote.filesystem import ChangedError, Version, download, listed, missing, read_range, version

# Shards that are fetched at a time, ahead of the one that is read.
PARALLEL = 3
# The share of the cache that shards fetched ahead may fill: more would push out one another.
AHEAD = 0.8
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
MOST_SHARDS = 1_000_000
_mirrors: dict[str, Mirror] = {}


class Mirror:
    """The shards below a remote folder, under the same names below a folder in the cache.

    Args:
        address: the remote folder.
        cache: the cache folder.

    Attributes:
        root: the folder in the cache.
        versions: the versions of the shards, by name.
    """

    def __init__(self, address: str, cache: BoundedCache) -> None:
        digest = hashlib.sha256(address.encode()).hexdigest()[:16]
        self.address = address
        self.cache = cache
        self.root = Path(os.path.realpath(cache.folder)) / SHARDS / f"{last_name(address)[:60]}-{digest}"
        self.versions: dict[str, Version] = {}
        # Those that are being fetched ahead: an image of one waits for it.
        self.coming: set[str] = set()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        _mirrors[f"{self.root}{os.sep}"] = self

    def version(self, name: str) -> Version:
        """The version of a shard when it was first looked at.

        Raises:
            UserError: there is no such shard.
        """
        if name not in self.versions:
            found = version(f"{self.address}/{name}")
            if found is None:
                raise missing(f"{self.address}/{name}")
            self.versions[name] = found
        return self.versions[name]

    def fetch(self, name: str) -> Path:
        """The file of a shard, which comes now unless it is there.

        Raises:
            UserError: it cannot be read, has changed since this command began, or exceeds the limit of the cache.
        """
        path = self.root / name
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            expected = self.version(name)
            if self._is_there(path, expected):
                os.utime(path, ns=(time.time_ns(), expected.mtime_ns))
                return path
            self.cache.make_room(expected.size or 0, f"the shard {self.address}/{name}")
            try:
                with file_errors(path, "written", "name another folder with --data.cache_dir"):
                    with atomic_file(path) as file:
                        download(f"{self.address}/{name}", expected, file)
                    os.utime(path, ns=(time.time_ns(), expected.mtime_ns))
            except ChangedError:
                raise UserError(
                    f"{self.address}/{name}: it has changed since this command began; repeat the command"
                ) from None
            return path

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes of a shard from where it is.

        Raises:
            OSError: it cannot be read, or has changed since this command began.
        """
        address = f"{self.address}/{name}"
        try:
            if name in self.coming:
                with open_regular(self.fetch(name)) as file:
                    return os.pread(file.fileno(), end - start, start)
            found = read_range(address, start, end)
            same = version(address) == self.version(name)
        except (UserError, ChangedError) as error:
            raise OSError(errno.EIO, str(error), address) from None
        if not same:
            raise OSError(errno.ESTALE, f"{address} has changed since this command began; repeat it", address)
        return found

    def _is_there(self, path: Path, expected: Version) -> bool:
        try:
            found = path.stat()
        except OSError:
            return False
        return found.st_mtime_ns == expected.mtime_ns and expected.size in (None, found.st_size)


def shards_at(address: str, suffix: str, settings: DataSettings) -> list[Path]:
    """Where the shards of an address will lie in the cache, in the order of their names. None is fetched.

    Args:
        address: a shard, a folder, or a pattern.
        suffix: of the shards in a folder, with its dot.
        settings: `cache_dir` and `cache_size` are read.

    Raises:
        UserError: there are none.
    """
    cache = BoundedCache(cache_folder(settings).absolute(), settings.cache_size)
    if is_pattern(address):
        folder = pattern_folder(address)
        mirror, wanted = Mirror(folder, cache), address.removeprefix(f"{folder}/")
        if not re.search("[*?]", wanted) and folder.partition("://")[0] in HTTP:
            names = _expanded(wanted)
        else:
            mirror.versions = listed(folder)
            names = [name for each in _expanded(wanted) for name in _matching(each, mirror.versions)]
    elif (found := version(address)) is not None:
        folder, _, name = address.rpartition("/")
        mirror, names = Mirror(folder, cache), [name]
        mirror.versions[name] = found
    else:
        mirror = Mirror(address, cache)
        mirror.versions = listed(address)
        if not mirror.versions:
            raise missing(address)
        shown = {name for name in mirror.versions if not any(part.startswith(".") for part in name.split("/"))}
        names = sorted(name for name in shown if name.endswith(suffix))
    if not names:
        raise UserError(f"data.annotations: {address}: no *{suffix} shards there; name them, their folder or a pattern")
    return [mirror.root / name for name in dict.fromkeys(names)]


def suffixes_at(address: str) -> set[str]:
    """The suffixes of the files in a remote folder."""
    return {Path(name).suffix for name in listed(address)}


def mirror_of(path: str | os.PathLike[str]) -> tuple[Mirror, str] | None:
    """The mirror that a path belongs to, and the shard's name in it; None of a local file."""
    if not _mirrors:
        return None
    text = os.fspath(path)
    return next(((mirror, text[len(root) :]) for root, mirror in _mirrors.items() if text.startswith(root)), None)


def remote_state(path: str) -> tuple[int, int] | None:
    """Size and modification time that a remote shard has in the cache, whether it is there or not; None if local."""
    found = mirror_of(path)
    if found is None:
        return None
    expected = found[0].version(found[1])
    if expected.size is None:
        return None if (here := found[0].fetch(found[1]).stat()) is None else (here.st_size, here.st_mtime_ns)
    return expected.size, expected.mtime_ns


def present(path: Path) -> Path:
    """The path; a remote shard is fetched unless it is in the cache."""
    found = mirror_of(path)
    return path if found is None else found[0].fetch(found[1])


def fetch_ahead(paths: Sequence[Path]) -> None:
    """Begin to fetch remote shards in the background, in this order, as many as the cache takes.

    Errors are left to whoever needs the shard.
    """
    waiting: queue.SimpleQueue[tuple[Mirror, str]] = queue.SimpleQueue()
    budget: float | None = None  # bytes
    for path in paths:
        if (found := mirror_of(path)) is None:
            continue
        mirror, name = found
        budget = AHEAD * mirror.cache.limit() if budget is None else budget
        budget -= mirror.version(name).size or 0
        if budget < 0:
            break
        mirror.coming.add(name)
        waiting.put(found)

    def work() -> None:
        while True:
            try:
                mirror, name = waiting.get_nowait()
            except queue.Empty:
                return
            with contextlib.suppress(UserError):
                mirror.fetch(name)
            mirror.coming.discard(name)

    for _ in range(min(PARALLEL, waiting.qsize())):
        # A daemon: a command that is done does not wait for what it no longer needs.
        threading.Thread(target=work, daemon=True, name="fetching shards").start()


def _expanded(pattern: str) -> list[str]:
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    first, last = int(found[1]), int(found[2])
    if last - first >= MOST_SHARDS:
        raise UserError(f"data.annotations: {pattern}: more than {MOST_SHARDS:,} shards")
    names = (f"{number:0{len(found[1])}}" for number in range(first, last + 1))
    return [name for each in names for name in _expanded(f"{pattern[: found.start()]}{each}{pattern[found.end() :]}")]


def _matching(pattern: str, names: dict[str, Version]) -> list[str]:
    if not re.search("[*?]", pattern):
        # One of a range: that it is missing is said when it is opened.
        return [pattern]
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", pattern)
    expression = re.compile("".join(parts.get(token) or re.escape(token) for token in tokens))
    return [name for name in names if expression.fullmatch(name)]
