"""The rows of an index as stores have them: an Arrow table of vectors and what they are of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vse_tf.artifacts.index import Item
from vse_tf.models.folding import Floats

# Of the image in a shard, where it is in the file `path`.
PAYLOAD = ("id", "path", "caption", "byte_offset", "byte_size")


def schema(dim: int) -> pa.Schema:
    """The columns: `id`, `path` or `caption`, `byte_offset` and `byte_size` of an image in a file, `digest`, `vector`.

    Args:
        dim: dimensions of the vectors.
    """
    strings, integers = ("id", "path", "caption"), ("byte_offset", "byte_size", "digest")
    return pa.schema(
        [
            *(pa.field(name, pa.string(), nullable=name != "id") for name in strings),
            *(pa.field(name, pa.int64(), nullable=name != "digest") for name in integers),
            pa.field("vector", pa.list_(pa.float32(), dim), nullable=False),
        ]
    )


def rows_of(items: Sequence[Item], vectors: Floats) -> pa.Table:
    """Items and their vectors as rows.

    Args:
        items: the items.
        vectors: float32 `(len(items), dim)`.

    Returns:
        A table of `schema(dim)`. The `digest` of a row changes with anything in it.
    """
    vectors = np.ascontiguousarray(vectors, np.float32)
    dim = vectors.shape[1]
    columns = {
        "id": [item.id for item in items],
        "path": [item.path for item in items],
        "caption": [item.caption for item in items],
        "byte_offset": [item.offset for item in items],
        "byte_size": [item.size for item in items],
    }
    payloads = zip(*columns.values(), strict=True)
    columns["digest"] = [
        hash64(repr(payload).encode() + vector.tobytes()) for payload, vector in zip(payloads, vectors, strict=True)
    ]
    flat = pa.array(vectors.reshape(-1))
    arrays = [pa.array(values, schema(dim).field(name).type) for name, values in columns.items()]
    return pa.Table.from_arrays([*arrays, pa.FixedSizeListArray.from_arrays(flat, dim)], schema=schema(dim))


def item_of(row: dict[str, object]) -> Item:
    """The item of a row; other columns are ignored.

    Raises:
        ValueError: the values are of other types.
    """
    names = {"byte_offset": "offset", "byte_size": "size"}
    return Item.of_values({names.get(name, name): row.get(name) for name in PAYLOAD})


def hash64(contents: bytes) -> int:
    """A hash of 64 bits, as a signed integer."""
    return int.from_bytes(hashlib.blake2b(contents, digest_size=8).digest(), "little", signed=True)
