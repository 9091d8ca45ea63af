"""LanceDB (extra `lancedb`): a folder, here or in a bucket, with tables of vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from vse_tf.errors import UserError
from vse_tf.models.folding import Floats
from vse_tf.stores.about import About
from vse_tf.stores.address import Address
from vse_tf.stores.rows import PAYLOAD, schema

# Ids that one statement deletes.
DELETED = 500
# The clusters of an approximate index, and how many of them a search looks at: at least these, and an eighth.
ROWS_PER_CLUSTER, LEAST_PROBES = 39, 16


class LanceStore:
    """A table of LanceDB.

    Args:
        address: the database's folder, which ends in `.lancedb`.
        table: name of the table. `TABLE_about` says what it is.

    Raises:
        UserError: the extra is not installed, or the folder cannot be opened.
    """

    def __init__(self, address: Address, table: str) -> None:
        try:
            import lancedb  # noqa: PLC0415
        except ImportError:
            raise UserError(f"{address}: LanceDB needs pip install 'vse_tf[lancedb]'") from None
        self.address = address
        self.name = f"{address}, table {table}"
        self._names = (table, f"{table}_about")
        with self._errors("cannot be opened"):
            self._database = lancedb.connect(address.text)

    def about(self) -> About | None:
        """What was published; see `Store`."""
        with self._errors("cannot be read"):
            if self._names[1] not in self._tables():
                return None
            (text,) = self._database.open_table(self._names[1]).to_arrow()["about"].to_pylist()
        return About.of_json(text, self.name)

    def begin(self, about: About) -> None:
        """Make the table if there is none; see `Store`."""
        with self._errors("cannot be written"):
            if self._names[0] not in self._tables():
                self._database.create_table(self._names[0], schema=schema(about.dim))
            self._say(about)

    def digests(self) -> Iterator[tuple[list[str], list[int]]]:
        """Ids and digests of all rows, in batches; see `Store`."""
        with self._errors("cannot be read"):
            for batch in self._table().search().select(["id", "digest"]).to_batches():
                yield batch["id"].to_pylist(), batch["digest"].to_pylist()

    def write(self, new: pa.Table, changed: pa.Table) -> None:
        """Write a batch as one version of the table; see `Store`."""
        with self._errors("cannot be written"):
            if len(changed):
                merge = self._table().merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(pa.concat_tables([new, changed]))
            elif len(new):
                self._table().add(new)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows; see `Store`."""
        with self._errors("cannot be written"):
            for start in range(0, len(ids), DELETED):
                quoted = ", ".join("'" + each.replace("'", "''") + "'" for each in ids[start : start + DELETED])
                self._table().delete(f"id IN ({quoted})")

    def index(self, dim: int, count: int) -> None:
        """Build clusters of the vectors; see `Store`."""
        from lancedb.index import IvfFlat  # noqa: PLC0415

        with self._errors("the index cannot be built"):
            table = self._table()
            # Not afterwards: it would join the clusters until a search looks at all of them.
            table.optimize()
            table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=_clusters(count)))

    def has_index(self) -> bool:
        """Whether there is an approximate index; see `Store`."""
        with self._errors("cannot be read"):
            return any("vector" in each.columns for each in self._table().list_indices())

    def finish(self, about: About) -> None:
        """Join small files, and say that the table is complete; see `Store`."""
        indexed = self.has_index()
        with self._errors("cannot be written"):
            if not indexed:
                self._table().optimize()
            self._say(about)

    def nearest(self, queries: Floats, k: int, exact: bool) -> list[pa.Table]:
        """The rows with the largest dot products; see `Store`."""
        found = []
        with self._errors("cannot be searched"):
            table = self._table()
            probes = max(LEAST_PROBES, _clusters(table.count_rows()) // 8)
            for query in queries:
                search = table.search(np.asarray(query, np.float32), vector_column_name="vector").distance_type("dot")
                search = search.bypass_vector_index() if exact else search.nprobes(probes)
                # LanceDB warns where the distance is not asked for.
                rows = search.select([*PAYLOAD, "vector", "_distance"]).limit(k).to_arrow()
                found.append(rows.drop_columns(["_distance"]))
        return found

    def close(self) -> None:
        """Nothing is open."""

    def _table(self):
        return self._database.open_table(self._names[0])

    def _tables(self) -> set[str]:
        return set(self._database.table_names(limit=10_000))

    def _say(self, about: About) -> None:
        self._database.create_table(self._names[1], pa.table({"about": [about.to_json()]}), mode="overwrite")

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """LanceDB's errors, of many types, as the user's; they may repeat the address."""
        try:
            yield
        except (OSError, RuntimeError, ValueError, NotImplementedError, pa.ArrowException) as error:
            raise UserError(f"{self.name}: {what}: {self.address.hide(error)}") from None


def _clusters(count: int) -> int:
    return max(1, min(int(4 * count**0.5), count // ROWS_PER_CLUSTER))
