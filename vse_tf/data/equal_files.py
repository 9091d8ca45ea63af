"""Finds equal image files in different splits: what a model was trained on is no test of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from vse_tf.files import open_regular, sha256_of

# Files that differ do so at their end, where the last of the pixels are.
END_BYTES = 4096
BLOCK = 256

_File = tuple[str, str]


def equal_files(paths: Mapping[str, Sequence[str]], workers: int | None = None) -> list[list[tuple[str, str]]]:
    """Files of different splits that hold the same bytes.

    Only files of equal size are read, at first their ends, and only files of equal ends completely.

    Args:
        paths: the files of each split. Files that cannot be read are left out.
        workers: number of parallel reads (default: number of CPU cores).

    Returns:
        Groups of equal files, each as split and path, that are in more than one split.

    Example:
        >>> equal_files({"train": ["a.jpg", "b.jpg"], "val": ["copy of b.jpg"]})
        [[('train', 'b.jpg'), ('val', 'copy of b.jpg')]]
    """
    files = [(split, path) for split, names in paths.items() for path in names]
    if len(paths) < 2:
        return []
    groups = _groups(files, map(_size, files))
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        files = [file for group in groups for file in group]
        groups = _groups(files, _parallel(pool, _end, files))
        # The ends of small files are all that there is.
        large = [file for group in groups if (_size(group[0]) or 0) > END_BYTES for file in group]
        groups = [group for group in groups if (_size(group[0]) or 0) <= END_BYTES]
        return groups + _groups(large, _parallel(pool, _contents, large))


def _parallel(pool: ThreadPoolExecutor, key: Callable[[_File], Hashable], files: Sequence[_File]) -> Iterator[Hashable]:
    """The key of each file. A call reads many: it would otherwise take longer to hand them over than to read them."""
    blocks = [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]
    for keys in pool.map(lambda block: [key(file) for file in block], blocks):
        yield from keys


def _groups(files: Sequence[_File], keys: Iterable[Hashable]) -> list[list[_File]]:
    """The files of equal keys that are in more than one split."""
    groups: dict[Hashable, list[_File]] = {}
    for file, key in zip(files, keys, strict=True):
        if key is not None:
            groups.setdefault(key, []).append(file)
    return [group for group in groups.values() if any(split != group[0][0] for split, _ in group)]


def _or_none(read: Callable[[str], Hashable]) -> Callable[[_File], Hashable]:
    def key(file: _File) -> Hashable:
        try:
            return read(file[1])
        except OSError:
            return None

    return key


def _read_end(path: str) -> Hashable:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > END_BYTES:
            file.seek(size - END_BYTES)
        return size, hashlib.sha256(file.read(END_BYTES)).digest()


def _read_size(path: str) -> int:
    return os.stat(path).st_size  # noqa: PTH116 - faster


_size = _or_none(_read_size)
_end = _or_none(_read_end)
_contents = _or_none(sha256_of)
