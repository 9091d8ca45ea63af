"""Records, splits and collections, which every source returns, and reports of what is wrong with a source."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from vse_tf.atomic import write_text
from vse_tf.errors import UserError
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_limits import MAX_BYTES


@dataclass(frozen=True, slots=True)
class Record:
    """One image, its captions and its split.

    Args:
        image: path of the image file, or a name for it if the image is not a file.
        captions: its captions, one or more.
        split: name of its split.
        row: position among the records of its split, dense from 0; the identity of the image in a batch.
        where: file and line (or key) that it was read from, for messages.
        group: records with the same number belong to one batch (a shapes scene and its mirror); None: no group.
        image_id: the image's COCO id, if the source has COCO ids.
        caption_ids: the COCO annotation id of each of `captions`; empty if the source has none.
    """

    image: str
    captions: tuple[str, ...]
    split: str
    row: int
    where: str = ""
    group: int | None = None
    image_id: int | None = None
    caption_ids: tuple[int, ...] = ()


class Images(Protocol):
    """The images of one split, by row.

    `kind` is what a row is: `files` (encoded images, see `EncodedImages`), `pixels` (uint8 arrays `(h, w, 3)`) or
    `features` (float32 or float16 arrays `(d,)` or `(regions, d)`, the same shape for every row).
    """

    @property
    def kind(self) -> Literal["files", "pixels", "features"]: ...

    def __len__(self) -> int: ...

    def load(self, rows: np.ndarray) -> np.ndarray:
        """These rows as one array `(len(rows), …)`; only for the kinds `pixels` and `features`."""


def array_size(images: Images) -> tuple[int, int] | None:
    """Height and width of images of the kind `pixels`; None for other kinds and if there is no image."""
    if images.kind != "pixels" or not len(images):
        return None
    height, width = images.load(np.zeros([1], np.int64)).shape[1:3]
    return int(height), int(width)


class EncodedImages(ABC):
    """Images as the contents of image files, by row: files of their own (`FileImages`), or parts of larger ones.

    Attributes:
        names: the name of each row, for messages; paths of files.
    """

    kind: Literal["files"] = "files"
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def load(self, rows: np.ndarray) -> np.ndarray:
        raise TypeError("encoded images are decoded in the tf.data graph: see vse_tf.preprocessing.images")

    @abstractmethod
    def read(self, row: int, start: int = 0) -> bytes:
        """The contents of an image file.

        Args:
            row: the image.
            start: first byte; if it is negative, counted from the end.

        Raises:
            OSError: they cannot be read.
        """

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """Bytes of each image file, int64 `(n,)`; −1 where it cannot be read."""

    @abstractmethod
    def chosen(self, rows: Sequence[int] | np.ndarray) -> EncodedImages:
        """Some of the images, as images of their own."""

    @abstractmethod
    def states(self) -> Iterator[list[Any]]:
        """What changes with the contents of each image, as values that JSON can hold."""


class FileImages(EncodedImages):
    """Images that are files of their own.

    Args:
        paths: the file of each row.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = self.names = tuple(paths)

    def read(self, row: int, start: int = 0) -> bytes:
        with open_regular(self.paths[row], MAX_BYTES) as file:
            if start:
                size = os.fstat(file.fileno()).st_size
                file.seek(max(0, size + start) if start < 0 else start)
            return file.read(MAX_BYTES)

    def sizes(self) -> np.ndarray:
        return np.fromiter(map(_size, self.paths), np.int64, len(self.paths))

    def chosen(self, rows: Sequence[int] | np.ndarray) -> FileImages:
        return FileImages([self.paths[row] for row in rows])

    def states(self) -> Iterator[list[Any]]:
        for path in self.paths:
            try:
                stat = os.stat(path)  # noqa: PTH116 - faster
            except OSError:
                yield [path]
            else:
                yield [path, stat.st_size, stat.st_mtime_ns]


def as_encoded(images: Sequence[str] | EncodedImages) -> EncodedImages:
    """Encoded images, which may be given as paths."""
    return images if isinstance(images, EncodedImages) else FileImages(images)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - faster
    except OSError:
        return -1


