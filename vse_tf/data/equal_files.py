"""Finds equal image files in different splits: what a model was trained on is no test of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vse_tf.files import open_regular, sha256_of

# Files that differ do so at their end, where the last of the pixels are.
END_BYTES = 4096
BLOCK = 256

_File = tuple[str, str]
_Key = TypeVar("_Key", bound=Hashable)


def equal_files(paths: Mapping[str, Sequence[str]], workers: int | None = None) -> list[list[tuple[str, str]]]:
    """Files of different splits that hold the same bytes.

    Only files of equal size are read, at first their ends, and only files of equal ends completely.

    Args:
        paths: the files of each split. Files that cannot be read are left out.
        workers: number of parallel reads (default: number of CPU cores).

    Returns:
        Groups of equal files, each as split and path, that are in more than one split.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name, contents in {"a.jpg": "1", "b.jpg": "2", "copy.jpg": "2"}.items():
        ...         _ = Path(folder, name).write_text(contents)
        ...     equal_files({"train": [f"{folder}/a.jpg", f"{folder}/b.jpg"], "val": [f"{folder}/copy.jpg"]})
        [[('train', '.../b.jpg'), ('val', '.../copy.jpg')]]
    """
    files = [(split, path) for split, names in paths.items() for path in names]
    if len(paths) < 2:
        return []
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        candidates = _candidates(_groups(files, map(_size, files)))
        ends = _groups(candidates, _parallel(pool, _end, candidates))
        # The ends of small files are all that there is.
        small = [group for (size, _), group in ends.items() if size <= END_BYTES]
        candidates = _candidates({key: group for key, group in ends.items() if key[0] > END_BYTES})
        return [*small, *_groups(candidates, _parallel(pool, _contents, candidates)).values()]


def _parallel(pool: ThreadPoolExecutor, key: Callable[[_File], _Key], files: Sequence[_File]) -> Iterator[_Key]:
    """The key of each file. A call reads many: it would otherwise take longer to hand them over than to read them."""
    blocks = [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]
    for keys in pool.map(lambda block: [key(file) for file in block], blocks):
        yield from keys


def _groups(files: Sequence[_File], keys: Iterable[_Key | None]) -> dict[_Key, list[_File]]:
    """The files of equal keys that are in more than one split; without those that have no key."""
    groups: dict[_Key, list[_File]] = {}
    for file, key in zip(files, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(file)
    return {key: group for key, group in groups.items() if any(split != group[0][0] for split, _ in group)}


def _candidates(groups: Mapping[_Key, list[_File]]) -> list[_File]:
    return [file for group in groups.values() for file in group]


def _size(file: _File) -> int | None:
    try:
        return os.stat(file[1]).st_size  # noqa: PTH116 - faster
    except OSError:
        return None


def _end(file: _File) -> tuple[int, bytes] | None:
    try:
        with open_regular(file[1]) as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > END_BYTES:
                opened.seek(size - END_BYTES)
            return size, hashlib.sha256(opened.read(END_BYTES)).digest()
    except OSError:
        return None


def _contents(file: _File) -> str | None:
    try:
        return sha256_of(file[1])
    except OSError:
        return None
