"""The ways to search an index, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vse_tf.artifacts.index import Index
from vse_tf.indexing.search import ExactSearch, Search

BACKENDS = ("exact", "faiss", "faiss-flat", "faiss-ivf", "faiss-hnsw")


def backend(name: str, index: Index, note: Callable[[str], Any] = lambda line: None) -> Search:
    """A way to search an index.

    Args:
        name: one of `BACKENDS`; `faiss` is `faiss-hnsw`.
        index: the index.
        note: told what happens while a FAISS index is built.

    Raises:
        UserError: FAISS is not installed, or its index cannot be written.
    """
    if name == "exact":
        return ExactSearch(index)
    from vse_tf.indexing.faiss import FaissSearch  # noqa: PLC0415

    return FaissSearch.of(index, name.partition("-")[2] or "hnsw", note)
