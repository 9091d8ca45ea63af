"""Embeds a collection into an index: what is there already is kept, the rest is encoded shard by shard."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from vse_tf.artifacts.index import Index, Item, Shard
from vse_tf.artifacts.index_manifest import MANIFEST, Kind
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.provenance import software
from vse_tf.config import OnBad
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.indexing.items import Items
from vse_tf.indexing.reuse import NOWHERE, Reuse, gather, whole
from vse_tf.indexing.work import FOLDER, Part, Span, Work, locked

SHARD_ROWS = 16384
SKIPPED = "skipped.jsonl"


class Encoder(Protocol):
    """A model that embeds, known by its files and loaded when it is first used.

    Attributes:
        model: its identity for the manifest: `kind`, `path`, `id`, …; two models with one `id` give the same vectors.
        dim: dimensions of the space.
    """

    @property
    def model(self) -> dict[str, Any]: ...

    @property
    def dim(self) -> int: ...

    def encode_files(
        self, paths: Sequence[str], on_bad: OnBad, advance: Callable[[int], Any] = ...
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Vectors of the photos that can be read, their positions in `paths`, and the problems of the others."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of sentences."""


@dataclass(frozen=True)
class Embedded:
    """What came of an embedding.

    Args:
        index: the index.
        same: items that it held before.
        changed: items whose photo or caption is another one now.
        new: items that it did not hold.
        deleted: items that it holds no longer.
        skipped: items left out; `skipped.jsonl` lists them.
    """

    index: Index
    same: int
    changed: int
    new: int
    deleted: int
    skipped: int


@dataclass(frozen=True)
class Job:
    """All that turning a span into a shard needs, on this machine or on another one.

    Args:
        folder: the index's folder.
        kind: of the collection.
        root: folder that relative photo paths are below.
        sources: shards that hold vectors already.
        encoder: the model.
        on_bad: what to do with photos that cannot be read.
    """

    folder: Path
    kind: Kind
    root: Path | None
    sources: tuple[Shard, ...]
    encoder: Encoder
    on_bad: OnBad

    @cached_property
    def work(self) -> Work:
        """The work folder."""
        return Work(self.folder, self.encoder.model["id"])

    def do(self, span: Span, advance: Callable[[int], Any] = lambda count: None) -> Part:
        """Put a span's shard into the index's folder and record it.

        Args:
            span: the items.
            advance: told how many items are done.

        Raises:
            UserError: a photo cannot be read and `on_bad` is `fail`, or a vector is not finite.
        """
        items, places = self.work.read(span)
        sources = list(self.sources)
        advance(int(np.count_nonzero(places != NOWHERE)))
        if (shard := whole(sources, places)) is not None:
            return self.work.finish(shard, items, [])
        there = places != NOWHERE
        vectors = np.empty([len(items), self.encoder.dim], np.float32)
        vectors[there] = gather(self.folder, sources, places[there], self.encoder.dim)
        missing = np.flatnonzero(~there)
        problems: list[Problem] = []
        if missing.size:
            fresh, got, problems = self._encode([items[i] for i in missing], advance)
            problems = [self._shared(problem) for problem in problems]
            vectors[missing[got]], there[missing[got]] = fresh, True
        kept = [item for item, has in zip(items, there, strict=True) if has]
        return self.work.finish(self._write(vectors[there], kept), kept, problems)

    def _encode(self, items: list[Item], advance: Callable[[int], Any]) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        if self.kind == "captions":
            vectors = self.encoder.encode_texts([item.caption or "" for item in items])
            advance(len(items))
            return vectors, np.arange(len(items)), []
        paths = [str(Path(self.root or "", item.path or "")) for item in items]
        return self.encoder.encode_files(paths, self.on_bad, advance)

    def _shared(self, problem: Problem) -> Problem:
        """A problem without the folder of the photos: the index is handed on."""
        folder = os.path.join(self.root or "", "")  # noqa: PTH118 - the root may be "/"
        return Problem(problem.where.removeprefix(folder), problem.what.replace(folder, "") if folder else problem.what)

    def _write(self, vectors: np.ndarray, items: list[Item]) -> Shard | None:
        if not len(vectors):
            return None
        wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if wrong.size:
            raise UserError(f"{items[wrong[0]].id}: its vector is not finite: the model has diverged; train it again")
        return IndexWriter(self.folder, self.kind, self.encoder.dim).write(vectors)


Runner = Callable[[Job, Sequence[Span]], Iterable[str]]


