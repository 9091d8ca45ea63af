"""PostgreSQL with pgvector (extra `pgvector`): a table of vectors, searched exactly or by an HNSW graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vse_tf.errors import UserError
from vse_tf.models.folding import Floats
from vse_tf.stores.about import About
from vse_tf.stores.address import Address
from vse_tf.stores.rows import PAYLOAD, schema

if TYPE_CHECKING:
    from psycopg.sql import Composed

SECONDS = 10
# Ids and digests that are fetched at a time.
FETCHED = 20_000
_COLUMNS = (*PAYLOAD, "digest", "vector")
_TYPES = ("text", "text", "text", "int8", "int8", "int8", "vector")
# The graph, as FAISS's here: more links would make it larger, and a search that looks at fewer finds less.
LINKS, CONSTRUCTION, LOOKED_AT = 32, 128, 200
# pgvector's limits: dimensions of a graph, and rows that a search of one may look at.
MAX_INDEXED_DIM, MAX_LOOKED_AT = 2000, 1000


class PostgresStore:
    """A table of PostgreSQL.

    Args:
        address: `postgresql://…`; what it leaves out, libpq takes from PGUSER, PGPASSWORD, `~/.pgpass`, ….
        table: name of the table. `TABLE_about` says what it is.

    Raises:
        UserError: the extra is not installed, there is no connection, or pgvector is missing.
    """

    def __init__(self, address: Address, table: str) -> None:
        try:
            import pgvector.psycopg  # noqa: PLC0415
            import psycopg  # noqa: PLC0415
        except ImportError:
            raise UserError(f"{address}: PostgreSQL needs pip install 'vse_tf[pgvector]'") from None
        self.address = address
        self.table = table
        self.name = f"{address}, table {table}"
        self._error = psycopg.Error
        with self._errors("cannot connect"):
            self._connection = psycopg.connect(address.text, connect_timeout=SECONDS, application_name="vse_tf")
            self._connection.autocommit = True
        with self._errors("the extension pgvector is missing; have a superuser run CREATE EXTENSION vector"):
            if not self._rows("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
                self._run("CREATE EXTENSION vector")
            pgvector.psycopg.register_vector(self._connection)

    def about(self) -> About | None:
        """What was published; see `Store`."""
        with self._errors("cannot read"):
            if not self._rows("SELECT to_regclass(%s)", [self._quoted("_about").strip()])[0][0]:
                return None
            found = self._rows(self._sql("SELECT about FROM {about}"))
        return About.of_json(found[0][0], self.name) if found else None

    def begin(self, about: About) -> None:
        """Make the table if there is none; see `Store`."""
        with self._errors("cannot write"), self._connection.transaction():
            self._run(
                self._sql(
                    "CREATE TABLE IF NOT EXISTS {table} (id text PRIMARY KEY, path text, caption text, "
                    "byte_offset bigint, byte_size bigint, digest bigint NOT NULL, "
                    f"vector vector({about.dim}) NOT NULL)"
                )
            )
            self._run(self._sql("CREATE TABLE IF NOT EXISTS {about} (about text NOT NULL)"))
            self._say(about)

    def digests(self) -> Iterator[tuple[list[str], list[int]]]:
        """Ids and digests of all rows, in batches; see `Store`."""
        connection = self._connection
        with self._errors("cannot read"), connection.transaction(), connection.cursor("digests") as cursor:
            cursor.execute(self._sql("SELECT id, digest FROM {table}"))
            while rows := cursor.fetchmany(FETCHED):
                yield [row[0] for row in rows], [row[1] for row in rows]

    def write(self, new: pa.Table, changed: pa.Table) -> None:
        """Write a batch in one transaction; see `Store`."""
        rows = pa.concat_tables([new, changed])
        if not len(rows):
            return
        vectors = _vectors(rows)
        columns = [rows[name].to_pylist() for name in _COLUMNS[:-1]]
        updated = ", ".join(f"{name} = EXCLUDED.{name}" for name in _COLUMNS[1:])
        with self._errors("cannot write"), self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(self._sql("CREATE TEMPORARY TABLE staged (LIKE {table}) ON COMMIT DROP"))
            with cursor.copy(f"COPY staged ({', '.join(_COLUMNS)}) FROM STDIN WITH (FORMAT BINARY)") as copy:
                copy.set_types(_TYPES)
                for row in zip(*columns, vectors, strict=True):
                    copy.write_row(row)
            cursor.execute(
                self._sql(f"INSERT INTO {{table}} SELECT * FROM staged ON CONFLICT (id) DO UPDATE SET {updated}")
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete rows; see `Store`."""
        with self._errors("cannot write"):
            self._run(self._sql("DELETE FROM {table} WHERE id = ANY(%s)"), [list(ids)])

    def index(self, dim: int, count: int) -> None:
        """Build the graph; PostgreSQL keeps it up to date. See `Store`.

        Raises:
            UserError: the vectors have too many dimensions for one.
        """
        if dim > MAX_INDEXED_DIM:
            raise UserError(
                f"--approximate: pgvector indexes up to {MAX_INDEXED_DIM} dimensions, these vectors have {dim}; leave "
                "it out"
            )
        if self.has_index():
            return
        with self._errors("cannot build the index"):
            options = f"m = {LINKS}, ef_construction = {CONSTRUCTION}"
            self._run(self._sql(f"CREATE INDEX ON {{table}} USING hnsw (vector vector_ip_ops) WITH ({options})"))

    def has_index(self) -> bool:
        """Whether there is an approximate index; see `Store`."""
        query = "SELECT 1 FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid JOIN pg_am ON pg_am.oid = relam "
        with self._errors("cannot read"):
            found = self._rows(
                query + "WHERE indrelid = to_regclass(%s) AND amname IN ('hnsw', 'ivfflat')", [self._quoted()]
            )
        return bool(found)

    def finish(self, about: About) -> None:
        """Say that the table is complete; see `Store`."""
        with self._errors("cannot write"):
            self._run(self._sql("ANALYZE {table}"))
            with self._connection.transaction():
                self._say(about)

    def nearest(self, queries: Floats, k: int, exact: bool) -> list[pa.Table]:
        """The rows with the largest dot products; see `Store`."""
        columns = (*PAYLOAD, "vector")
        found = []
        with self._errors("cannot search"), self._connection.transaction():
            if exact or k > MAX_LOOKED_AT:
                self._run("SET LOCAL enable_indexscan = off")
            else:
                self._run(f"SET LOCAL hnsw.ef_search = {max(LOOKED_AT, k)}")
            query = self._sql(f"SELECT {', '.join(columns)} FROM {{table}} ORDER BY vector <#> %s LIMIT %s")
            for vector in queries:
                rows = self._rows(query, [np.ascontiguousarray(vector, np.float32), k])
                found.append(_table(rows, columns, len(vector)))
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _say(self, about: About) -> None:
        self._run(self._sql("DELETE FROM {about}"))
        self._run(self._sql("INSERT INTO {about} VALUES (%s)"), [about.to_json()])

    def _quoted(self, suffix: str = "") -> str:
        return f'"{self.table}{suffix}"'

    def _sql(self, text: str) -> Composed:
        from psycopg.sql import SQL, Identifier  # noqa: PLC0415

        names = {"table": Identifier(self.table), "about": Identifier(f"{self.table}_about")}
        return SQL(text).format(**names)

    def _run(self, query: Any, values: Sequence[object] | None = None) -> None:
        self._connection.execute(query, values)

    def _rows(self, query: Any, values: Sequence[object] | None = None) -> list[Any]:
        return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """The driver's errors as the user's; they may repeat the address."""
        try:
            yield
        except self._error as error:
            raise UserError(f"{self.name}: {what}: {self.address.hide(error)}") from None


def _vectors(rows: pa.Table) -> Floats:
    column = rows["vector"].combine_chunks()
    return np.asarray(column.flatten(), np.float32).reshape(len(rows), -1)


def _table(rows: list[Any], columns: Sequence[str], dim: int) -> pa.Table:
    values = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
    values[-1] = [vector.to_numpy() for vector in values[-1]]
    return pa.table(values, schema=pa.schema([schema(dim).field(name) for name in columns]))