@dataclass(frozen=True)
class Split:
    """The records of one split and their images; `records[i].row == i`.

    Args:
        name: name of the split.
        records: its records, in row order.
        images: their images.
        caption_features: features of a frozen text backbone, `(d,)` or `(length, d)` for each of `captions`; None if
            the captions themselves are read.
    """

    name: str
    records: tuple[Record, ...]
    images: Images
    caption_features: Images | None = None

    def __len__(self) -> int:
        return len(self.records)

    @property
    def captions(self) -> list[str]:
        """All captions in row order."""
        return [caption for record in self.records for caption in record.captions]

    @property
    def caption_rows(self) -> list[int]:
        """The row of each of `captions`."""
        return [record.row for record in self.records for _ in record.captions]


@dataclass(frozen=True)
class Collection:
    """The data of a source.

    Args:
        source: kind of source.
        splits: its splits by name.
        skipped: problems of the captions and images that were skipped (`data.on_bad=skip`).
        notes: what a user should know of the data though it is no problem, one line each.
    """

    source: str
    splits: dict[str, Split]
    skipped: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """The split of that name.

        Raises:
            UserError: there is none; the message lists the splits.
        """
        if name not in self.splits:
            there = ", ".join(f"{n} ({len(s)} images)" for n, s in self.splits.items()) or "none"
            raise UserError(f"no split {name!r} in the {self.source} data; there are: {there}")
        return self.splits[name]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a source: where (file and line or key), and what."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"

    @property
    def kind(self) -> str:
        """What is wrong, without the particulars behind a colon."""
        return self.what.split(":")[0]


def unreadable(error: OSError) -> str:
    """What is wrong with an image whose file cannot be opened."""
    return "missing image" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"


@dataclass
class Report:
    """All problems of a source, for one message.

    Example:
        >>> report = Report()
        >>> report.add("captions.csv: line 7", "empty caption")
        >>> report.settle(on_bad="fail", good=12)
        Traceback (most recent call last):
        vse_tf.errors.UserError: 1 problem in the data: captions.csv: line 7: empty caption; ...
    """

    problems: list[Problem] = field(default_factory=list)
    most_listed: int = 5

    def add(self, where: str, what: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(where, what))

    def settle(self, on_bad: Literal["fail", "skip"], good: int, file: Path | None = None) -> tuple[Problem, ...]:
        """Raise an error for the problems, or return them as skipped.

        Args:
            on_bad: `data.on_bad`.
            good: number of good records.
            file: where all problems are written if there are too many for the message.

        Raises:
            UserError: there are problems and `on_bad` is `fail`, or there is no good record.
        """
        if self.problems and on_bad == "fail":
            raise UserError(f"{self.summary(file)}; fix them, or skip them with --data.on_bad skip")
        if not good:
            raise UserError(f"no usable record in the data; {self.summary(file)}")
        return tuple(self.problems)

    def summary(self, file: Path | None = None) -> str:
        """All problems in one line; of many, the number of each kind and `most_listed` examples.

        Args:
            file: where all of them are written then, one per line. If that fails, the line does without it.
        """
        count = len(self.problems)
        line = f"{count} problem{'' if count == 1 else 's'} in the data"
        if not count:
            return line
        if count <= self.most_listed:
            return f"{line}: {' | '.join(map(str, self.problems))}"
        kinds = Counter(problem.kind for problem in self.problems)
        numbers = ", ".join(f"{number} × {kind}" for kind, number in kinds.most_common())
        line += f" ({numbers}), for example {' | '.join(map(str, self._examples()))}"
        return line + (f" | …; all of them are in {file}" if file and self._written(file) else " | …")

    def _examples(self) -> list[Problem]:
        """The first of each kind, and then the first of all, in their order."""
        first = {problem.kind: number for number, problem in reversed(list(enumerate(self.problems)))}
        chosen = dict.fromkeys([*sorted(first.values()), *range(len(self.problems))])
        return [self.problems[number] for number in sorted(list(chosen)[: self.most_listed])]

    def _written(self, file: Path) -> bool:
        try:
            lines = "".join(f"{' '.join(str(problem).split())}\n" for problem in self.problems)
            write_text(file, lines.encode("utf-8", "backslashreplace").decode())
        except OSError:
            return False
        return True