def embed(
    collection: Items,
    encoder: Encoder,
    folder: str | Path,
    *,
    on_bad: OnBad = "skip",
    shard_rows: int = SHARD_ROWS,
    runner: Runner | None = None,
    progress: bool = False,
    note: Callable[[str], Any] = lambda line: None,
) -> Embedded:
    """Embed a collection, or bring its index up to date.

    The index holds the collection in its own order, as if it had been embedded at once. Vectors of items that have not
    changed are taken from the index that is there; a killed call, repeated, takes those of the shards that it finished.
    Readers see the old index until the new one is complete.

    Args:
        collection: what to embed.
        encoder: the model.
        folder: the index's folder.
        on_bad: leave out photos that cannot be read (skip) or stop (fail).
        shard_rows: rows of a shard: what is held in memory, and what a killed call loses at most.
        runner: does the spans elsewhere and gives the names of their parts in order (default: here, one after another).
        progress: show a bar.
        note: told what the person at the keyboard should know.

    Raises:
        UserError: nothing to embed, a bad photo under `fail`, a folder that holds something else or cannot be written.

    Example:
        >>> embed(photos("holiday"), RunEncoder("runs/shapes-convse-0"), "holiday.index").index.count
        8091
    """
    folder = Path(folder)
    _check_free(folder)
    with locked(folder):
        work = Work(folder, encoder.model["id"])
        earlier = _earlier(folder, collection.kind, note)
        sources, reuse = _sources(work, earlier, encoder, note)
        spans = work.scan(collection, reuse, shard_rows, on_bad == "fail")
        job = Job(folder, collection.kind, collection.root, tuple(sources), encoder, on_bad)
        parts = [work.part(name) for name in (runner or _here(progress))(job, spans)] if spans else []
        skipped = work.write_skipped(folder / SKIPPED, parts)
        shards = [part.shard for part in parts if part.shard]
        if not shards:
            bad = f": {skipped} bad ones are listed in {folder / SKIPPED}" if skipped else ""
            raise UserError(f"{collection.source}: no {collection.kind} to embed{bad}")
        counts: Counter[str] = Counter()

        def items() -> Iterator[Item]:
            for item in (item for part in parts for item in work.items(part)):
                counts[reuse.status(item)] += 1
                yield item

        writer = IndexWriter(folder, collection.kind, encoder.dim)
        index = writer.commit(shards, items(), encoder.model, collection.root, software())
        reuse.close()
        work.remove()
    before = earlier.count if earlier else 0
    deleted = max(0, before - counts["same"] - counts["changed"])
    return Embedded(index, counts["same"], counts["changed"], counts["new"], deleted, skipped)


def _check_free(folder: Path) -> None:
    """Refuse a place that holds something else."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output: {folder} is a file; name a folder")
    ours = (MANIFEST, FOLDER)
    if folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours):
        raise UserError(f"--output: {folder} holds something that is not an index; choose another folder")


def _earlier(folder: Path, kind: Kind, note: Callable[[str], Any]) -> Index | None:
    """The index that is there; a damaged one counts as none."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        index = Index.open(folder)
        # Reading a vector costs less than asking for the state of its photo.
        index.verify()
    except UserError as error:
        note(f"embedding everything again: {error}")
        return None
    if index.kind != kind:
        raise UserError(f"--output: {folder} is an index of {index.kind}; choose another folder for {kind}")
    return index


def _sources(
    work: Work, earlier: Index | None, encoder: Encoder, note: Callable[[str], Any]
) -> tuple[list[Shard], Reuse]:
    """The shards with vectors of this model, and the table of what is in them."""
    reuse, sources = Reuse(work.table), []
    if earlier:
        usable = earlier.model.get("id") == encoder.model["id"] and earlier.dim == encoder.dim
        if not usable:
            note("embedding everything again: another model made this index")
        held = earlier.all_items()
        for number, shard in enumerate(earlier.shards):
            reuse.add(number, islice(held, shard.rows), earlier=True, usable=usable)
        sources = list(earlier.shards)
    for shard, items in work.parts(encoder.dim):
        reuse.add(len(sources), items)
        sources.append(shard)
    return sources, reuse


def _here(progress: bool) -> Runner:
    """Spans one after another in this process."""

    def run(job: Job, spans: Sequence[Span]) -> Iterator[str]:
        total = sum(span.rows for span in spans)
        unit = "photo" if job.kind == "images" else "caption"
        with tqdm(total=total, desc="embedding", unit=f" {unit}s", disable=not progress, smoothing=0.05) as bar:
            for span in spans:
                yield job.do(span, bar.update).name

    return run
