"""The files of vectors of an index, memory-mapped. Needs only NumPy."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.artifacts.index_manifest import AGAIN
from vse_tf.artifacts.index_paths import own_file
from vse_tf.errors import UserError
from vse_tf.files import open_array, open_regular, reason_of

# Where the data of files begin whose place and header were checked: a search maps every file again, since thousands
# cannot stay open, and the checks take longer than the mapping.
_CHECKED: dict[tuple[Any, ...], int] = {}
MOST_CHECKED = 2**16


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of vectors.

    Args:
        name: of the file in the index's folder.
        rows: number of its vectors.
        sha256: of the file.
    """

    name: str
    rows: int
    sha256: str

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Shard:
        """The shard that a manifest describes."""
        return cls(described["name"], described["rows"], described["sha256"])


def map_shard(folder: Path, shard: Shard, dim: int) -> np.ndarray:
    """The vectors of a shard, memory-mapped.

    Args:
        folder: the index's folder.
        shard: the shard.
        dim: dimensions of the vectors.

    Raises:
        UserError: the file is missing, truncated or another one.
    """
    return map_file(folder, shard, (shard.rows, dim), np.dtype(np.float32))


def map_file(folder: Path, shard: Shard, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The array in a shard's file, memory-mapped.

    Args:
        folder: the index's folder.
        shard: the shard.
        shape: its shape.
        dtype: its type.

    Raises:
        UserError: the file is missing, truncated or another one.
    """
    path = folder / shard.name
    try:
        # That of a link, not of what it leads to: links are checked each time.
        about = os.lstat(path)
        seen = (path, about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, shape, dtype)
        if seen in _CHECKED:
            with open_regular(path) as file:
                if os.path.samestat(os.fstat(file.fileno()), about):
                    return np.memmap(file, dtype, "r", _CHECKED[seen], shape)
        mapped = open_array(own_file(folder, shard.name))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: unreadable vectors ({reason_of(error)}); {AGAIN}") from None
    if mapped.shape != shape or mapped.dtype != dtype:
        expected = f"{dtype if dtype.names is None else 'compact'} {shape}"
        raise UserError(f"{path}: not the {expected} vectors that the manifest names; {AGAIN}")
    if isinstance(mapped, np.memmap) and mapped.flags.c_contiguous:
        if len(_CHECKED) >= MOST_CHECKED:
            _CHECKED.clear()
        _CHECKED[seen] = mapped.offset
    return mapped


def by_shard(shards: Sequence[Shard], rows: np.ndarray) -> Iterator[tuple[Shard, np.ndarray, np.ndarray]]:
    """Rows of an index by the shards that hold them.

    Args:
        shards: in row order.
        rows: rows of the index, int64 `(n,)`.

    Yields:
        A shard, the positions in `rows` of those that it holds, and their rows in the shard.
    """
    starts = np.cumsum([0, *(shard.rows for shard in shards)])
    of = np.searchsorted(starts, rows, side="right") - 1
    for number in np.unique(of):
        here = np.flatnonzero(of == number)
        yield shards[number], here, rows[here] - starts[number]
