"""Images that are parts of larger files, read by their position. NumPy only."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vse_tf.data.records import EncodedImages
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_limits import MAX_BYTES
from vse_tf.remote.shards import mirror_of, remote_state


@dataclass(frozen=True)
class PackedFile:
    """A file that holds images, as it was when their positions were found.

    Args:
        path: the file.
        size: in bytes.
        mtime_ns: its modification time in nanoseconds.
    """

    path: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: str) -> PackedFile:
        """The file as it is now; a remote shard need not be in the cache.

        Raises:
            OSError: there is no such file.
        """
        if (remote := remote_state(path)) is not None:
            return cls(path, *remote)
        stat = os.stat(path)  # noqa: PTH116 - the path stays as it is
        return cls(path, stat.st_size, stat.st_mtime_ns)

    @property
    def state(self) -> tuple[int, int]:
        """Size and modification time."""
        return self.size, self.mtime_ns

    def read(self, start: int, length: int, skipped: int = 0) -> bytes:
        """A part of the file.

        Args:
            start: first byte.
            length: number of bytes.
            skipped: number of these that are left out.

        Raises:
            OSError: it cannot be read, or has changed since its positions were found.
        """
        try:
            file = open_regular(self.path)
        except FileNotFoundError:
            # A remote shard that the cache has evicted.
            if (remote := mirror_of(self.path)) is None:
                raise
            return remote[0].read(remote[1], start + skipped, start + length)
        with file as opened:
            now = os.fstat(opened.fileno())
            if (now.st_size, now.st_mtime_ns) != (self.size, self.mtime_ns):
                raise OSError(errno.ESTALE, f"{self.path} has changed since this command began; repeat it", self.path)
            return os.pread(opened.fileno(), length - skipped, start + skipped)


class PackedImages(EncodedImages):
    """Images that are parts of larger files.

    Every read opens its file: a set may have more files than a process may hold open, and a file that has changed
    since its positions were found is noticed.

    Args:
        names: a name for each image.
        files: the files.
        numbers: the file of each image, integers `(n,)`.
        starts: first byte of each image in its file, int64 `(n,)`.
        lengths: bytes of each image, int64 `(n,)`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = file.write(b"one two")
        ...     file.flush()
        ...     images = PackedImages(["1", "2"], [PackedFile.of(file.name)], [0, 0], [0, 4], [3, 3])
        ...     images.read(1)
        b'two'
    """

    def __init__(
        self,
        names: Sequence[str],
        files: Sequence[PackedFile],
        numbers: Sequence[int] | np.ndarray,
        starts: Sequence[int] | np.ndarray,
        lengths: Sequence[int] | np.ndarray,
    ) -> None:
        self.names = names
        self.files = files
        self.numbers = np.asarray(numbers, np.int32)
        self.starts = np.asarray(starts, np.int64)
        self.lengths = np.asarray(lengths, np.int64)

    def read(self, row: int, start: int = 0) -> bytes:
        file, length = self.files[self.numbers[row]], int(self.lengths[row])
        skipped = max(0, length + start) if start < 0 else min(start, length)
        if length > MAX_BYTES:
            raise OSError(errno.EFBIG, f"{length} bytes, more than the limit of {MAX_BYTES}", file.path)
        return file.read(int(self.starts[row]), length, skipped)

    def sizes(self) -> np.ndarray:
        return self.lengths

    def chosen(self, rows: Sequence[int] | np.ndarray) -> PackedImages:
        rows = np.asarray(rows, np.int64)
        names = [self.names[row] for row in rows]
        return PackedImages(names, self.files, self.numbers[rows], self.starts[rows], self.lengths[rows])

    def states(self) -> Iterator[list[Any]]:
        for file in self.files:
            yield [file.path, file.size, file.mtime_ns]
        yield from np.stack([self.numbers, self.starts, self.lengths], axis=1).tolist()
