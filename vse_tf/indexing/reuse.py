"""Reuse of existing vectors: a table on disk from an item to the location of its vector. No TensorFlow here."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from vse_tf.artifacts.index import Item
from vse_tf.artifacts.shards import Shard, map_shard
from vse_tf.errors import UserError

Status = Literal["unchanged", "changed", "new"]
# A location is an integer: the shard's number in the upper 32 bits, the row in the lower ones.
MISSING = -1
_SHIFT = 32


class ReuseTable:
    """Locations of existing vectors by item; an item is the same if id, path, caption, size and mtime are equal.

    The table is on disk, so it may be larger than memory.

    Args:
        path: file of the table; an existing one is replaced.

    Raises:
        UserError: the table cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     reuse = ReuseTable(Path(folder, "reuse.sqlite"))
        ...     reuse.add(0, [Item("a.jpg", path="a.jpg", size=7, mtime_ns=1)])
        ...     reuse.location(Item("a.jpg", path="a.jpg", size=7, mtime_ns=1))
        ...     reuse.close()
        0
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.unlink(missing_ok=True)
            self._table = sqlite3.connect(path, isolation_level=None)
            self._table.execute("PRAGMA journal_mode = OFF")
            self._table.execute("PRAGMA synchronous = OFF")
            self._table.execute("CREATE TABLE location (line BLOB PRIMARY KEY, location INTEGER) WITHOUT ROWID")
            self._table.execute("CREATE TABLE earlier (id BLOB PRIMARY KEY, line BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise self._not_written(error) from None

    def add(self, shard: int, items: Iterable[Item], earlier: bool = False, usable: bool = True) -> None:
        """Add the items of a shard.

        Args:
            shard: number of the shard.
            items: one per row.
            earlier: the shard belongs to the index that is being updated.
            usable: its vectors were made by the current model.

        Raises:
            UserError: the table cannot be written.
        """
        try:
            self._table.execute("BEGIN")
            for row, item in enumerate(items):
                line = _digest(item.line)
                if earlier:
                    self._table.execute("INSERT OR REPLACE INTO earlier VALUES (?, ?)", (_digest(item.id), line))
                if usable:
                    location = (shard << _SHIFT) + row
                    self._table.execute("INSERT OR IGNORE INTO location VALUES (?, ?)", (line, location))
            self._table.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._not_written(error) from None

    def location(self, item: Item) -> int:
        """The location of an item's vector, or `MISSING`."""
        found = self._table.execute("SELECT location FROM location WHERE line = ?", (_digest(item.line),)).fetchone()
        return found[0] if found else MISSING

    def status(self, item: Item) -> Status:
        """How an item differs from the index that is being updated."""
        found = self._table.execute("SELECT line FROM earlier WHERE id = ?", (_digest(item.id),)).fetchone()
        if found is None:
            return "new"
        return "unchanged" if found[0] == _digest(item.line) else "changed"

    def close(self) -> None:
        """Close the table's file."""
        self._table.close()

    def _not_written(self, error: Exception) -> UserError:
        return UserError(f"{self.path}: cannot be written: {error}; fix that and repeat")


def gather(folder: Path, shards: list[Shard], locations: np.ndarray, dim: int) -> np.ndarray:
    """The vectors at these locations.

    Args:
        folder: folder of the shards.
        shards: the shards by number.
        locations: int64 `(n,)`, none of them `MISSING`.
        dim: dimension of the embedding space.

    Returns:
        float32 `(n, dim)`.

    Raises:
        UserError: a shard is missing or damaged.
    """
    numbers, rows = locations >> _SHIFT, locations & ((1 << _SHIFT) - 1)
    vectors = np.empty([len(locations), dim], np.float32)
    for number in np.unique(numbers):
        here = np.flatnonzero(numbers == number)
        vectors[here] = map_shard(folder, shards[number], dim)[rows[here]]
    return vectors


def shard_numbers(locations: np.ndarray) -> list[int]:
    """The numbers of the shards that hold these locations, none of them `MISSING`."""
    return [int(number) for number in np.unique(locations >> _SHIFT)]


def equal_shard(shards: list[Shard], locations: np.ndarray) -> Shard | None:
    """The shard that consists of exactly the vectors at these locations, in this order, if there is one."""
    if not len(locations) or locations[0] == MISSING:
        return None
    shard = shards[locations[0] >> _SHIFT]
    if locations[0] & ((1 << _SHIFT) - 1) or len(locations) != shard.rows:
        return None
    return shard if np.array_equal(locations, locations[0] + np.arange(shard.rows)) else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
