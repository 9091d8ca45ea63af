"""Publishes an index to a store: only what differs is written, and what has gone is deleted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa

from vse_tf.artifacts.index import Index
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.indexing.recall import recall, sample_queries
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import search_queries
from vse_tf.stores.about import About
from vse_tf.stores.rows import hash64, rows_of
from vse_tf.stores.store import Store

BATCH = 8192


@dataclass(frozen=True)
class Published:
    """How a store differs from before.

    Args:
        new: number of rows that are new.
        changed: number of rows with other contents than before.
        deleted: number of rows that are gone.
        unchanged: number of rows that were not written again.
        recall: recall@10 of the approximate index, if there is one.
    """

    new: int
    changed: int
    deleted: int
    unchanged: int
    recall: float | None = None

    def __str__(self) -> str:
        return f"{self.new:,} new, {self.changed:,} changed, {self.deleted:,} deleted, {self.unchanged:,} unchanged"


def publish(
    index: Index,
    store: Store,
    *,
    approximate: bool = False,
    progress: bool = False,
    batch: int = BATCH,
) -> Published:
    """Make a store's table the same as an index.

    Rows are compared by the ids of their items and the digests of their contents, so a call that was killed goes on
    where it was, and a repeated one writes nothing.

    Args:
        index: the index.
        store: the store.
        approximate: build an approximate index of the store. An existing one is kept up to date anyway.
        progress: show progress.
        batch: number of rows that are written at a time.

    Raises:
        UserError: the table holds another collection's vectors, two items have the same id, or the store fails.

    Example:
        publish(Index.open("photos.index"), open_store(address_of("photos.lancedb"), "vectors")).new  # 8091
    """
    about, before = About.of_index(index), store.about()
    if before is not None:
        _check_same(before, about, store.name)
    unit = index.kind
    with phase_if(progress, "reading the index", index.count, unit) as reading:
        keys = _keys(index, reading.update)
    with phase_if(progress, f"comparing with {store.name}"):
        store.begin(about)
        stored = _Stored(store)
    counts = {"new": 0, "changed": 0, "unchanged": 0}
    with phase_if(progress, f"publishing to {store.name}", index.count, unit) as writing:
        items = index.all_items()
        for first, vectors in index.vectors():
            for start in range(0, len(vectors), batch):
                part = vectors[start : start + batch]
                rows = rows_of(list(islice(items, len(part))), part)
                known, same = stored.compare(keys[first + start : first + start + len(part)], rows["digest"].to_numpy())
                store.write(rows.filter(pa.array(~known)), rows.filter(pa.array(known & ~same)))
                counts["new"] += int((~known).sum())
                counts["changed"] += int((known & ~same).sum())
                counts["unchanged"] += int(same.sum())
                writing.update(len(part))
    with phase_if(progress, f"deleting what has gone from {store.name}"):
        gone = _gone(store, keys) if len(stored) + counts["new"] > index.count else []
        if gone:
            store.delete(gone)
    written = counts["new"] + counts["changed"] + len(gone) > 0
    if index.count and (approximate or (written and store.has_index())):
        with phase_if(progress, "building the approximate index"):
            store.index(index.dim, index.count)
    with phase_if(progress, "finishing"):
        store.finish(replace(about, complete=True))
        found = _recall(index, store) if index.count and store.has_index() else None
        if found is not None:
            store.finish(replace(about, complete=True, recall=found))
    return Published(counts["new"], counts["changed"], len(gone), counts["unchanged"], found)


class _Stored:
    """What the store has: keys and digests, in the order of the keys."""

    def __init__(self, store: Store) -> None:
        keys, digests = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for some, their in store.digests():
            keys.append(_hashes(some))
            digests.append(np.array(their, np.int64))
        every = np.concatenate(keys)
        order = np.argsort(every)
        self.keys, self.digests = every[order], np.concatenate(digests)[order]

    def __len__(self) -> int:
        return len(self.keys)

    def compare(self, keys: np.ndarray, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows are there, and which of them have these digests; bool `(n,)` each."""
        if not len(self.keys):
            return np.zeros(len(keys), bool), np.zeros(len(keys), bool)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[places] == keys
        return known, known & (self.digests[places] == digests)


def _check_same(before: About, about: About, name: str) -> None:
    if (before.kind, before.dim, before.model.get("id")) != (about.kind, about.dim, about.model.get("id")):
        raise UserError(
            f"{name}: it holds vectors of another model or kind ({before.model.get('name')}, {before.kind}), and "
            "their spaces are unrelated; name another --table, and switch to it when it is complete"
        )


def _hashes(ids: list[str]) -> np.ndarray:
    return np.array([hash64(each.encode()) for each in ids], np.int64)


def _keys(index: Index, advance: Callable[[int], object]) -> np.ndarray:
    """A hash of each item's id, in row order.

    Raises:
        UserError: two items have the same id.
    """
    parts, items = [np.zeros(0, np.int64)], index.all_items()
    while some := list(islice(items, BATCH)):
        parts.append(_hashes([item.id for item in some]))
        advance(len(some))
    keys = np.concatenate(parts)
    unique, counts = np.unique(keys, return_counts=True)
    if len(unique) < len(keys):
        twice = next(item.id for item in index.all_items() if hash64(item.id.encode()) in unique[counts > 1])
        raise UserError(
            f"{index.folder}: two items are called {twice!r}, and a store needs one name for each: publish merged "
            "indexes one by one, to a --table of their own"
        )
    return keys


def _gone(store: Store, keys: np.ndarray) -> list[str]:
    """The ids of rows that are no longer in the index."""
    present, gone = np.sort(keys), list[str]()
    for ids, _ in store.digests():
        hashes = _hashes(ids)
        places = np.minimum(np.searchsorted(present, hashes), max(0, len(present) - 1))
        missing = present[places] != hashes if len(present) else np.ones(len(ids), bool)
        gone += [each for each, is_gone in zip(ids, missing, strict=True) if is_gone]
    return gone


def _recall(index: Index, store: Store) -> float:
    """recall@10 of the store's approximate index against exact search of the index."""

    def search(query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = store.nearest(search_queries(query, index.kind, index.plain_dim), k, exact=False)
        # Fewer than k rows are filled up with what is no hash of an id here.
        keys = np.zeros([len(query), k], np.int64)
        for row, each in zip(keys, found, strict=True):
            row[: len(each)] = _hashes(each["id"].to_pylist())
        return keys, keys

    def exact(query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows, scores = ExactSearch(index)(query, k)
        ids = [item.id for item in index.items(rows.reshape(-1))]
        return _hashes(ids).reshape(rows.shape), scores

    return recall(search, exact, sample_queries(index))
