"""A folder of Parquet files with an index's rows, for Spark, DuckDB, pandas, BigQuery and others."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from vse_tf.artifacts.index import Index
from vse_tf.atomic import atomic_file
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.stores.about import About
from vse_tf.stores.address import Address
from vse_tf.stores.publishing import Published
from vse_tf.stores.rows import hash64, rows_of

# Readers ignore names that begin with an underscore: files that are not yet in place.
PART, WAITING = "part-", "_part-"


def publish_parquet(index: Index, address: Address, progress: bool = False) -> Published:
    """Write an index's rows as a folder of Parquet files, one for each of its shards.

    A file is named by its contents, so those of a killed call are kept and a repeated call writes nothing. Readers see
    the old files until the new ones are complete.

    Args:
        index: the index.
        address: the folder.
        progress: show progress.

    Returns:
        Files, not rows, that are new, deleted and unchanged.

    Raises:
        UserError: the folder holds something else, or cannot be written.

    Example:
        publish_parquet(Index.open("photos.index"), address_of("photos.parquet")).new  # 1
    """
    if "://" in address.text:
        raise UserError(f"{address}: Parquet files are written to a folder of this machine; name its path")
    folder = Path(address.text)
    with file_errors(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        before = {entry.name for entry in os.scandir(folder)}
    if other := [name for name in before if not name.startswith((PART, WAITING, "."))]:
        raise UserError(f"{folder} holds something else ({min(other)}); choose another folder")
    wanted, written = list[str](), list[str]()
    metadata = {"vse_tf": json.dumps(_metadata(index))}
    with phase_if(progress, f"publishing to {folder}", index.count, index.kind) as writing:
        items = index.all_items()
        for _, vectors in index.vectors():
            rows = rows_of(list(islice(items, len(vectors))), vectors).replace_schema_metadata(metadata)
            name = f"{len(wanted):05}-{hash64(_identity(rows)) & (2**64 - 1):016x}.parquet"
            wanted.append(PART + name)
            if not {PART + name, WAITING + name} & before:
                with file_errors(folder, "written"), atomic_file(folder / (WAITING + name)) as file:
                    parquet.write_table(rows, file, compression="zstd", use_dictionary=False)
            if PART + name not in before:
                written.append(name)
            writing.update(len(rows))
    gone = before - set(wanted) - {WAITING + name for name in written}
    with file_errors(folder, "written"):
        for name in written:
            (folder / (WAITING + name)).replace(folder / (PART + name))
        for name in gone:
            if name.startswith((PART, WAITING)):
                (folder / name).unlink(missing_ok=True)
    deleted = sum(name.startswith(PART) for name in gone)
    return Published(len(written), 0, deleted, len(wanted) - len(written))


def _metadata(index: Index) -> dict[str, object]:
    about = replace(About.of_index(index), calibration=None)
    return {"kind": about.kind, "dim": about.dim, "plain_dim": about.plain_dim, "model": about.model}


def _identity(rows: pa.Table) -> bytes:
    return rows["digest"].to_numpy().tobytes() + str(rows.schema.metadata).encode()
