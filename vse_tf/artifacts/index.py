"""The index: a folder of vectors and of what they stand for. NumPy only.

`*.npy` shards hold float32 unit rows, `items.jsonl` a line for each row in the same order, `manifest.json` what there
is and which model made it. The manifest is written last: what it does not name is not part of the index.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from vse_tf.artifacts.index_manifest import AGAIN, NAME_CHARACTERS, Kind, read_manifest
from vse_tf.artifacts.index_manifest import MANIFEST as MANIFEST  # noqa: PLC0414
from vse_tf.artifacts.index_paths import PhotoFolder, own_file
from vse_tf.data.sources.files import problem_of_text
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_array, open_regular, reason_of, sha256_of

ITEMS = "items.jsonl"
# Of a caption or a path in a text file; in JSON a character takes six times its bytes at most.
LINE_BYTES = 2**20
ITEM_BYTES = 8 * LINE_BYTES
_CHUNK = 2**24


@dataclass(frozen=True, slots=True)
class Item:
    """What a row of the index stands for.

    Args:
        id: its name in the collection: a photo's path below the image folder, a caption's line number.
        path: of a photo, relative to the index's `root`.
        caption: of a caption, the text.
        size: bytes of the photo when it was embedded.
        mtime_ns: its modification time then, in nanoseconds.
    """

    id: str
    path: str | None = None
    caption: str | None = None
    size: int | None = None
    mtime_ns: int | None = None

    @property
    def line(self) -> str:
        """The item as a line of items.jsonl."""
        every = {key: getattr(self, key) for key in self.__slots__}
        values = {key: value for key, value in every.items() if value is not None}
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"

    @classmethod
    def of_line(cls, line: bytes | str) -> Item:
        """The item of a line; keys that are not known are passed over.

        Raises:
            ValueError: the line holds no item.
        """
        if len(line) > ITEM_BYTES:
            raise ValueError(f"not an item: {len(line)} bytes, more than the limit of {ITEM_BYTES}")
        values = json.loads(line)
        if not isinstance(values, dict) or not isinstance(values.get("id"), str):
            raise ValueError("not an item: a JSON object with a string under id is expected")
        known: dict[str, Any] = {key: values.get(key) for key in cls.__slots__}
        for key in ("id", "path", "caption"):
            if not isinstance(known[key], str | None):
                raise ValueError(f"not an item: {key} is not a string")
            if problem := problem_of_text(known[key] or ""):
                raise ValueError(f"not an item: {key} is {problem}")
            if key != "caption" and len(known[key] or "") > NAME_CHARACTERS:
                raise ValueError(f"not an item: {key} has more than {NAME_CHARACTERS} characters")
        for key in ("size", "mtime_ns"):
            if not (known[key] is None or type(known[key]) is int):
                raise ValueError(f"not an item: {key} is not a whole number")
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Shard:
    """A file of vectors.

    Args:
        name: of the file in the index's folder.
        rows: vectors in it.
        sha256: of the file.
    """

    name: str
    rows: int
    sha256: str


class Index:
    """An index that is there, opened for reading. Vectors are memory-mapped, items are read where they are asked for.

    Args:
        folder: the folder.
        manifest: what its manifest.json holds.
        root: folder that photo paths are below, which the user names (default: the one that the manifest names).

    Attributes:
        kind: `images` or `captions`.
        dim: dimensions of the space.
        count: number of rows.
        shards: the files of vectors, in row order.
        model: which model made the vectors: `kind` (`run` or `models`), `name`, `path` as seen from the folder, `id`.
        provenance: versions and settings that the writer knew.

    Example:
        >>> index = Index.open("photos.index")
        >>> index.count, index.dim, index.item(0).id
        (8091, 1024, '1000268201_693b08cb0e.jpg')
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any], root: str | Path | None = None) -> None:
        self.folder = folder
        self.kind: Kind = manifest["kind"]
        self.dim: int = manifest["dim"]
        self.count: int = manifest["count"]
        self.shards = [Shard(shard["name"], shard["rows"], shard["sha256"]) for shard in manifest["shards"]]
        self.model: dict[str, Any] = manifest["model"]
        self.provenance: dict[str, Any] = manifest["provenance"]
        self.photos = PhotoFolder(folder, manifest.get("root"), root, manifest.get("root_name"))
        self._items: dict[str, Any] = manifest["items"]

    @classmethod
    def open(cls, folder: str | Path, root: str | Path | None = None) -> Index:
        """Open an index and check that its files are what the manifest says: sizes and shapes, not every byte.

        Args:
            folder: the folder.
            root: see the class.

        Raises:
            UserError: no index there, or a file is missing, cut short or another one; the message names it.
        """
        folder = Path(folder)
        index = cls(folder, read_manifest(folder), root)
        with index._open_items() as file:
            size = os.fstat(file.fileno()).st_size
        path = folder / ITEMS
        if size != index._items["bytes"]:
            raise UserError(f"{path}: {size} bytes where the manifest says {index._items['bytes']}; {AGAIN}")
        for shard in index.shards:
            map_shard(folder, shard, index.dim)
        return index

    def __len__(self) -> int:
        return self.count

    def vectors(self) -> Iterator[tuple[int, np.ndarray]]:
        """The shards in row order: number of the first row, and the vectors, memory-mapped float32 `(rows, dim)`."""
        start = 0
        for shard in self.shards:
            yield start, map_shard(self.folder, shard, self.dim)
            start += shard.rows

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
        """What a row stands for.

        Raises:
            IndexError: there is no such row.
            UserError: items.jsonl is damaged.
        """
        return self.items([row])[0]

    def items(self, rows: Sequence[int] | np.ndarray) -> list[Item]:
        """What these rows stand for, in their order.

        Raises:
            IndexError: there is no such row.
            UserError: items.jsonl is damaged; the message names the line.
        """
        wanted, starts = self._checked(rows), self._line_starts

        with self._open_items() as file:

            def read(row: int) -> bytes:
                with file_errors(self.folder / ITEMS):
                    # A byte more than a line may have, so that a longer one is noticed.
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
        """items.jsonl as it is, in pieces of whole lines or of parts of them."""
        with self._open_items() as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    @property
    def root(self) -> str | None:
        """The folder that photo paths are below; None where nobody says it."""
        return self.photos.root

    def path(self, item: Item) -> Path:
        """Where the photo of an item is, for messages.

        Raises:
            ValueError: the item is no photo.
        """
        return self.photos.path(_photo_path(item))

    def photo(self, item: Item) -> Path:
        """The file of an item's photo, to open it.

        Raises:
            OutsideError: the index names it and the user has not named its folder; see `PhotoFolder`.
            ValueError: the item is no photo.
        """
        return self.photos.file(_photo_path(item))

    def verify(self) -> None:
        """Compare every byte with the manifest's hashes.

        Raises:
            UserError: a file is damaged; the message names it.
        """
        named = [(shard.name, shard.sha256) for shard in self.shards]
        for name, expected in [*named, (ITEMS, self._items["sha256"])]:
            path = self.folder / name
            with file_errors(path):
                found = sha256_of(own_file(self.folder, name))
            if found != expected:
                raise UserError(f"{path}: damaged: its contents are not those that were written; {AGAIN}")

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
        """Where each line begins, and the end of the file."""
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
            found = f"{lines} lines" if lines >= 0 else "a last line that is cut off"
            raise UserError(f"{self.folder / ITEMS}: {found} where the manifest counts {self.count} rows; {AGAIN}")


def map_shard(folder: Path, shard: Shard, dim: int) -> np.ndarray:
    """The vectors of a shard, memory-mapped.

    Args:
        folder: the index's folder.
        shard: the shard.
        dim: dimensions of the space.

    Raises:
        UserError: the file is missing, cut short or another one.
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


def _photo_path(item: Item) -> str:
    if item.path is None:
        raise ValueError(f"item {item.id} has no path: it is a caption")
    return item.path
