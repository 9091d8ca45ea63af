"""Embeds a collection into an index: reuses existing vectors and encodes the other items, one shard at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from vse_tf.addresses import last_name
from vse_tf.artifacts.background import background_texts
from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_manifest import MANIFEST, Kind
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.provenance import software
from vse_tf.artifacts.shards import Shard, map_shard
from vse_tf.config import OnBad
from vse_tf.data.records import EncodedImages, Problem
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.indexing.compacting import compact_summary, compacted
from vse_tf.indexing.items import Items
from vse_tf.indexing.relevance import calibrate
from vse_tf.indexing.reuse import MISSING, ReuseTable, equal_shard, gather
from vse_tf.indexing.work_folder import WORK_FOLDER, Part, Span, WorkFolder, locked

SHARD_ROWS = 16384
SKIPPED = "skipped.jsonl"


class EmbeddingModel(Protocol):
    """A model that embeds image files and texts, and is loaded when it is first used.

    Attributes:
        identity: what the index's manifest says of it: `kind`, `name`, `path`, `id`, …; models with the same `id` give
            the same vectors.
        dim: dimensions of the vectors.
        plain_dim: dimensions of the space, see `Index`.
    """

    @property
    def identity(self) -> dict[str, str]: ...

    @property
    def dim(self) -> int: ...

    @property
    def plain_dim(self) -> int: ...

    def encode_files(
        self, paths: Sequence[str] | EncodedImages, on_bad: OnBad, advance: Callable[[int], object] = ...
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Embed image files.

        Args:
            paths: the files, or encoded images that are parts of larger files.
            on_bad: `skip` or `fail`, for images that cannot be read.
            advance: called with the number of images done since the last call.

        Returns:
            Vectors of the readable images, float32 `(n, dim)`; their positions in `paths`, int64 `(n,)`; the problems
            of the others.

        Raises:
            UserError: an image cannot be read and `on_bad` is `fail`, or the model does not take image files.
        """

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed captions or query texts.

        Returns:
            float32 `(len(texts), dim)`.
        """


@dataclass(frozen=True)
class EmbeddingResult:
    """The new index and how it differs from the one before.

    Args:
        index: the index.
        unchanged: number of items that are as before.
        changed: number of items with another image or caption than before.
        new: number of items that are new.
        deleted: number of items that are gone.
        skipped: number of items that could not be embedded; `skipped.jsonl` lists them.
    """

    index: Index
    unchanged: int
    changed: int
    new: int
    deleted: int
    skipped: int

    def summary(self, ignored: Counter[str]) -> list[str]:
        """What was done, in lines for the user.

        Args:
            ignored: of the collection, see `Items`.
        """
        counts = f"{self.new:,} new, {self.changed:,} changed, {self.deleted:,} deleted, {self.unchanged:,} unchanged"
        skipped = f"{self.skipped:,} skipped: see {self.index.folder / SKIPPED}"
        kinds = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in ignored.most_common(5))
        return [
            counts,
            *([skipped] if self.skipped else []),
            *([f"ignored, since they are not images: {kinds}"] if ignored else []),
        ]


@dataclass(frozen=True)
class SpanEmbedder:
    """Embeds spans of a collection, in this process or, pickled, in another one.

    Args:
        folder: the index's folder.
        collection: the collection.
        sources: shards with reusable vectors.
        model: the model.
        on_bad: `skip` or `fail`, for images that cannot be read.
    """

    folder: Path
    collection: Items
    sources: tuple[Shard, ...]
    model: EmbeddingModel
    on_bad: OnBad

    @cached_property
    def work(self) -> WorkFolder:
        """The work folder."""
        return WorkFolder(self.folder, self.model.identity["id"])

    def embed(self, span: Span, advance: Callable[[int], object] = lambda count: None) -> Part:
        """Write the shard of a span into the index's folder and record it.

        Args:
            span: the items.
            advance: called with the number of items done since the last call.

        Raises:
            UserError: an image cannot be read and `on_bad` is `fail`, or a vector is not finite.
        """
        items, locations = self.work.read(span)
        sources = list(self.sources)
        done = locations != MISSING
        advance(int(np.count_nonzero(done)))
        if (shard := equal_shard(sources, locations)) is not None:
            return self.work.record(shard, items, [])
        vectors = np.empty([len(items), self.model.dim], np.float32)
        vectors[done] = gather(self.folder, sources, locations[done], self.model.dim)
        missing = np.flatnonzero(~done)
        problems: list[Problem] = []
        if missing.size:
            encoded, positions, problems = self._encode([items[i] for i in missing], advance)
            problems = [self.collection.without_folder(problem) for problem in problems]
            vectors[missing[positions]], done[missing[positions]] = encoded, True
        good = [item for item, is_done in zip(items, done, strict=True) if is_done]
        return self.work.record(self._write(vectors[done], good), good, problems)

    def _encode(
        self, items: list[Item], advance: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        if self.collection.kind == "captions":
            vectors = self.model.encode_texts([item.caption or "" for item in items])
            advance(len(items))
            return vectors, np.arange(len(items)), []
        return self.model.encode_files(self.collection.images(items), self.on_bad, advance)

    def _write(self, vectors: np.ndarray, items: list[Item]) -> Shard | None:
        if not len(vectors):
            return None
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if bad.size:
            raise UserError(f"{items[bad[0]].id}: its vector is not finite: the model has diverged; train it again")
        return IndexWriter(self.folder, self.collection.kind, self.model.dim).write(vectors)


Runner = Callable[[SpanEmbedder, Sequence[Span]], Iterable[str]]


def embed(
    collection: Items,
    model: EmbeddingModel,
    folder: str | Path,
    *,
    on_bad: OnBad = "skip",
    shard_rows: int = SHARD_ROWS,
    storage: str | None = None,
    runner: Runner | None = None,
    portable: bool = False,
    progress: bool = False,
    note: Callable[[str], object] = lambda line: None,
) -> EmbeddingResult:
    """Embed a collection, or update its index.

    The rows of the index are in the order of the collection. Vectors of unchanged items are reused from the existing
    index; a call that was killed and is repeated reuses the shards that it had finished. Readers see the old index
    until the new one is complete.

    Args:
        collection: what to embed.
        model: the model.
        folder: the index's folder.
        on_bad: skip images that cannot be read (`skip`) or raise (`fail`).
        shard_rows: maximum number of rows per shard: this many vectors are in memory at a time, and a killed call
            loses at most this many.
        storage: store the vectors in a smaller form too, which is then searched first, see
            `vse_tf.artifacts.compact.Form.of` (default: as before, or else `float32`: they are not).
        runner: embeds the spans and returns the names of their parts in order (default: one span after another in this
            process).
        portable: for another machine, see `IndexWriter`.
        progress: show a progress bar.
        note: called with each message for the user.

    Raises:
        UserError: nothing to embed, a bad image and `on_bad` is `fail`, a wrong `storage`, or a folder that holds
            something else or cannot be written.

    Example:
        embed(image_items("holiday"), RunModel("runs/shapes-convse-0"), "holiday.index").index.count  # 8091
    """
    folder = Path(folder)
    _check_output(folder)
    form = None if storage is None else Form.of(storage, model.dim, model.plain_dim)
    with locked(folder):
        work = WorkFolder(folder, model.identity["id"])
        with phase_if(progress, f"looking for {collection.kind}"):
            earlier = _earlier_index(folder, collection.kind, note)
            sources, reuse = _reusable_shards(work, earlier, model, note)
            if storage is None and earlier is not None and earlier.model_dim == model.dim:
                form = None if earlier.compact is None else earlier.compact.form
            spans = work.scan(collection, reuse, shard_rows, on_bad == "fail")
        embedder = SpanEmbedder(folder, collection, tuple(sources), model, on_bad)
        parts = [work.part(name) for name in (runner or _local_runner(progress))(embedder, spans)] if spans else []
        skipped = work.write_skipped(folder / SKIPPED, parts)
        shards = [part.shard for part in parts if part.shard]
        if not shards:
            bad = f": {skipped} bad ones are listed in {folder / SKIPPED}" if skipped else ""
            raise UserError(f"{collection.source}: no {collection.kind} to embed{bad}")
        counts: Counter[str] = Counter()

        def items() -> Iterator[Item]:
            for part in parts:
                for item in work.items(part):
                    counts[reuse.status(item)] += 1
                    yield item

        calibration = _calibration(folder, shards, collection.kind, model, earlier, progress)
        writer = IndexWriter(folder, collection.kind, model.dim, model.plain_dim, portable)
        compact = compacted(writer, shards, form, calibration, earlier, progress)
        with phase_if(progress, "writing the index"):
            index = writer.commit(
                shards,
                items(),
                model.identity,
                None if collection.address else collection.root,
                software(),
                last_name(collection.address) if collection.address else None,
                calibration,
                compact,
            )
            reuse.close()
            work.remove()
            if compact is not None and (earlier is None or compact is not earlier.compact):
                note(compact_summary(index))
    before = earlier.count if earlier else 0
    deleted = max(0, before - counts["unchanged"] - counts["changed"])
    return EmbeddingResult(index, counts["unchanged"], counts["changed"], counts["new"], deleted, skipped)


def _check_output(folder: Path) -> None:
    """Refuse a folder that holds something other than an index."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the index")
    ours = (MANIFEST, WORK_FOLDER)
    if folder.exists() and any(folder.iterdir()) and not any((folder / name).exists() for name in ours):
        raise UserError(f"{folder} holds something that is not an index; choose another folder for the index")


