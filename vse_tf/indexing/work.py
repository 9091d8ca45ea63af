"""What an embedding keeps while it runs, so that a killed one loses no finished shard. No TensorFlow here."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np

from vse_tf.artifacts.index import Item, Shard, map_shard
from vse_tf.atomic import atomic_file, write_text
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.files import file_errors, sha256_of
from vse_tf.indexing.items import Items
from vse_tf.indexing.reuse import Reuse
from vse_tf.locks import BusyError, ProcessLock

FOLDER = ".embed"


@dataclass(frozen=True)
class Span:
    """Consecutive items that become one shard.

    Args:
        first: number of the first item.
        rows: number of items.
        offset: where their lines begin in the scan.
        size: bytes of their lines.
    """

    first: int
    rows: int
    offset: int
    size: int


@dataclass(frozen=True)
class Part:
    """What became of a span.

    Args:
        name: of its record.
        shard: its vectors; None where no item could be read.
        skipped: how many could not.
    """

    name: str
    shard: Shard | None
    skipped: int


class Work:
    """The folder `.embed` in an index's folder: the scan of the collection and a record of each finished part.

    Args:
        folder: the index's folder.
        model: identity of the model; the parts of another one are thrown away.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.index_folder = folder
        self.folder = folder / FOLDER
        self.lines = self.folder / "items.jsonl"
        self.places = self.folder / "places.i64"
        self.table = self.folder / "reuse.sqlite"
        self.problems = self.folder / "skipped.jsonl"
        owner = self.folder / "model"
        with file_errors(self.folder, "written"):
            if owner.exists() and owner.read_text(encoding="utf-8") != model:
                for path in self.folder.glob("part-*.jsonl"):
                    path.unlink()
            write_text(owner, model)

    def parts(self, dim: int) -> Iterator[tuple[Shard, list[Item]]]:
        """The whole shards, with their items, that a killed embedding left; damaged ones are passed over."""
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

    def scan(self, collection: Items, reuse: Reuse, rows: int, fail: bool) -> list[Span]:
        """Go through the collection once and note every item and where its vector is.

        Args:
            collection: the items.
            reuse: the vectors there are.
            rows: items of a shard.
            fail: stop at the first item that is bad.

        Returns:
            The spans, in order.

        Raises:
            UserError: a bad item where `fail`, or the folder cannot be written.
        """
        for path in (self.lines, self.places, self.problems):
            # The index may be a stranger's, and this a link to any file.
            with file_errors(path, "written"):
                path.unlink(missing_ok=True)
        with (
            file_errors(self.folder, "written"),
            self.lines.open("wb") as lines,
            self.places.open("wb") as places,
            self.problems.open("wb") as problems,
        ):
            return _scan(collection, reuse, rows, fail, lines, places, problems)

    def read(self, span: Span) -> tuple[list[Item], np.ndarray]:
        """A span's items and the place of each one's vector."""
        with self.lines.open("rb") as file:
            file.seek(span.offset)
            items = [Item.of_line(line) for line in file.read(span.size).splitlines()]
        return items, np.fromfile(self.places, np.int64, span.rows, offset=8 * span.first)

    def finish(self, shard: Shard | None, items: list[Item], problems: list[Problem]) -> Part:
        """Record what became of a span; its shard is in the index's folder."""
        head = {"shard": asdict(shard) if shard else None, "skipped": [asdict(problem) for problem in problems]}
        text = json.dumps(head) + "\n" + "".join(item.line for item in items)
        name = f"part-{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
        with file_errors(self.folder, "written"):
            write_text(self.folder / name, text)
        return Part(name, shard, len(problems))

    def part(self, name: str) -> Part:
        """A recorded part."""
        shard, problems = self._head(name)
        return Part(name, shard, len(problems))

    def items(self, part: Part) -> Iterator[Item]:
        """The items of a part's rows."""
        with file_errors(self.folder):
            lines = (self.folder / part.name).read_bytes().splitlines()
        return (Item.of_line(line) for line in lines[1:])

    def write_skipped(self, path: Path, parts: Sequence[Part]) -> int:
        """Write the problems of the scan and of the parts to a file; returns their number."""
        with file_errors(self.folder, "written"):
            with atomic_file(path) as file, self.problems.open("rb") as scanned:
                shutil.copyfileobj(scanned, file)
                for part in parts:
                    if part.skipped:
                        file.writelines(_problem_line(problem) for problem in self._head(part.name)[1])
            return path.read_bytes().count(b"\n")

    def remove(self) -> None:
        """The index is complete: nothing of this is needed any longer."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _head(self, name: str) -> tuple[Shard | None, list[Problem]]:
        path = self.folder / name
        with file_errors(path), path.open("rb") as file:
            values = json.loads(file.readline())
        shard = Shard(**values["shard"]) if values["shard"] else None
        return shard, [Problem(**problem) for problem in values["skipped"]]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from embedding into the same index.

    Args:
        folder: the index's folder; made where it is missing.

    Raises:
        UserError: another process does, or the folder cannot be made.
    """
    if (folder / FOLDER).is_symlink():
        raise UserError(f"{folder / FOLDER} is a link; delete it and repeat")
    with file_errors(folder, "written"):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    lock = ProcessLock(folder / FOLDER / "lock")
    try:
        with file_errors(lock.path, "written"):
            lock.acquire()
    except BusyError as busy:
        raise UserError(
            f"{folder}: another process{busy.holder and f' ({busy.holder})'} embeds into it; wait, or name another "
            "--output"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _scan(
    collection: Items, reuse: Reuse, rows: int, fail: bool, lines: IO[bytes], places: IO[bytes], problems: IO[bytes]
) -> list[Span]:
    spans: list[Span] = []
    waiting: list[int] = []
    first, offset, size = 0, 0, 0

    def cut() -> None:
        nonlocal first, offset, size
        if waiting:
            spans.append(Span(first, len(waiting), offset, size))
            places.write(np.array(waiting, np.int64).tobytes())
            first, offset, size = first + len(waiting), offset + size, 0
            waiting.clear()

    for found in collection:
        if isinstance(found, Problem):
            if fail:
                raise UserError(f"{found}; mend it, or leave such items out with --on_bad skip")
            problems.write(_problem_line(collection.shared(found)))
            continue
        size += lines.write(found.line.encode())
        waiting.append(reuse.place(found))
        if len(waiting) == rows:
            cut()
    cut()
    return spans


def _problem_line(problem: Problem) -> bytes:
    return json.dumps(asdict(problem)).encode() + b"\n"
