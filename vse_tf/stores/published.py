"""A published index, searched in its store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.index_base import IndexBase
from vse_tf.artifacts.index_paths import ImageRoot
from vse_tf.errors import UserError
from vse_tf.indexing.relevance import relevance
from vse_tf.indexing.search import Hit, hits_of
from vse_tf.models.folding import Floats, search_queries
from vse_tf.models.mixing import Query
from vse_tf.stores.about import About
from vse_tf.stores.address import Address
from vse_tf.stores.rows import item_of
from vse_tf.stores.store import Store, open_store


class PublishedIndex(IndexBase):
    """An index that was published to LanceDB or PostgreSQL.

    Image files are opened only below the folder that the user names: a store knows no folders of the machine that
    filled it.

    Args:
        store: the store.
        about: what was published.
        root: the image folder.

    Example:
        index = PublishedIndex.open(address_of("photos.lancedb"), "vectors")
        index.search([query], k=10)[0][0].item.id
    """

    def __init__(self, store: Store, about: About, root: str | Path | None = None) -> None:
        self.store = store
        self.about = about
        self.source = store.name
        self.kind = about.kind
        self.dim = about.dim
        self.plain_dim = about.plain_dim
        self.count = about.count
        self.model = dict(about.model)
        self.image_root = ImageRoot(Path(store.name), None, root)

    @property
    def calibration(self) -> Calibration | None:
        """What a score means in it; None if that is not known."""
        return self.about.calibration

    @classmethod
    def open(cls, address: Address, table: str, root: str | Path | None = None) -> PublishedIndex:
        """Open a store.

        Args:
            address: of the store.
            table: its table.
            root: see the class.

        Raises:
            UserError: nothing was published there, or not all of it.
        """
        store = open_store(address, table)
        about = store.about()
        if about is None:
            raise UserError(f"{store.name}: nothing was published there; python -m vse_tf.publish INDEX --to ADDRESS")
        if not about.complete:
            again = "it is being published, or that was interrupted; repeat python -m vse_tf.publish"
            raise UserError(f"{store.name}: {again}")
        return cls(store, about, root)

    def search(self, queries: Sequence[Query], k: int, exact: bool = False) -> list[list[Hit]]:
        """The best hits of each query.

        Args:
            queries: the queries.
            k: maximum number of hits.
            exact: do not use an approximate index of the store.

        Raises:
            UserError: the store fails, or holds rows that were not published.
        """
        vectors = search_queries(np.stack([query.vector for query in queries]), self.kind, self.plain_dim)
        found = self.store.nearest(vectors, k, exact)
        return [self._hits(query, vector, rows) for query, vector, rows in zip(queries, vectors, found, strict=True)]

    def _hits(self, query: Query, vector: Floats, rows: pa.Table) -> list[Hit]:
        try:
            items = [item_of(row) for row in rows.drop_columns(["vector"]).to_pylist()]
            vectors = np.array(rows["vector"].to_pylist(), np.float32).reshape(len(items), self.dim)
        except ValueError as error:
            raise UserError(f"{self.source}: a row that was not published: {error}; publish the index again") from None
        # Stores round scores in other ways, or give distances.
        scores = vectors @ vector
        order = np.argsort(-scores, kind="stable")
        shares = relevance(self.calibration, query, scores[order])
        return hits_of(self, [items[i] for i in order], scores[order], shares)