def _earlier_index(folder: Path, kind: Kind, note: Callable[[str], object]) -> Index | None:
    """The existing index; None if there is none or it is damaged."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        index = Index.open(folder)
        # Hashing a vector takes less time than asking for the size and mtime of its image.
        index.verify()
    except UserError as error:
        note(f"embedding everything again: {error}")
        return None
    if index.kind != kind:
        raise UserError(f"{folder} is an index of {index.kind}; choose another folder for {kind}")
    return index


def _reusable_shards(
    work: WorkFolder, earlier: Index | None, model: EmbeddingModel, note: Callable[[str], object]
) -> tuple[list[Shard], ReuseTable]:
    """The shards with vectors of this model, and the table of their items."""
    reuse, shards = ReuseTable(work.table), []
    if earlier:
        usable = earlier.model.get("id") == model.identity["id"] and earlier.dim == model.dim and earlier.complete
        if not earlier.complete:
            note("embedding everything again: the index has no float32 vectors")
        elif not usable:
            note("embedding everything again: another model made this index")
        items = earlier.all_items()
        for number, shard in enumerate(earlier.shards):
            reuse.add(number, islice(items, shard.rows), earlier=True, usable=usable)
        shards = list(earlier.shards)
    for shard, shard_items in work.finished_shards(model.dim):
        reuse.add(len(shards), shard_items)
        shards.append(shard)
    return shards, reuse


def _calibration(
    folder: Path, shards: list[Shard], kind: Kind, model: EmbeddingModel, earlier: Index | None, progress: bool
) -> Calibration:
    """What a score means in the new index; that of the earlier one if it has the same vectors."""
    same = earlier is not None and earlier.complete and earlier.model.get("id") == model.identity["id"]
    before = earlier.calibration if earlier is not None and same else None
    if before is not None and earlier is not None and earlier.shards == shards:
        return before
    with phase_if(progress, "measuring the relevance of scores"):
        texts = None if before is None else before.texts
        if texts is None and kind == "images":
            texts = model.encode_texts(background_texts(model.identity))

        def vectors() -> Iterator[np.ndarray]:
            return (map_shard(folder, shard, model.dim) for shard in shards)

        return calibrate(vectors, sum(shard.rows for shard in shards), kind, model.plain_dim, texts)


def _local_runner(progress: bool) -> Runner:
    """Embeds one span after another in this process."""

    def run(embedder: SpanEmbedder, spans: Sequence[Span]) -> Iterator[str]:
        total = sum(span.rows for span in spans)
        with phase_if(progress, "embedding", total, embedder.collection.kind) as bar:
            for span in spans:
                yield embedder.embed(span, bar.update).name

    return run
