"""Reads the rows of a Parquet file, in order: its images go to one file, their captions to an index."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from vse_tf.config import TableSettings
from vse_tf.data.sources.files import short_repr
from vse_tf.data.sources.image_folder import ImageFolder
from vse_tf.data.sources.shard_index import ShardIndex
from vse_tf.data.verify import read_image_header
from vse_tf.errors import UserError
from vse_tf.files import read_regular, reason_of
from vse_tf.preprocessing.image_headers import format_of
from vse_tf.preprocessing.image_limits import MAX_BYTES

# Rows in memory at a time.
BATCH = 32
# A file with more bytes of images than it announces is damaged, or made to fill the disk.
SPARE_BYTES = 2**20
# Names of columns where the settings name none.
CAPTIONS = ("captions", "text", "title", "sentence", "sentences")
NUMBERED = re.compile(r"caption_?(\d+)")
NAMES = ("filename", "file_name", "image_name")
IDS = ("image_id", "caption_ids")


@dataclass
class _Image:
    """An image, with the captions of all its rows."""

    name: str
    start: int
    length: int
    header: tuple[int, int, int, str]
    captions: list[object] = field(default_factory=list)
    split: object = None
    ids: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Output:
    """What is written while the rows are read."""

    file: BinaryIO
    folder: ImageFolder | None
    index: ShardIndex
    images: dict[Hashable, _Image] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def contents_of(self, path: str) -> bytes:
        """The contents of an image that is only a path."""
        if self.folder is None or not path:
            named = f": it names {short_repr(path)}; name the image folder with --data.images" if path else ""
            raise ValueError(f"image without bytes{named}")
        return read_regular(self.folder.find(path), MAX_BYTES)

    def image(self, name: str, row: int, contents: bytes, split: object) -> tuple[_Image, bool]:
        """The image of a row, and whether no row before had it."""
        key = name, hashlib.sha256(contents).digest(), split if isinstance(split, str) else None
        if key in self.images:
            return self.images[key], False
        name = name or f"{row:08d}.{format_of(contents).replace('jpeg', 'jpg') or 'jpg'}"
        name = f"{row}/{name}" if name in self.names else name
        self.names.add(name)
        header, _ = read_image_header(io.BytesIO(contents), len(contents))
        image = self.images[key] = _Image(name, self.file.tell(), len(contents), header, split=split)
        self.file.write(contents)
        return image, True


class ParquetShard:
    """A Parquet file of images and captions.

    Args:
        path: the file.
        table: the names of its columns.

    Attributes:
        image_bytes: bytes of its images.

    Raises:
        UserError: it has no column of images or captions.
    """

    def __init__(self, path: Path, table: TableSettings) -> None:
        self.path = path
        self.damage = ""
        self.image_bytes = 0
        try:
            self._file = parquet.ParquetFile(path)
            metadata, schema = self._file.metadata, self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError) as error:
            self.damage = _line(error)
            return
        self._find_columns(schema, table)
        for group in range(metadata.num_row_groups):
            self.image_bytes += self._bytes_of(group)

    def copy(
        self, file: BinaryIO, folder: ImageFolder | None, advance: Callable[[int], object] = lambda count: None
    ) -> ShardIndex:
        """Write the images one after another.

        Args:
            file: receives them.
            folder: the folder of images that are paths; without it they are problems.
            advance: called with the number of bytes done since the last call.

        Returns:
            Where each image is, and its captions.
        """
        index = ShardIndex(str(self.path))
        if self.damage:
            index.problem("", f"damaged shard: {self.damage}")
            return index
        copied = _Output(file, folder, index)
        first = 0
        for group in range(self._file.metadata.num_row_groups):
            row = first
            for batch in self._batches(group, index):
                for each in range(batch.num_rows):
                    self._take(batch, each, row, copied)
                    row += 1
                if folder is None and file.tell() > self.image_bytes + SPARE_BYTES:
                    index.problem("", f"damaged shard: its images are larger than it announces, from row {row}")
                    return index
            first += self._file.metadata.row_group(group).num_rows
            advance(self._bytes_of(group))
        for image in copied.images.values():
            index.add(image.name, image.start, image.length, image.header, image.captions, image.split, image.ids)
        return index

    def _batches(self, group: int, index: ShardIndex) -> Iterator[pa.RecordBatch]:
        """The rows of a row group; a damaged one ends with a problem."""
        rows, done = self._file.metadata.row_group(group).num_rows, 0
        batches = self._file.iter_batches(BATCH, row_groups=[group], columns=self._columns)
        while True:
            try:
                batch = next(batches, None)
            except (pa.ArrowException, OSError, ValueError) as error:
                index.problem(
                    f"row group {group}",
                    f"damaged row group: {_line(error)}; {rows - done} of its {rows} rows are not read",
                )
                return
            if batch is None:
                return
            done += batch.num_rows
            yield batch

    def _take(self, batch: pa.RecordBatch, each: int, row: int, copied: _Output) -> None:
        """Add a row: its image, unless a row before had it, and its captions."""
        contents, path = _image(batch.column(self._image)[each])
        named = next((batch.column(name)[each] for name in NAMES if name in self._columns), None)
        name = re.split(r"[/\\]", path or (_text(named) if named is not None else ""))[-1]
        if contents is None:
            try:
                contents = copied.contents_of(path)
            except (OSError, ValueError) as error:
                copied.index.problem(f"row {row}", reason_of(error))
                return
        split = _value(batch.column(self._split)[each]) if self._split else None
        image, is_new = copied.image(name, row, contents, split)
        if is_new:
            image.ids = {key: _value(batch.column(key)[each]) for key in IDS if key in self._columns}
        for column in self._captions:
            image.captions += _texts(batch.column(column)[each])

    def _find_columns(self, schema: pa.Schema, table: TableSettings) -> None:
        names, default = list(schema.names), TableSettings()
        kinds = {name: schema.field(name).type for name in names}
        self._image = table.image_column
        if self._image not in names and self._image == default.image_column:
            self._image = next((name for name in names if _holds_images(kinds[name])), self._image)
        self._captions = [table.caption_column]
        if table.caption_column not in names and table.caption_column == default.caption_column:
            numbered = sorted((int(found[1]), name) for name in names if (found := NUMBERED.fullmatch(name)))
            known = [name for name in CAPTIONS if name in names][:1]
            self._captions = known or [name for _, name in numbered] or self._captions
        for key, name in (("image", self._image), ("caption", self._captions[0])):
            if name not in names:
                there = ", ".join(short_repr(each) for each in names[:20])
                raise UserError(
                    f"{self.path}: no column {short_repr(name)}; name the {key}s' with --data.table.{key}_column; "
                    f"there are: {there}"
                )
        if not _holds_images(kinds[self._image]) and not pa.types.is_string(kinds[self._image]):
            raise UserError(f"{self.path}: the column {self._image} holds {kinds[self._image]}, not images")
        self._split = table.split_column if table.split_column in names else None
        if self._split is None and table.split_column != default.split_column:
            raise UserError(f"{self.path}: no column {short_repr(table.split_column)} (data.table.split_column)")
        others = [name for name in (*NAMES, *IDS) if name in names]
        self._columns = [self._image, *self._captions, *([self._split] if self._split else []), *others]

    def _bytes_of(self, group: int) -> int:
        found = self._file.metadata.row_group(group)
        columns = (found.column(number) for number in range(found.num_columns))
        prefix = f"{self._image}."
        return sum(
            column.total_uncompressed_size for column in columns if f"{column.path_in_schema}.".startswith(prefix)
        )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    # Of a column without values it is null.
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind)


def _image(cell: pa.Scalar) -> tuple[bytes | None, str]:
    """The contents of an image, if the cell has them, and its path."""
    value = _value(cell)
    if isinstance(value, dict):
        contents, path = value.get("bytes"), value.get("path")
        return contents if isinstance(contents, bytes) else None, path if isinstance(path, str) else ""
    return (value, "") if isinstance(value, bytes) else (None, value if isinstance(value, str) else "")


def _value(cell: pa.Scalar) -> Any:
    """A cell as a Python value; one that is not UTF-8 is no value."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return None


def _text(cell: pa.Scalar) -> str:
    value = _value(cell)
    return value if isinstance(value, str) else ""


def _texts(cell: pa.Scalar) -> list[object]:
    """The captions in a cell; bytes that are not UTF-8 become lone surrogates, which are found later."""
    if not cell.is_valid:
        return []
    if pa.types.is_list(cell.type) or pa.types.is_large_list(cell.type):
        return [text for value in cell.values for text in _texts(value)]
    try:
        return [cell.as_py()]
    except UnicodeDecodeError:
        return [cell.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")]


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
