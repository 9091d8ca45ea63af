"""Which vectors are there already: a table on disk from an item to the place of its vector. No TensorFlow here."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from vse_tf.artifacts.index import Item, Shard, map_shard
from vse_tf.errors import UserError

Status = Literal["same", "changed", "new"]
NOWHERE = -1
_SHIFT = 32


class Reuse:
    """The vectors that earlier work left, found by item: same id, path, caption, size and time of change.

    The table lies on disk, so that it may be larger than memory.

    Args:
        path: file of the table; an older one is replaced.

    Example:
        >>> reuse = Reuse(Path("table.sqlite"))
        >>> reuse.add(0, [Item("a.jpg", path="a.jpg", size=7, mtime_ns=1)])
        >>> reuse.place(Item("a.jpg", path="a.jpg", size=7, mtime_ns=1))
        0
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.unlink(missing_ok=True)
            self._table = sqlite3.connect(path, isolation_level=None)
            self._table.execute("PRAGMA journal_mode = OFF")
            self._table.execute("PRAGMA synchronous = OFF")
            self._table.execute("CREATE TABLE place (line BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID")
            self._table.execute("CREATE TABLE earlier (id BLOB PRIMARY KEY, line BLOB) WITHOUT ROWID")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: cannot be written: {error}; mend that and repeat") from None

    def add(self, source: int, items: Iterable[Item], earlier: bool = False, usable: bool = True) -> None:
        """Take in the items of a shard.

        Args:
            source: number of the shard.
            items: one for each of its rows.
            earlier: they belong to the index that is being brought up to date.
            usable: their vectors are those of the model in use.

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
                    self._table.execute("INSERT OR IGNORE INTO place VALUES (?, ?)", (line, (source << _SHIFT) + row))
            self._table.execute("COMMIT")
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: cannot be written: {error}; mend that and repeat") from None

    def place(self, item: Item) -> int:
        """Where the vector of an item is, or `NOWHERE`."""
        found = self._table.execute("SELECT place FROM place WHERE line = ?", (_digest(item.line),)).fetchone()
        return found[0] if found else NOWHERE

    def status(self, item: Item) -> Status:
        """Whether the index that is being brought up to date has this item."""
        found = self._table.execute("SELECT line FROM earlier WHERE id = ?", (_digest(item.id),)).fetchone()
        if found is None:
            return "new"
        return "same" if found[0] == _digest(item.line) else "changed"

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()


def gather(folder: Path, sources: list[Shard], places: np.ndarray, dim: int) -> np.ndarray:
    """The vectors at these places.

    Args:
        folder: where the shards are.
        sources: the shards by number.
        places: int64, none of them `NOWHERE`.
        dim: dimensions of the space.

    Returns:
        float32 `(len(places), dim)`.

    Raises:
        UserError: a shard is missing or damaged.
    """
    numbers, rows = places >> _SHIFT, places & ((1 << _SHIFT) - 1)
    found = np.empty([len(places), dim], np.float32)
    for number in np.unique(numbers):
        here = np.flatnonzero(numbers == number)
        found[here] = map_shard(folder, sources[number], dim)[rows[here]]
    return found


def whole(sources: list[Shard], places: np.ndarray) -> Shard | None:
    """The shard whose rows these places are, all of them in their order, if there is one."""
    if not len(places) or places[0] == NOWHERE:
        return None
    shard = sources[places[0] >> _SHIFT]
    if places[0] & ((1 << _SHIFT) - 1) or len(places) != shard.rows:
        return None
    return shard if np.array_equal(places, places[0] + np.arange(shard.rows)) else None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
