"""Writes an index, its manifest last. Needs only NumPy."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Compact, Form
from vse_tf.artifacts.index import ITEMS, Index, Item
from vse_tf.artifacts.index_manifest import FORMAT, MANIFEST, Kind
from vse_tf.artifacts.index_paths import relative
from vse_tf.artifacts.shards import Shard, map_shard
from vse_tf.atomic import atomic_file, remove_leftovers, write_json
from vse_tf.files import file_errors, sha256_of


class IndexWriter:
    """Writes an index. Until `commit` an older index in the folder remains valid.

    The name of a shard contains its hash, so new shards do not overwrite those of the older index.

    Args:
        folder: the folder; it is made if it is missing.
        kind: `images` or `captions`.
        dim: dimensions of the vectors.
        plain_dim: dimensions of the space (default: `dim`), where the vectors have a hubness correction.
        portable: the index names no folder of this machine, and its items' file is named by its contents, so that in
            a bucket too a reader of the older index never meets files of the new one.

    Raises:
        UserError: the folder cannot be made.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     writer = IndexWriter(folder, "images", dim=2)
        ...     shard = writer.write(np.float32([[1, 0]]))
        ...     writer.commit([shard], [Item("a.jpg", path="a.jpg")], model={}, root="images").count
        1
    """

    def __init__(
        self, folder: str | Path, kind: Kind, dim: int, plain_dim: int | None = None, portable: bool = False
    ) -> None:
        self.folder = Path(folder)
        self.kind = kind
        self.dim = dim
        self.plain_dim = plain_dim or dim
        self.portable = portable
        with file_errors(self.folder, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)

    def write(self, vectors: np.ndarray, name: str = "vectors") -> Shard:
        """Write a shard, which belongs to no index before `commit`.

        Args:
            vectors: float32 unit rows `(rows, dim)`.
            name: how the name of its file begins.

        Raises:
            ValueError: another shape, or a row that is not of unit length.
            UserError: it cannot be written.
        """
        values = np.ascontiguousarray(vectors, np.float32)
        if values.ndim != 2 or values.shape[1] != self.dim:
            raise ValueError(f"vectors have shape {values.shape}; expected (rows, {self.dim})")
        wrong = np.flatnonzero(~(np.abs(np.einsum("ij,ij->i", values, values) - 1) < 1e-2))
        if wrong.size:
            raise ValueError(f"the vector in row {wrong[0]} is not of unit length")
        return self._save(values, name)

    def write_compact(self, shard: Shard, form: Form) -> Shard:
        """Write the compact vectors of a shard.

        Args:
            shard: the shard, in the index's folder.
            form: how to store them.

        Raises:
            UserError: the shard cannot be read, or the file not be written.
        """
        return self._save(form.encode(map_shard(self.folder, shard, self.dim), self.plain_dim), "compact")

    def _save(self, values: np.ndarray, name: str) -> Shard:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        contents = buffer.getbuffer()
        digest = hashlib.sha256(contents).hexdigest()
        shard = Shard(f"{name}-{digest[:16]}.npy", len(values), digest)
        path = self.folder / shard.name
        with contextlib.suppress(OSError):
            if sha256_of(path) == digest:
                return shard
        with file_errors(path, "written"), atomic_file(path) as file:
            file.write(contents)
        return shard

    def commit(
        self,
        shards: Sequence[Shard],
        items: Iterable[Item | bytes],
        model: Mapping[str, Any],
        root: str | Path | None = None,
        provenance: Mapping[str, Any] | None = None,
        root_name: str | None = None,
        calibration: Calibration | None = None,
        compact: Compact | None = None,
    ) -> Index:
        """Make these shards the index and remove those that it no longer names.

        Args:
            shards: in row order.
            items: one for each row, in row order, or chunks of an items.jsonl as bytes.
            model: the model that made the vectors: `kind` (`run` or `models`), `name`, `path`, `id`, …; absolute paths
                are written relative to the index's folder, see `relative`.
            root: the image folder; written like the model's path.
            provenance: versions and settings, for JSON.
            root_name: name of the image folder, if its path is not known.
            calibration: what a score means in it.
            compact: the compact vectors of these shards.

        Returns:
            The new index.

        Raises:
            ValueError: more or fewer items than rows; the older index remains.
            UserError: a file cannot be written.
        """
        count = sum(shard.rows for shard in shards)
        calibrated: dict[str, Any] = {}
        if calibration is not None:
            texts = calibration.texts
            background = {} if texts is None else {"background": asdict(self.write(texts, "background"))}
            calibrated = {"calibration": {**background, "levels": dict(calibration.levels)}}
        with file_errors(self.folder, "written"):
            digest, size, lines = hashlib.sha256(), 0, 0
            with atomic_file(self.folder / ITEMS) as file:
                for item in items:
                    piece = item if isinstance(item, bytes) else item.line.encode()
                    digest.update(piece)
                    size, lines = size + file.write(piece), lines + piece.count(b"\n")
                if lines != count:
                    raise ValueError(f"{lines} items for {count} vectors")
            made_by = dict(model)
            items_file: dict[str, Any] = {"bytes": size, "sha256": digest.hexdigest()}
            if self.portable:
                items_file["name"] = f"items-{digest.hexdigest()[:16]}.jsonl"
                (self.folder / ITEMS).replace(self.folder / items_file["name"])
                made_by.pop("path", None)
                root, root_name = None, root_name or (None if root is None else Path(root).name)
            if Path(made_by.get("path") or "").is_absolute():
                made_by["path"] = relative(made_by["path"], self.folder)
            manifest = {
                # Earlier versions read what has no correction and no compact vectors.
                "format": FORMAT if compact is not None else 2 if self.plain_dim != self.dim else 1,
                "kind": self.kind,
                "dim": self.dim,
                **({"plain_dim": self.plain_dim} if self.plain_dim != self.dim else {}),
                "count": count,
                "root": None if root is None else relative(root, self.folder),
                "root_name": root_name if root is None else Path(root).name,
                "items": items_file,
                "shards": [asdict(shard) for shard in shards],
                **({} if compact is None else {"compact": compact.described()}),
                **calibrated,
                "model": {key: value for key, value in made_by.items() if value is not None},
                "provenance": dict(provenance or {}),
            }
            write_json(self.folder / MANIFEST, manifest)
            index = Index.open(self.folder)
            named = {shard.name for shard in index.files}
            named.add(items_file.get("name", ITEMS))
            for pattern in ("vectors-*.npy", "background-*.npy", "compact-*.npy", "items*.jsonl"):
                remove_leftovers(self.folder, pattern)
                for path in self.folder.glob(pattern):
                    if path.name not in named:
                        path.unlink(missing_ok=True)
        return index
