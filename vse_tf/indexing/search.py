"""Searching an index: the best-scoring rows of a query, exactly, and what they stand for. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vse_tf.artifacts.index import Index, Item
from vse_tf.data.sources.files import short_repr
from vse_tf.errors import UserError
from vse_tf.evaluation.neighbours import Nearest
from vse_tf.evaluation.similarity import BLOCK_BYTES


@dataclass(frozen=True)
class Hit:
    """An answer.

    Args:
        rank: its place, from 1.
        row: its row in the index.
        score: cosine with the query.
        item: what the row stands for.
        path: where its photo is; None for a caption.
    """

    rank: int
    row: int
    score: float
    item: Item
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON: `rank`, `item` (its id), `path` or `caption`, `score`, `row`."""
        what = {"caption": self.item.caption} if self.path is None else {"path": str(self.path)}
        return {"rank": self.rank, "item": self.item.id, **what, "score": self.score, "row": self.row}


class Search(Protocol):
    """A way to find the best-scoring rows."""

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows `(q, min(k, count))` int64 and their scores, float32, best first."""


class ExactSearch:
    """Compares every query with every vector, shard by shard, by matrix products.

    Scores that are equal in float32 keep the order of the rows. The result depends neither on the shards nor on the
    block size nor on the BLAS.

    Args:
        index: the index.
        block_bytes: see `vse_tf.evaluation.neighbours.nearest`.

    Example:
        >>> rows, scores = ExactSearch(index)(model.encode_texts(["two dogs in the snow"]), k=10)
    """

    def __init__(self, index: Index, block_bytes: int = BLOCK_BYTES) -> None:
        self.index = index
        self.block_bytes = block_bytes

    def __call__(self, query: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k best rows of every query.

        Args:
            query: float32 `(q, dim)`.
            k: how many; more than there are rows gives all.

        Returns:
            Rows `(q, min(k, count))` int64 and their scores, float32, best first.

        Raises:
            NonFiniteError: a query is not finite.
        """
        found = Nearest(query, min(k, self.index.count), self.block_bytes)
        for _, vectors in self.index.vectors():
            found.add(vectors, unit=True)
        return found.result()


def hits(index: Index, rows: Sequence[int] | np.ndarray, scores: Sequence[float] | np.ndarray) -> list[Hit]:
    """Answers from the rows and scores of one query.

    Args:
        index: the index.
        rows: best first.
        scores: one for each row.

    Raises:
        UserError: items.jsonl is damaged.
    """
    found = zip(rows, scores, index.items(rows), strict=True)
    return [
        Hit(rank, int(row), float(score), item, None if item.path is None else index.path(item))
        for rank, (row, score, item) in enumerate(found, 1)
    ]


def check_model(index: Index, model: dict[str, Any]) -> None:
    """Refuse a model whose vectors are not of the index's space.

    Args:
        index: the index.
        model: identity of the model that embeds the query.

    Raises:
        UserError: it is another one.
    """
    if index.model.get("id") != model["id"]:
        made = short_repr(index.model.get("path") or index.model.get("name") or "an unknown model")
        raise UserError(
            f"{index.folder}: its vectors are those of {made} as it was then, not of {model['path']} as it is now; "
            "embed again, or name the model that made it"
        )


def answers_table(answers: Sequence[Hit]) -> str:
    """Align the answers of a search as text, one line an answer.

    Args:
        answers: best first.

    Returns:
        Lines for a fixed-width terminal, without a line break at the end. What a terminal would obey shows as `?`.

    Example:
        >>> print(answers_table(answers))
          1  0.412  dogs/17.jpg
          2  0.398  winter/3.jpg
    """
    lines = []
    for answer in answers:
        what = answer.item.caption if answer.path is None else str(answer.path)
        shown = "".join(c if c.isprintable() else "?" for c in " ".join((what or "").split()))
        lines.append(f"{answer.rank:>3}  {answer.score:.3f}  {shown}")
    return "\n".join(lines)
