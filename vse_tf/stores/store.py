"""What a store does, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from vse_tf.errors import UserError
from vse_tf.models.folding import Floats
from vse_tf.stores.about import About
from vse_tf.stores.address import Address

if TYPE_CHECKING:
    import pyarrow as pa


class Store(Protocol):
    """A table of vectors in a database.

    Attributes:
        address: of the database.
        name: of the table, for messages.
    """

    address: Address
    name: str

    def about(self) -> About | None:
        """What was published; None if there is no such table."""

    def begin(self, about: About) -> None:
        """Make the table if there is none, and say that it is not complete."""

    def digests(self) -> Iterator[tuple[list[str], list[int]]]:
        """Ids and digests of all rows, in batches."""

    def write(self, new: pa.Table, changed: pa.Table) -> None:
        """Write a batch, all of it or nothing.

        Args:
            new: rows whose ids are not in the table.
            changed: rows in place of others with their ids.
        """

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows."""

    def index(self, dim: int, count: int) -> None:
        """Build an approximate index of the vectors, or bring the existing one up to date."""

    def has_index(self) -> bool:
        """Whether there is an approximate index."""

    def finish(self, about: About) -> None:
        """Say that the table is complete."""

    def nearest(self, queries: Floats, k: int, exact: bool) -> list[pa.Table]:
        """The rows with the largest dot products.

        Args:
            queries: float32 `(q, dim)`.
            k: maximum number of rows per query.
            exact: do not use an approximate index.

        Returns:
            For each query its rows, best first, with payload and vector.
        """

    def close(self) -> None:
        """Close the connection."""


def open_store(address: Address, table: str) -> Store:
    """Open a database.

    Args:
        address: of LanceDB or PostgreSQL.
        table: name of the table.

    Raises:
        UserError: the extra is not installed, or there is no connection.
    """
    if address.kind == "postgresql":
        from vse_tf.stores.postgresql import PostgresStore  # noqa: PLC0415

        return PostgresStore(address, table)
    if address.kind == "lancedb":
        from vse_tf.stores.lance import LanceStore  # noqa: PLC0415

        return LanceStore(address, table)
    raise UserError(f"{address}: Parquet files are read by other programs and not searched; search the index itself")
