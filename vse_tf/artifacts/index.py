"""The index: a folder of vectors and their items. Needs only NumPy.

`*.npy` shards hold float32 unit rows, `items.jsonl` one line per row in the same order, `manifest.json` the list of the
files and the model that made them. The manifest is written last: files that it does not name are not part of the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.index_base import ITEM_BYTES, LINE_BYTES, IndexBase, Item
from vse_tf.artifacts.index_manifest import AGAIN, Kind, read_manifest
from vse_tf.artifacts.index_paths import ImageRoot, own_file
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_array, open_regular, reason_of, sha256_of

__all__ = ["ITEMS", "ITEM_BYTES", "LINE_BYTES", "Index", "Item", "Shard", "map_shard"]

ITEMS = "items.jsonl"
_CHUNK = 2**24


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


class Index(IndexBase):
    """An index, opened for reading. Vectors are memory-mapped, items are read when they are requested.

    Args:
        folder: the folder.
        manifest: the contents of its manifest.json.
        root: the image folder, if the user names it (default: the one that the manifest names).

    Attributes:
        kind: `images` or `captions`.
        dim: dimensions of the vectors.
        plain_dim: dimensions of the space; fewer than `dim` where the vectors have a hubness correction.
        count: number of rows.
        shards: the files of vectors, in row order.
        background: the file of the captions that calibrate it, if there is one.
        image_root: the image folder, and which of its files may be opened.
        model: the model that made the vectors: `kind` (`run` or `models`), `name`, `path` relative to the folder, `id`.
        provenance: versions and settings of the writer.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from vse_tf.artifacts.index_writer import IndexWriter
        >>> with TemporaryDirectory() as folder:
        ...     writer = IndexWriter(folder, "captions", dim=2)
        ...     items = [Item("1", caption="a dog"), Item("2", caption="a cat")]
        ...     _ = writer.commit([writer.write(np.eye(2))], items, model={})
        ...     index = Index.open(folder)
        ...     index.count, index.dim, index.item(0).caption
        (2, 2, 'a dog')
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], root: str | Path | None = None) -> None:
        self.folder = folder
        self.source = str(folder)
        self.kind: Kind = manifest["kind"]
        self.dim: int = manifest["dim"]
        self.plain_dim: int = manifest.get("plain_dim", self.dim)
        self.count: int = manifest["count"]
        self.shards = [_shard(shard) for shard in manifest["shards"]]
        self.model: dict[str, Any] = manifest["model"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.image_root = ImageRoot(folder, manifest.get("root"), root, manifest.get("root_name"))
        self._items: dict[str, Any] = manifest["items"]
        relevance = manifest.get("relevance") or {}
        self._levels = relevance.get("levels")
        background = relevance.get("background")
        self.background = None if background is None else _shard(background)

    @classmethod
    def open(cls, folder: str | Path, root: str | Path | None = None) -> Index:
        """Open an index and check the sizes and shapes of its files, not every byte; see `verify`.

        Args:
            folder: the folder.
            root: see the class.

        Raises:
            UserError: there is no index, or a file is missing, truncated or another one; the message names it.
        """
        folder = Path(folder)
        index = cls(folder, read_manifest(folder), root)
        with index._open_items() as file:
            size = os.fstat(file.fileno()).st_size
        path = folder / ITEMS
        if size != index._items["bytes"]:
            raise UserError(f"{path}: {size} bytes where the manifest says {index._items['bytes']}; {AGAIN}")
        for shard in [*index.shards, *filter(None, [index.background])]:
            map_shard(folder, shard, index.dim)
        return index

    def __len__(self) -> int:
        return self.count

    def vectors(self) -> Iterator[tuple[int, np.ndarray]]:
        """The shards in row order: the first row, and the vectors, memory-mapped float32 `(rows, dim)`."""
        start = 0
        for shard in self.shards:
            yield start, map_shard(self.folder, shard, self.dim)
            start += shard.rows

    @cached_property
    def calibration(self) -> Calibration | None:
        """What a score means in this index; None if an earlier version wrote it."""
        if self._levels is None:
            return None
        background = self.background
        texts = None if background is None else np.array(map_shard(self.folder, background, self.dim))
        return Calibration(texts, self._levels)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of these rows, float32 `(len(rows), dim)`.

        Raises:
            IndexError: there is no such row.
        """
        wanted = self._checked(rows)
        found = np.empty([len(wanted), self.dim], np.float32)
        starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        of = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(of):
            here = np.flatnonzero(of == number)
            found[here] = map_shard(self.folder, self.shards[number], self.dim)[wanted[here] - starts[number]]
        return found

    def matrix(self) -> np.ndarray:
        """All vectors in memory, float32 `(count, dim)`."""
        return np.concatenate([np.zeros([0, self.dim], np.float32), *(part for _, part in self.vectors())])

    def item(self, row: int) -> Item:
        """The item of a row.

        Raises:
            IndexError: there is no such row.
            UserError: items.jsonl is damaged.
        """
        return self.items([row])[0]

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """The items of these rows, in their order.

        Raises:
            IndexError: there is no such row.
            UserError: items.jsonl is damaged; the message names the line.
        """
        wanted, starts = self._checked(rows), self._line_starts

        with self._open_items() as file:

            def read(row: int) -> bytes:
                with file_errors(self.folder / ITEMS):
                    # One byte more than the limit, so that a longer line is noticed.
                    return file.read(min(starts[row + 1] - file.seek(starts[row]), ITEM_BYTES + 1))

            return [self._item(row, read(row)) for row in wanted]

    def all_items(self) -> Iterator[Item]:
        """Every item in row order, read line by line.

        Raises:
            UserError: items.jsonl is damaged; the message names the line.
        """
        row = -1
        with self._open_items() as file:
            for row, line in enumerate(iter(lambda: file.readline(ITEM_BYTES + 1), b"")):
                yield self._item(row, line)
        self._check_lines(row + 1)

    def item_bytes(self) -> Iterator[bytes]:
        """The contents of items.jsonl, in chunks."""
        with self._open_items() as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def verify(self) -> None:
        """Compare all files with the manifest's hashes.

        Raises:
            UserError: a file is damaged; the message names it.
        """
        named = [(shard.name, shard.sha256) for shard in [*self.shards, *filter(None, [self.background])]]
        for name, expected in [*named, (ITEMS, self._items["sha256"])]:
            path = self.folder / name
            with file_errors(path):
                found = sha256_of(own_file(self.folder, name))
            if found != expected:
                raise UserError(f"{path}: damaged: its contents have changed since it was written; {AGAIN}")

    def _open_items(self) -> BinaryIO:
        with file_errors(self.folder / ITEMS):
            return open_regular(own_file(self.folder, ITEMS))

    def _checked(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        wanted = np.asarray(rows, np.int64).reshape(-1)
        wrong = wanted[(wanted < 0) | (wanted >= self.count)]
        if wrong.size:
            raise IndexError(f"row {wrong[0]} of an index of {self.count} rows")
        return wanted

    def _item(self, row: int, line: bytes) -> Item:
        try:
            return Item.of_line(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.folder / ITEMS}: line {row + 1}: {error}; {AGAIN}") from None

    @cached_property
    def _line_starts(self) -> np.ndarray:
        """The offset of each line, and of the end of the file."""
        starts, lines, at = [np.zeros(1, np.int64)], 0, 0
        with self._open_items() as file:
            while lines <= self.count and (chunk := file.read(_CHUNK)):
                starts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + (at + 1))
                lines, at = lines + len(starts[-1]), at + len(chunk)
        found = np.concatenate(starts)
        self._check_lines(lines if found[-1] == at or lines > self.count else -1)
        return found

    def _check_lines(self, lines: int) -> None:
        if lines != self.count:
            found = f"{lines} lines" if lines >= 0 else "a truncated last line"
            raise UserError(f"{self.folder / ITEMS}: {found} where the manifest counts {self.count} rows; {AGAIN}")


def map_shard(folder: Path, shard: Shard, dim: int) -> np.ndarray:
    """The vectors of a shard, memory-mapped.

    Args:
        folder: the index's folder.
        shard: the shard.
        dim: dimensions of the space.

    Raises:
        UserError: the file is missing, truncated or another one.
    """
    path = folder / shard.name
    try:
        mapped = open_array(own_file(folder, shard.name))
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: unreadable vectors ({reason_of(error)}); {AGAIN}") from None
    if mapped.shape != (shard.rows, dim) or mapped.dtype != np.float32:
        expected = f"float32 ({shard.rows}, {dim})"
        raise UserError(f"{path}: not the {expected} vectors that the manifest names; {AGAIN}")
    return mapped


def _shard(described: Mapping[str, Any]) -> Shard:
    return Shard(described["name"], described["rows"], described["sha256"])
