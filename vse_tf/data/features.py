"""Features of a frozen backbone on disk: shards of views by row. NumPy only."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from vse_tf.atomic import atomic_file, check_folder, write_array
from vse_tf.data.records import EncodedImages
from vse_tf.errors import UserError
from vse_tf.files import open_array

# Largest number of items and of bytes in a shard.
SHARD, SHARD_BYTES = 1024, 1 << 28


class CachedFeatures:
    """The images or captions of a split as features, in one or more views.

    Args:
        views: the shards of each view in row order, `(rows, d)` or `(rows, n, d)`, the centre view first.
        rows: rows of the shards that belong to the split: those of images that could be read.
        images: the images that the features were computed from, in the order of `rows`; None for captions.
    """

    kind: Literal["features"] = "features"

    def __init__(
        self, views: Sequence[Sequence[np.ndarray]], rows: np.ndarray, images: EncodedImages | None = None
    ) -> None:
        self.views = views
        self.rows = rows
        self.images = images

    def __len__(self) -> int:
        return len(self.rows)

    def chosen(self, rows: Sequence[int] | np.ndarray) -> CachedFeatures:
        """The features of some of the images, as features of their own."""
        rows = np.asarray(rows, np.int64)
        return CachedFeatures(self.views, self.rows[rows], self.images and self.images.chosen(rows))

    def load(self, rows: np.ndarray) -> np.ndarray:
        """The centre view of these rows, `(len(rows), d)` or `(len(rows), n, d)`."""
        return self._gather(np.zeros(len(rows), np.int64), rows)

    def load_views(self, rows: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        """One view of each row, chosen by its seed, in the shape of `load`."""
        return self._gather(seeds % len(self.views), rows)

    def _gather(self, views: np.ndarray, rows: np.ndarray) -> np.ndarray:
        first = self.views[0][0]
        shards, places = np.divmod(self.rows[rows], len(first))
        result = np.empty([len(rows), *first.shape[1:]], first.dtype)
        for i, (view, shard, place) in enumerate(zip(views, shards, places, strict=True)):
            result[i] = self.views[view][shard][place]
        return result


class CachedTokens:
    """The captions of a split as the states of their tokens.

    Args:
        shards: the states in caption order, `(tokens, d)` each.
        lengths: number of tokens of each caption.
        size: number of captions in a shard.
    """

    kind: Literal["features"] = "features"

    def __init__(self, shards: Sequence[np.ndarray], lengths: np.ndarray, size: int) -> None:
        self.shards = shards
        self.lengths = lengths
        self.size = size
        starts = [np.cumsum(part) - part for part in np.split(lengths, range(size, len(lengths), size))]
        self._starts = np.concatenate(starts)

    def __len__(self) -> int:
        return len(self.lengths)

    def load(self, rows: np.ndarray) -> np.ndarray:
        """The states of these captions, `(len(rows), length, d)`, with zeros after the last token of shorter ones."""
        lengths, width = self.lengths[rows], self.shards[0].shape[1]
        # At least one position, so that there is something to pool.
        result = np.zeros([len(rows), max(1, lengths.max(initial=0)), width], self.shards[0].dtype)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            start = self._starts[row]
            result[i, :length] = self.shards[row // self.size][start : start + length]
        return result


class FeatureShards:
    """A folder of shards that is filled once, shard by shard, and shared by all runs that need the same features.

    Shards are written to temporary files and renamed, so existing ones are complete, also after a run was killed.

    Args:
        folder: the folder; its name is the key of backbone, preprocessing and images.
        count: number of images or captions.
        feature: shape and dtype of a row of the shards.
        lengths: `(count,)` number of rows of each caption; None: one row per item.

    Attributes:
        size: number of items in a shard.
    """

    def __init__(
        self, folder: Path, count: int, feature: tuple[tuple[int, ...], str], lengths: np.ndarray | None = None
    ) -> None:
        self.folder = folder
        self.count = count
        self.shape, self.dtype = feature
        self.lengths = lengths
        longest = 1 if lengths is None else int(lengths.max(initial=1))
        self._row_bytes = math.prod(self.shape) * np.dtype(self.dtype).itemsize
        self.size = max(1, min(SHARD, SHARD_BYTES // max(1, self._row_bytes * longest)))

    def spans(self) -> Iterator[tuple[int, int]]:
        """First and last-plus-one row of each shard."""
        for start in range(0, self.count, self.size):
            yield start, min(start + self.size, self.count)

    def missing(self, view: str) -> list[tuple[int, int]]:
        """The spans of a view that have no shard yet."""
        return [span for span in self.spans() if not self._path(view, span[0]).exists()]

    def bytes_of(self, span: tuple[int, int]) -> int:
        """Bytes of the shard of these items."""
        start, end = span
        return self._row_bytes * (end - start if self.lengths is None else int(self.lengths[start:end].sum()))

    def remove_damaged(self, views: Sequence[str]) -> list[Path]:
        """Remove the shards of these views that are truncated or damaged, so that they are computed again.

        Returns:
            The removed files.
        """
        damaged = []
        for view in views:
            for start, end in self.spans():
                path = self._path(view, start)
                try:
                    if path.exists():
                        self._read(path, start, end)
                except UserError:
                    # If it cannot be removed, `read` fails.
                    with contextlib.suppress(OSError):
                        path.unlink()
                        damaged.append(path)
        return damaged

    def fill(
        self,
        views: Sequence[str],
        compute: Callable[[Sequence[str], int, int], Iterable[tuple[str, np.ndarray]]],
    ) -> None:
        """Compute and write the missing shards.

        Args:
            views: the views.
            compute: yields the name and the features of each view asked for, from a first to a last-plus-one item.

        Raises:
            UserError: the folder cannot be written.
        """
        if any(self.missing(view) for view in views):
            check_folder(self.folder, "data.cache_dir")
        for start, end in self.spans():
            missing = [view for view in views if not self._path(view, start).exists()]
            if missing:
                for view, features in compute(missing, start, end):
                    self.write(view, start, features)

    def write(self, view: str, start: int, features: np.ndarray) -> None:
        """Write a shard.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self._path(view, start)
        try:
            with atomic_file(path) as file:
                write_array(file, features.astype(self.dtype))
        except OSError as error:
            raise UserError(
                f"data.cache_dir: cannot write {path}: {error.strerror or error}; free some space, or name another "
                "folder with --data.cache_dir"
            ) from None

    def read(self, view: str) -> list[np.ndarray]:
        """All shards of a view, memory-mapped.

        Raises:
            UserError: one is missing, truncated or damaged; the message names it.
        """
        return [self._read(self._path(view, start), start, end) for start, end in self.spans()]

    def _read(self, path: Path, start: int, end: int) -> np.ndarray:
        try:
            shard = open_array(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: unreadable features ({error}); delete the file and run again") from None
        rows = end - start if self.lengths is None else self.lengths[start:end].sum()
        if shard.shape != (rows, *self.shape) or shard.dtype != self.dtype:
            raise UserError(f"{path}: not the features of {end - start} items; delete the file and run again")
        return shard

    def _path(self, view: str, start: int) -> Path:
        return self.folder / f"{view}-{start:09d}.npy"


def readable(shards: Sequence[np.ndarray]) -> np.ndarray:
    """The rows that hold features; a row of NaN is an image that could not be read."""
    return np.flatnonzero(np.concatenate([~np.isnan(shard.reshape(len(shard), -1)[:, 0]) for shard in shards]))
