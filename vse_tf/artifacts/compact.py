"""Compact vectors: those of an index as float16 or int8, in fewer dimensions if so wanted. Needs only NumPy.

Each shard of float32 vectors has a second file, `compact-*.npy`, with a record a row: `values` are the first dimensions
of the plain space, their length normalised again; `scale` is that of int8 values; `exact` are the coordinates of a
hubness correction, which stay float32. Where the float32 files are gone, these are the index's vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from vse_tf.artifacts.shards import Shard, by_shard, map_file
from vse_tf.artifacts.storage import STORAGES, Storage, Stored, store
from vse_tf.errors import UserError
from vse_tf.models.folding import EXTRA, Floats, truncated
from vse_tf.models.mixing import Of

# Numbers that are decoded at a time: 4 MiB as float32, which stay in the processor's cache.
BLOCK = 2**20


@dataclass(frozen=True)
class Form:
    """How compact vectors are stored.

    Args:
        storage: type of the values.
        dims: number of first dimensions of the plain space.
        corrected: the vectors have a hubness correction.

    Example:
        >>> Form("int8", 256).row_bytes
        260
    """

    storage: Literal["float16", "int8"]
    dims: int
    corrected: bool = False

    @classmethod
    def of(cls, text: str, dim: int, plain_dim: int) -> Form | None:
        """What an option `--storage` asks for: a type, or a type and a number of dimensions.

        Args:
            text: such as `int8` or `int8:256`; `float32` asks for no compact vectors.
            dim: dimensions of the float32 vectors.
            plain_dim: dimensions of the space.

        Raises:
            UserError: it is not a type, or more dimensions than there are.
        """
        storage, colon, number = text.partition(":")
        if storage not in STORAGES or (colon and (storage == "float32" or not number.isdecimal())):
            raise UserError(
                f"--storage: {text!r} is not float32, float16 or int8; the latter two may have a number of dimensions, "
                "such as int8:256"
            )
        if storage == "float32":
            return None
        dims = int(number) if colon else plain_dim
        if not 1 <= dims <= plain_dim:
            raise UserError(f"--storage: {dims} is not a number of dimensions from 1 to the model's {plain_dim}")
        return cls(cast('Literal["float16", "int8"]', storage), dims, dim != plain_dim)

    @property
    def dim(self) -> int:
        """Dimensions of a decoded vector."""
        return self.dims + (EXTRA if self.corrected else 0)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The type of a record."""
        fields: list[Any] = [("values", "<f2" if self.storage == "float16" else "|i1", (self.dims,))]
        if self.storage == "int8":
            fields.append(("scale", "<f4"))
        if self.corrected:
            fields.append(("exact", "<f4", (EXTRA,)))
        return np.dtype(fields)

    @property
    def row_bytes(self) -> int:
        """Bytes of a vector."""
        return self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.storage}:{self.dims}"

    def encode(self, vectors: Floats, plain_dim: int) -> np.ndarray:
        """Vectors `(n, dim)` as records `(n,)`.

        Args:
            vectors: float32 unit rows.
            plain_dim: dimensions of their space.
        """
        stored = store(truncated(vectors, self.dims, plain_dim), cast("Storage", self.storage), self.dims)
        records = np.empty(len(vectors), self.dtype)
        records["values"] = stored.values
        if stored.scales is not None:
            records["scale"] = stored.scales
        if stored.exact is not None:
            records["exact"] = stored.exact
        return records

    def decode(self, records: np.ndarray) -> Floats:
        """Records `(n,)` as float32 vectors `(n, dim)`."""
        scales = records["scale"] if self.storage == "int8" else None
        return Stored(records["values"], scales, records["exact"] if self.corrected else None).restored()


@dataclass(frozen=True)
class Compact:
    """The compact vectors of an index.

    Args:
        folder: the index's folder.
        form: how they are stored.
        shards: their files, one for each of the index's shards.
        levels: what a score means among them, where the float32 vectors are gone; see `Calibration`.
    """

    folder: Path
    form: Form
    shards: Sequence[Shard]
    levels: Mapping[Of, list[float]]

    @classmethod
    def of(cls, folder: Path, described: Mapping[str, Any], corrected: bool) -> Compact:
        """Those that a manifest describes.

        Args:
            folder: the index's folder.
            described: what the manifest says of them.
            corrected: the vectors have a hubness correction.
        """
        form = Form(described["storage"], described["dims"], corrected)
        return cls(folder, form, [Shard.of(shard) for shard in described["shards"]], described.get("score_levels", {}))

    def described(self) -> dict[str, Any]:
        """What the manifest says of them."""
        shards = [asdict(shard) for shard in self.shards]
        form = {"storage": self.form.storage, "dims": self.form.dims}
        return {**form, "shards": shards, "score_levels": dict(self.levels)}

    def check(self) -> None:
        """Check the sizes of the files.

        Raises:
            UserError: one is missing, truncated or another one.
        """
        for shard in self.shards:
            self._map(shard)

    def vectors(self) -> Iterator[tuple[int, Floats]]:
        """The vectors in row order, decoded block by block: the first row, and float32 `(rows, dim)`."""
        start, height = 0, max(1, BLOCK // self.form.dim)
        for shard in self.shards:
            records = self._map(shard)
            for at in range(0, shard.rows, height):
                yield start + at, self.form.decode(records[at : at + height])
            start += shard.rows

    def gather(self, rows: np.ndarray) -> Floats:
        """The decoded vectors of rows int64 `(n,)`, float32 `(n, dim)`."""
        found = np.empty([len(rows), self.form.dim], np.float32)
        for shard, here, within in by_shard(self.shards, rows):
            found[here] = self.form.decode(self._map(shard)[within])
        return found

    def _map(self, shard: Shard) -> np.ndarray:
        return map_file(self.folder, shard, (shard.rows,), self.form.dtype)
