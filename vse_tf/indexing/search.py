"""Exact search of an index: the rows with the highest scores for a query, and their items. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np

from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_base import IndexBase
from vse_tf.data.sources.files import short_repr
from vse_tf.errors import UserError
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.evaluation.similarity import BLOCK_BYTES
from vse_tf.models.folding import search_queries


@dataclass(frozen=True)
class Hit:
    """A search result.

    Args:
        rank: rank of the hit, 1 for the best.
        row: row in the index; None in a store.
        score: dot product with the query: their cosine, unless the model has a hubness correction and the query and the
            item are of different modalities (see `vse_tf.models.hubness`).
        item: item of the row.
        path: path of the image; None for a caption.
        relevance: the share of ordinary queries that find something worse, see `vse_tf.indexing.relevance`; None where
            the index is not calibrated for such queries.
    """

    rank: int
    row: int | None
    score: float
    item: Item
    path: Path | None = None
    relevance: float | None = None

    @property
    def caption(self) -> str | None:
        """The caption; None for an image."""
        return self.item.caption

    def to_dict(self) -> dict[str, str | int | float | None]:
        """The hit as a JSON object: `rank`, `item` (its id), `path` or `caption`, `score`, `relevance`, `row`."""
        scores = {"score": self.score, "relevance": self.relevance}
        content = {"caption": self.item.caption} if self.path is None else {"path": str(self.path)}
        return {"rank": self.rank, "item": self.item.id, **content, **scores, "row": self.row}


class Search(Protocol):
    """A search backend, exact or approximate."""

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of each query.

        Args:
            query: float32 `(q, dim)`.
            k: maximum number of rows per query.

        Returns:
            Rows, int64 `(q, n)` with `n <= k`, and their scores, float32 of the same shape, best first.
        """


class ExactSearch:
    """Compares each query with each vector, shard by shard, by matrix products.

    Rows whose scores are equal in float32 are in ascending order. The result does not depend on the shards, the block
    size or the BLAS.

    Args:
        index: the index.
        block_bytes: see `vse_tf.evaluation.neighbours.nearest`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from vse_tf.artifacts.index_writer import IndexWriter
        >>> with TemporaryDirectory() as folder:
        ...     writer = IndexWriter(folder, "captions", dim=2)
        ...     items = [Item("1", caption="a dog"), Item("2", caption="a cat")]
        ...     index = writer.commit([writer.write(np.eye(2))], items, model={})
        ...     ExactSearch(index)(np.float32([[0.6, 0.8]]), k=1)
        (array([[1]]), array([[0.8]], dtype=float32))
    """

    def __init__(self, index: Index, block_bytes: int = BLOCK_BYTES) -> None:
        self.index = index
        self.block_bytes = block_bytes

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of each query.

        Args:
            query: float32 `(q, dim)`.
            k: maximum number of rows per query.

        Returns:
            Rows, int64 `(q, min(k, count))`, and their scores, float32 of the same shape, best first.

        Raises:
            NonFiniteError: a query is not finite.
        """
        query = search_queries(query, self.index.kind, self.index.plain_dim)
        best = Nearest(query, min(k, self.index.count), self.block_bytes)
        for _, vectors in self.index.vectors():
            best.add(vectors, unit=True)
        return best.result()


def hits(
    index: Index,
    rows: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    relevance: Sequence[float] | np.ndarray | None = None,
) -> list[Hit]:
    """The hits of one query.

    Args:
        index: the index.
        rows: rows of the hits, best first.
        scores: score of each row.
        relevance: relevance of each row, if it is known.

    Raises:
        UserError: items.jsonl is damaged.
    """
    return hits_of(index, index.items(rows), scores, relevance, rows)


def hits_of(
    index: IndexBase,
    items: Sequence[Item],
    scores: Sequence[float] | np.ndarray,
    relevance: Sequence[float] | np.ndarray | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
) -> list[Hit]:
    """The hits of one query by their items; otherwise as `hits`."""
    known = [None] * len(items) if relevance is None else [round(float(value), 4) for value in relevance]
    numbers = [None] * len(items) if rows is None else [int(row) for row in rows]
    results = zip(numbers, scores, items, known, strict=True)
    return [
        Hit(rank, row, float(score), item, None if item.path is None else index.path(item), value)
        for rank, (row, score, item, value) in enumerate(results, 1)
    ]


def check_model(index: IndexBase, identity: Mapping[str, str]) -> None:
    """Refuse a model other than the one that made the index.

    Args:
        index: the index.
        identity: identity of the model that embeds the query.

    Raises:
        UserError: the models differ.
    """
    if index.model.get("id") != identity["id"]:
        made = short_repr(index.model.get("path") or index.model.get("name") or "an unknown model")
        raise UserError(
            f"{index.source}: its vectors were made by {made} as it was then, not by {identity['path']} as it is now; "
            "embed again, or name the model that made it"
        )


def hits_table(hits: Sequence[Hit]) -> str:
    """Format hits as aligned text, one line per hit.

    Args:
        hits: best first.

    Returns:
        Lines without a line break at the end: rank, score, relevance in percent if it is known, path or caption.
        Control characters are replaced by `?`.

    Example:
        >>> dog, cat = Item("18", caption="a dog"), Item("4", caption="a cat")
        >>> print(hits_table([Hit(1, 17, 0.4123, dog, relevance=0.97), Hit(2, 3, 0.398, cat, relevance=0.004)]))
          1  0.412   97 %  a dog
          2  0.398    0 %  a cat
    """
    lines = []
    for hit in hits:
        text = (hit.item.caption or "") if hit.path is None else str(hit.path)
        if hit.path is not None and (name := PurePath(hit.item.id).name) != hit.path.name:
            # An image in a shard, whose path is the shard's.
            text = f"{text}: {name}"
        printable = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
        relevance = "" if hit.relevance is None else f"{100 * hit.relevance:>3.0f} %  "
        lines.append(f"{hit.rank:>3}  {hit.score:.3f}  {relevance}{printable}")
    return "\n".join(lines)
