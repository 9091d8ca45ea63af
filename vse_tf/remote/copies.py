"""Copies of remote files and folders in the cache folder, brought up to date whenever a command names them."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from vse_tf.addresses import is_address, last_name
from vse_tf.atomic import atomic_file, write_text
from vse_tf.cache import cache_folder
from vse_tf.cache_size import BoundedCache
from vse_tf.config import DataSettings
from vse_tf.display import Phase
from vse_tf.errors import UserError
from vse_tf.files import file_errors, read_json
from vse_tf.locks import ProcessLock
from vse_tf.remote.filesystem import ChangedError, Version, download, listed, missing, version

FOLDER = "remote"
_RECORD = ".versions.json"
MB = 10**6
# Downloads at a time: one request does not fill a network.
PARALLEL = 4
# How often a place that changes is looked at again before that is an error.
LOOKS = 5
# Of a run, what only its continuation needs.
RUN_SKIPS = ("logs/*", "*/optimizer.h5", ".lock")


def local_path(place: str | os.PathLike[str], settings: DataSettings | None = None, skip: Iterable[str] = ()) -> Path:
    """The path of a place: itself if it is local, or else that of its copy in the cache folder.

    Args:
        place: a path, or an address of a file or folder.
        settings: `cache_dir` and `cache_size` are read.
        skip: patterns of names in a folder that are not copied.

    Raises:
        UserError: there is nothing, it cannot be read, or it exceeds the limit of the cache.

    Example:
        >>> local_path("runs/shapes-convse-0")
        PosixPath('runs/shapes-convse-0')
    """
    if not is_address(place):
        return Path(place)
    found = version(place)
    return local_folder(place, settings, skip) if found is None else _local_file(place, found, settings)


def local_file(address: str, settings: DataSettings | None = None) -> Path:
    """The copy of a remote file; see `local_path`."""
    found = version(address)
    if found is None:
        raise missing(address)
    return _local_file(address, found, settings)


def local_folder(address: str, settings: DataSettings | None = None, skip: Iterable[str] = ()) -> Path:
    """The copy of a remote folder, with the files of one moment: see `local_path`.

    The folder is listed again after it was copied, and copied again where it has changed meanwhile.
    """
    folder = copy_folder(address, settings)
    if not bring(address, folder, skip=tuple(skip), cache=_cache(settings)):
        raise missing(address)
    return folder


def copy_folder(address: str, settings: DataSettings | None = None) -> Path:
    """The local folder for the copy of a remote one; it is not evicted from the cache while this process runs."""
    entry = _entry(address, _cache(settings))
    return entry / last_name(address)


def bring(
    address: str, folder: Path, skip: tuple[str, ...] = (), cache: BoundedCache | None = None, tidy: bool = True
) -> int:
    """Make a local folder the same as a remote one.

    Args:
        address: the remote folder.
        folder: the local one.
        skip: patterns of names that are left alone.
        cache: the cache that holds the local folder; other entries are evicted if its limit would be exceeded.
        tidy: remove files that are not in the remote folder.

    Returns:
        Number of files.

    Raises:
        UserError: it cannot be read or written, or changes again and again.
    """
    with file_errors(folder, "written"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = ProcessLock(folder.parent / f".{folder.name}.lock")
        lock.acquire(wait=True)
    try:
        for _ in range(LOOKS):
            there = _wanted(address, skip)
            try:
                _bring(address, folder, there, cache)
                if tidy:
                    _tidy(folder, there, skip)
            except ChangedError:
                continue
            if _wanted(address, skip) == there:
                return len(there)
    finally:
        lock.release()
    raise UserError(f"{address}: it changes while it is read; repeat the command when it is complete")


def _wanted(address: str, skip: tuple[str, ...]) -> dict[str, Version]:
    return {
        name: found
        for name, found in listed(address).items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
    }


def _bring(address: str, folder: Path, there: dict[str, Version], cache: BoundedCache | None) -> None:
    record = folder.parent / f".{folder.name}{_RECORD}"
    before = _read_record(record)
    stale = [name for name, found in there.items() if not _is_copy(folder / name, found, before.get(name))]
    size = sum(there[name].size or 0 for name in stale)
    if cache is not None and size:
        cache.make_room(size, f"the files of {address}")
    with file_errors(folder, "written"):
        if stale:
            with Phase(f"fetching {address}", max(1, size // MB), "MB") as phase, ThreadPoolExecutor(PARALLEL) as pool:
                fetch = partial(_fetch, address, folder, there)
                done = 0
                for count in pool.map(fetch, stale):
                    before_mb, done = done // MB, done + count
                    phase.update(done // MB - before_mb)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(record, json.dumps({name: [found.token, found.size] for name, found in there.items()}))


def _tidy(folder: Path, there: dict[str, Version], skip: tuple[str, ...]) -> None:
    with file_errors(folder, "written"):
        for path in list(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            wanted = name in there or any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
            if not wanted and not path.is_dir():
                path.unlink()


def _fetch(address: str, folder: Path, there: dict[str, Version], name: str) -> int:
    _write_copy(f"{address}/{name}", there[name], folder / name)
    return there[name].size or 0


def _write_copy(address: str, found: Version, path: Path) -> None:
    with file_errors(path, "written"):
        with atomic_file(path) as file:
            download(address, found, file)
        os.utime(path, ns=(found.mtime_ns, found.mtime_ns))


def _local_file(address: str, found: Version, settings: DataSettings | None) -> Path:
    cache = _cache(settings)
    entry = _entry(address, cache)
    path, record = entry / last_name(address), entry / _RECORD
    for _ in range(LOOKS):
        if _is_copy(path, found, _read_record(record).get(path.name)):
            return path
        cache.make_room(found.size or 0, address)
        try:
            _write_copy(address, found, path)
        except ChangedError:
            found = version(address) or found
            continue
        with file_errors(record, "written"):
            write_text(record, json.dumps({path.name: [found.token, found.size]}))
        return path
    raise UserError(f"{address}: it changes while it is read; repeat the command when it is complete")


def _is_copy(path: Path, found: Version, before: object) -> bool:
    """Whether a file is the copy of a version, as its record says and its size confirms."""
    with contextlib.suppress(OSError):
        return before == [found.token, found.size] and path.stat().st_size == (found.size or path.stat().st_size)
    return False


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _cache(settings: DataSettings | None) -> BoundedCache:
    settings = settings or DataSettings()
    return BoundedCache(cache_folder(settings).absolute(), settings.cache_size)


def _entry(address: str, cache: BoundedCache) -> Path:
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    entry = cache.folder / FOLDER / f"{last_name(address)[:60]}-{digest}"
    with file_errors(entry, "written", "name another folder with --data.cache_dir or $VSE_TF_CACHE"):
        entry.mkdir(parents=True, exist_ok=True)
    cache.claim(entry)
    return entry
