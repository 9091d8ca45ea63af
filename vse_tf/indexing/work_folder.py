"""Progress of a running embedding, on disk: if it is killed, no finished shard is lost. No TensorFlow here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from vse_tf.artifacts.index import Item
from vse_tf.artifacts.shards import Shard, map_shard
from vse_tf.atomic import atomic_file, write_text
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.files import DESCRIPTION_BYTES, file_errors, open_regular, read_regular, sha256_of
from vse_tf.indexing.items import Items
from vse_tf.indexing.reuse import ReuseTable
from vse_tf.locks import BusyError, ProcessLock

WORK_FOLDER = ".embed"


@dataclass(frozen=True)
class Span:
    """Consecutive items that become one shard.

    Args:
        first: number of the first item.
        rows: number of items.
        offset: where their lines begin in the scan, in bytes.
        size: length of their lines, in bytes.
    """

    first: int
    rows: int
    offset: int
    size: int


@dataclass(frozen=True)
class Part:
    """An embedded span.

    Args:
        name: file name of its record in the work folder.
        shard: its vectors; None if no item could be read.
        skipped: number of items that could not be read.
    """

    name: str
    shard: Shard | None
    skipped: int


class WorkFolder:
    """The folder `.embed` in an index's folder: the scan of the collection and a record of each embedded span.

    Args:
        folder: the index's folder.
        model_id: identity of the model; records made with another model are removed.

    Raises:
        UserError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path, model_id: str) -> None:
        self.index_folder = folder
        self.folder = folder / WORK_FOLDER
        self.lines = self.folder / "items.jsonl"
        self.locations = self.folder / "places.i64"
        self.table = self.folder / "reuse.sqlite"
        self.problems = self.folder / "skipped.jsonl"
        model = self.folder / "model"
        with file_errors(model):
            other_model = model.exists() and read_regular(model, DESCRIPTION_BYTES) != model_id.encode()
        with file_errors(self.folder, "written"):
            if other_model:
                for path in self.folder.glob("part-*.jsonl"):
                    path.unlink()
            write_text(model, model_id)

    def finished_shards(self, dim: int) -> Iterator[tuple[Shard, list[Item]]]:
        """The shards that a killed embedding finished, with their items; damaged ones are ignored."""
        for path in sorted(self.folder.glob("part-*.jsonl")):
            try:
                part = self.part(path.name)
                items = list(self.items(part))
                if (shard := part.shard) and len(items) == shard.rows:
                    map_shard(self.index_folder, shard, dim)
                    if sha256_of(self.index_folder / shard.name) == shard.sha256:
                        yield shard, items
            except (UserError, ValueError, TypeError, KeyError):
                continue

    def scan(self, collection: Items, reuse: ReuseTable, rows: int, fail: bool) -> list[Span]:
        """Read the collection once and record each item and the location of its vector.

        Args:
            collection: the items.
            reuse: the existing vectors.
            rows: maximum number of items per shard.
            fail: raise on the first bad item.

        Returns:
            The spans, in order.

        Raises:
            UserError: a bad item and `fail` is set, or the folder cannot be written.
        """
        for path in (self.lines, self.locations, self.problems):
            # The index may come from somebody else, and this may be a link to any file.
            with file_errors(path, "written"):
                path.unlink(missing_ok=True)
        spans: list[Span] = []
        first = offset = 0
        with (
            file_errors(self.folder, "written"),
            self.lines.open("wb") as lines,
            self.locations.open("wb") as locations,
            self.problems.open("wb") as problems,
        ):
            good = _good_items(collection, fail, problems)
            while items := list(islice(good, rows)):
                size = lines.write("".join(item.line for item in items).encode())
                locations.write(np.array([reuse.location(item) for item in items], np.int64).tobytes())
                spans.append(Span(first, len(items), offset, size))
                first, offset = first + len(items), offset + size
        return spans

    def read(self, span: Span) -> tuple[list[Item], np.ndarray]:
        """The items of a span and the location of each one's vector, int64 `(rows,)`."""
        with self.lines.open("rb") as file:
            file.seek(span.offset)
            items = [Item.of_line(line) for line in file.read(span.size).splitlines()]
        return items, np.fromfile(self.locations, np.int64, span.rows, offset=8 * span.first)

    def record(self, shard: Shard | None, items: list[Item], problems: list[Problem]) -> Part:
        """Record an embedded span, whose shard is in the index's folder."""
        head = {"shard": asdict(shard) if shard else None, "skipped": [asdict(problem) for problem in problems]}
        text = json.dumps(head) + "\n" + "".join(item.line for item in items)
        name = f"part-{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
        with file_errors(self.folder, "written"):
            write_text(self.folder / name, text)
        return Part(name, shard, len(problems))

    def part(self, name: str) -> Part:
        """The part of a record's file name."""
        shard, problems = self._head(name)
        return Part(name, shard, len(problems))

    def items(self, part: Part) -> Iterator[Item]:
        """The items of a part's shard, in row order."""
        with file_errors(self.folder):
            lines = read_regular(self.folder / part.name).splitlines()
        return (Item.of_line(line) for line in lines[1:])

    def write_skipped(self, path: Path, parts: Sequence[Part]) -> int:
        """Write the problems of the scan and of the parts to a file.

        Returns:
            Number of problems.
        """
        with file_errors(self.folder, "written"):
            with atomic_file(path) as file, self.problems.open("rb") as scanned:
                shutil.copyfileobj(scanned, file)
                for part in parts:
                    if part.skipped:
                        file.writelines(_problem_line(problem) for problem in self._head(part.name)[1])
            return path.read_bytes().count(b"\n")

    def remove(self) -> None:
        """Delete the folder, once the index is complete."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _head(self, name: str) -> tuple[Shard | None, list[Problem]]:
        path = self.folder / name
        with file_errors(path), open_regular(path) as file:
            values = json.loads(file.readline())
        shard = Shard(**values["shard"]) if values["shard"] else None
        return shard, [Problem(**problem) for problem in values["skipped"]]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Prevent other processes from embedding into the same index.

    Args:
        folder: the index's folder; created if it is missing.

    Raises:
        UserError: another process embeds into it, or the folder cannot be created.
    """
    if (folder / WORK_FOLDER).is_symlink():
        raise UserError(f"{folder / WORK_FOLDER} is a link; delete it and repeat")
    with file_errors(folder, "written"):
        (folder / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(folder / WORK_FOLDER / "lock")
    try:
        with file_errors(lock.path, "written"):
            lock.acquire()
    except BusyError as busy:
        holder = f" ({busy.holder})" if busy.holder else ""
        raise UserError(f"{folder}: another process{holder} embeds into it; wait, or name another folder") from None
    try:
        yield
    finally:
        lock.release()


def _good_items(collection: Items, fail: bool, problems: IO[bytes]) -> Iterator[Item]:
    """The items that are usable; the problems of the others are written to a file."""
    for found in collection:
        if isinstance(found, Item):
            yield found
        elif fail:
            raise UserError(f"{found}; fix it, or skip such items with --on_bad skip")
        else:
            problems.write(_problem_line(collection.without_folder(found)))


def _problem_line(problem: Problem) -> bytes:
    return json.dumps(asdict(problem)).encode() + b"\n"
