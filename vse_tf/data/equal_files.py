"""Finds equal image files in different splits: what a model was trained on is no test of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from vse_tf.data.records import EncodedImages

# Files that differ do so at their end, where the last of the pixels are.
END_BYTES = 4096
BLOCK = 256

_File = tuple[str, int]
_Key = TypeVar("_Key", bound=Hashable)


def equal_files(images: Mapping[str, EncodedImages], workers: int | None = None) -> list[list[tuple[str, str]]]:
    """Files of different splits that hold the same bytes.

    Only files of equal size are read, at first their ends, and only files of equal ends completely.

    Args:
        images: the images of each split. Those that cannot be read are left out.
        workers: number of parallel reads (default: number of CPU cores).

    Returns:
        Groups of equal files, each as split and name, that are in more than one split.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from vse_tf.data.records import FileImages
        >>> with TemporaryDirectory() as folder:
        ...     for name, contents in {"a.jpg": "1", "b.jpg": "2", "copy.jpg": "2"}.items():
        ...         _ = Path(folder, name).write_text(contents)
        ...     train = FileImages([f"{folder}/a.jpg", f"{folder}/b.jpg"])
        ...     equal_files({"train": train, "val": FileImages([f"{folder}/copy.jpg"])})
        [[('train', '.../b.jpg'), ('val', '.../copy.jpg')]]
    """
    if len(images) < 2:
        return []
    sizes = {split: each.sizes() for split, each in images.items()}

    def end(file: _File) -> tuple[int, bytes] | None:
        split, row = file
        with contextlib.suppress(OSError):
            return int(sizes[split][row]), hashlib.sha256(images[split].read(row, -END_BYTES)).digest()
        return None

    def contents(file: _File) -> bytes | None:
        split, row = file
        with contextlib.suppress(OSError):
            return hashlib.sha256(images[split].read(row)).digest()
        return None

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        candidates = _of_equal_size(sizes)
        ends = _groups(candidates, _parallel(pool, end, candidates))
        # The ends of small files are all that there is.
        small = [group for (size, _), group in ends.items() if size <= END_BYTES]
        candidates = [file for (size, _), group in ends.items() if size > END_BYTES for file in group]
        equal = [*small, *_groups(candidates, _parallel(pool, contents, candidates)).values()]
    return [[(split, images[split].names[row]) for split, row in group] for group in equal]


def _of_equal_size(sizes: Mapping[str, np.ndarray]) -> list[_File]:
    """The files whose size another split has too."""
    found, splits = np.unique(np.concatenate([np.unique(each) for each in sizes.values()]), return_counts=True)
    shared = found[(splits > 1) & (found >= 0)]
    return [(split, int(row)) for split, each in sizes.items() for row in np.flatnonzero(np.isin(each, shared))]


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
