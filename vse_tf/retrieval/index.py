"""The index: a folder of vectors and of what they stand for. NumPy only.

`*.npy` shards hold float32 unit rows, `items.jsonl` a line for each row in the same order, `manifest.json` what there
is and which model made it. The manifest is written last: what it does not name is not part of the index.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vse_tf.errors import UserError

Kind = Literal["images", "captions"]

MANIFEST = "manifest.json"
ITEMS = "items.jsonl"
FORMAT = 1
_CHUNK = 2**24
_AGAIN = "restore it, or make the index again with python -m vse_tf.embed"


@dataclass(frozen=True, slots=True)
class Item:
    """What a row of the index stands for.

    Args:
        id: its name in the collection: a photo's path below the image folder, a caption's line number.
        path: of a photo, relative to the index's `root` or absolute.
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
        values = json.loads(line)
        if not isinstance(values, dict) or not isinstance(values.get("id"), str):
            raise ValueError("not an item: a JSON object with a string under id is expected")
        known: dict[str, Any] = {key: values.get(key) for key in cls.__slots__}
        for key in ("path", "caption"):
            if not isinstance(known[key], str | None):
                raise ValueError(f"not an item: {key} is not a string")
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
        root: folder that relative photo paths are below (default: the one that the manifest names).

    Attributes:
        kind: `images` or `captions`.
        dim: dimensions of the space.
        count: number of rows.
        shards: the files of vectors, in row order.
        model: which model made the vectors: `kind` (`run` or `models`), `path`, `id` and what else the writer knew.
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
        self.root = str(root) if root is not None else manifest["root"]
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
        index = cls(folder, _read_manifest(folder), root)
        path = folder / ITEMS
        size = told(path, lambda: path.stat().st_size)
        if size != index._items["bytes"]:
            raise UserError(f"{path}: {size} bytes where the manifest says {index._items['bytes']}; {_AGAIN}")
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

        def read() -> list[bytes]:
            with (self.folder / ITEMS).open("rb") as file:
                return [file.read(starts[row + 1] - file.seek(starts[row])) for row in wanted]

        return [self._item(row, line) for row, line in zip(wanted, told(self.folder / ITEMS, read), strict=True)]

    def all_items(self) -> Iterator[Item]:
        """Every item in row order, read line by line.

        Raises:
            UserError: items.jsonl is damaged; the message names the line.
        """
        row = -1
        with told(self.folder / ITEMS, (self.folder / ITEMS).open, "rb") as file:
            for row, line in enumerate(file):
                yield self._item(row, line)
        self._check_lines(row + 1)

    def item_bytes(self) -> Iterator[bytes]:
        """items.jsonl as it is, in pieces of whole lines or of parts of them."""
        with told(self.folder / ITEMS, (self.folder / ITEMS).open, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def path(self, item: Item) -> Path:
        """Where the photo of an item is.

        Raises:
            ValueError: the item is no photo.
        """
        if item.path is None:
            raise ValueError(f"item {item.id} has no path: it is a caption")
        return Path(self.root or "", item.path)

    def verify(self) -> None:
        """Compare every byte with the manifest's hashes.

        Raises:
            UserError: a file is damaged; the message names it.
        """
        named = [(shard.name, shard.sha256) for shard in self.shards]
        for name, expected in [*named, (ITEMS, self._items["sha256"])]:
            path = self.folder / name
            if told(path, sha256_of, path) != expected:
                raise UserError(f"{path}: damaged: its contents are not those that were written; {_AGAIN}")

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
            raise UserError(f"{self.folder / ITEMS}: line {row + 1}: {error}; {_AGAIN}") from None

    @cached_property
    def _line_starts(self) -> np.ndarray:
        """Where each line begins, and the end of the file."""
        path, starts, at = self.folder / ITEMS, [np.zeros(1, np.int64)], 0
        with told(path, path.open, "rb") as file:
            while chunk := file.read(_CHUNK):
                starts.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + (at + 1))
                at += len(chunk)
        found = np.concatenate(starts)
        self._check_lines(len(found) - 1 if found[-1] == at else -1)
        return found

    def _check_lines(self, lines: int) -> None:
        if lines != self.count:
            found = f"{lines} lines" if lines >= 0 else "a last line that is cut off"
            raise UserError(f"{self.folder / ITEMS}: {found} where the manifest counts {self.count} rows; {_AGAIN}")


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
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise UserError(f"{path}: unreadable vectors ({reason}); {_AGAIN}") from None
    if not isinstance(mapped, np.ndarray) or mapped.shape != (shard.rows, dim) or mapped.dtype != np.float32:
        expected = f"float32 ({shard.rows}, {dim})"
        raise UserError(f"{path}: not the {expected} vectors that the manifest names; {_AGAIN}")
    return mapped


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.exists():
        hint = "make one with python -m vse_tf.embed"
        raise UserError(f"{folder}: no index here (no {MANIFEST}); name an index's folder, or {hint}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        _check(manifest)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: {error}; {_AGAIN}") from None
    return manifest


def _check(manifest: Any) -> None:
    """Refuse what is not a manifest.

    Raises:
        ValueError: the first thing that is wrong with it.
    """
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError("not an index's manifest")
    if manifest["format"] != FORMAT:
        raise ValueError(f"format {manifest['format']!r}; this version reads format {FORMAT}")
    if manifest.get("kind") not in get_args(Kind):
        raise ValueError(f"kind is {manifest.get('kind')!r}; it is one of {', '.join(get_args(Kind))}")
    if not _whole(manifest.get("dim"), 1) or not _whole(manifest.get("count"), 0):
        raise ValueError("dim and count are not whole numbers")
    if not isinstance(manifest.get("root"), str | None):
        raise ValueError("root is not a path")
    for key in ("items", "model", "provenance"):
        if not isinstance(manifest.get(key), dict):
            raise ValueError(f"no {key}")
    if not _whole(manifest["items"].get("bytes"), 0) or not isinstance(manifest["items"].get("sha256"), str):
        raise ValueError("items without bytes and sha256")
    shards = manifest.get("shards")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ValueError("shards without name, rows and sha256")
    if (rows := sum(shard["rows"] for shard in shards)) != manifest["count"]:
        raise ValueError(f"count is {manifest['count']}, the shards hold {rows} rows")


def _is_shard(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        # A name only: a manifest must not reach outside its folder.
        and Path(value["name"]).name == value["name"] != ""
        and _whole(value.get("rows"), 1)
        and isinstance(value.get("sha256"), str)
    )


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told(path: Path, action: Callable[..., Any], *args: Any, doing: str = "read") -> Any:
    """Run an action on a file; what the system refuses becomes the user's error."""
    try:
        return action(*args)
    except OSError as error:
        where = error.filename or path
        advice = "; free some space and repeat" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"{where}: cannot be {doing}: {error.strerror or error}{advice}") from None
