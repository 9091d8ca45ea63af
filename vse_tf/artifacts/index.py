"""The index: a folder of vectors and their items. Needs only NumPy.

`*.npy` shards hold float32 unit rows, `items.jsonl` one line per row in the same order, `manifest.json` the list of the
files and the model that made them. The manifest is written last: files that it does not name are not part of the index.
Compact vectors may accompany the float32 ones or, where these are gone, take their place (`vse_tf.artifacts.compact`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Compact
from vse_tf.artifacts.index_base import ITEM_BYTES, LINE_BYTES, IndexBase, Item
from vse_tf.artifacts.index_manifest import AGAIN, Kind, read_manifest
from vse_tf.artifacts.index_paths import ImageRoot, own_file
from vse_tf.artifacts.shards import Shard, by_shard, map_shard
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular, sha256_of
from vse_tf.remote.copies import local_path

__all__ = ["ITEMS", "ITEM_BYTES", "LINE_BYTES", "Index", "Item", "Shard", "map_shard"]

ITEMS = "items.jsonl"
_CHUNK = 2**24


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
        model_dim: dimensions of the model's vectors; more than `dim` where only shorter compact ones are left.
        count: number of rows.
        shards: the files of float32 vectors, in row order.
        compact: the compact vectors, if there are any.
        complete: the float32 vectors are there; if not, `vectors` and `gather` give the compact ones.
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
        self.model_dim = self.dim = int(manifest["dim"])
        self.plain_dim = int(manifest.get("plain_dim", self.dim))
        self.count: int = manifest["count"]
        self.shards = [Shard.of(shard) for shard in manifest["shards"]]
        described = manifest.get("compact")
        self.compact = None if described is None else Compact.of(folder, described, self.dim != self.plain_dim)
        self.complete = self.compact is None or any(os.path.lexists(folder / shard.name) for shard in self.shards)
        if self.compact is not None and not self.complete:
            self.dim, self.plain_dim = self.compact.form.dim, self.compact.form.dims
        self.model: dict[str, Any] = manifest["model"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.image_root = ImageRoot(folder, manifest.get("root"), root, manifest.get("root_name"))
        self._items: dict[str, Any] = manifest["items"]
        self._items_name: str = self._items.get("name", ITEMS)
        calibration = manifest.get("calibration") or {}
        self._levels = calibration.get("levels")
        background = calibration.get("background")
        self.background = None if background is None else Shard.of(background)

    @classmethod
    def open(cls, folder: str | Path, root: str | Path | None = None) -> Index:
        """Open an index and check the sizes and shapes of its files, not every byte; see `verify`.

        Args:
            folder: the folder, or the address of one that the user has typed.
            root: see the class.

        Raises:
            UserError: there is no index, or a file is missing, truncated or another one; the message names it.
        """
        folder = local_path(folder)
        index = cls(folder, read_manifest(folder), root)
        with index._open_items() as file:
            size = os.fstat(file.fileno()).st_size
        path = folder / index._items_name
        if size != index._items["bytes"]:
            raise UserError(f"{path}: {size} bytes where the manifest says {index._items['bytes']}; {AGAIN}")
        for shard in [*(index.shards if index.complete else []), *filter(None, [index.background])]:
            map_shard(folder, shard, index.model_dim)
        if index.compact is not None:
            index.compact.check()
        return index

    def __len__(self) -> int:
        return self.count

    def vectors(self) -> Iterator[tuple[int, np.ndarray]]:
        """The vectors in row order, in parts: the first row, and float32 `(rows, dim)`, memory-mapped if complete."""
        if self.compact is not None and not self.complete:
            yield from self.compact.vectors()
            return
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
        texts = None if background is None else self.fitted(map_shard(self.folder, background, self.model_dim))
        levels = self._levels if self.compact is None or self.complete else self.compact.levels
        return Calibration(None if texts is None else np.array(texts), levels)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors of these rows, float32 `(len(rows), dim)`.

        Raises:
            IndexError: there is no such row.
        """
        wanted = self._checked(rows)
        if self.compact is not None and not self.complete:
            return self.compact.gather(wanted)
        found = np.empty([len(wanted), self.dim], np.float32)
        for shard, here, within in by_shard(self.shards, wanted):
            found[here] = map_shard(self.folder, shard, self.dim)[within]
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
                with file_errors(self.folder / self._items_name):
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
        named = [(shard.name, shard.sha256) for shard in self.files]
        for name, expected in [*named, (self._items_name, self._items["sha256"])]:
            path = self.folder / name
            with file_errors(path):
                found = sha256_of(own_file(self.folder, name))
            if found != expected:
                raise UserError(f"{path}: damaged: its contents have changed since it was written; {AGAIN}")

    @property
    def files(self) -> list[Shard]:
        """The files of vectors that are there: float32 and compact ones, and those of the background."""
        compact = [] if self.compact is None else self.compact.shards
        return [*(self.shards if self.complete else []), *compact, *filter(None, [self.background])]

    def _open_items(self) -> BinaryIO:
        with file_errors(self.folder / self._items_name):
            return open_regular(own_file(self.folder, self._items_name))

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
            raise UserError(f"{self.folder / self._items_name}: line {row + 1}: {error}; {AGAIN}") from None

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
            raise UserError(
                f"{self.folder / self._items_name}: {found} where the manifest counts {self.count} rows; {AGAIN}"
            )
