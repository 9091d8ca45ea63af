"""What an index is apart from its files: its items, the space of its vectors, and where its images are. NumPy only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.index_manifest import NAME_CHARACTERS, Kind
from vse_tf.artifacts.index_paths import ImageRoot
from vse_tf.data.sources.files import problem_of_text
from vse_tf.files import open_regular
from vse_tf.models.folding import Floats, truncated
from vse_tf.preprocessing.image_limits import MAX_BYTES

# Limit for a caption or a path in a text file; in JSON a character takes at most six times its bytes.
LINE_BYTES = 2**20
ITEM_BYTES = 8 * LINE_BYTES


@dataclass(frozen=True, slots=True)
class Item:
    """The image or caption of a row of the index.

    Args:
        id: its name in the collection: an image's path below the image folder, a caption's line number.
        path: of an image, relative to the index's `root`.
        caption: of a caption, the text.
        size: bytes of the image file when it was embedded.
        mtime_ns: its modification time then, in nanoseconds.
        offset: of an image in a tar shard, whose path is then `path`, its first byte; `size` are its own bytes.
    """

    id: str
    path: str | None = None
    caption: str | None = None
    size: int | None = None
    mtime_ns: int | None = None
    offset: int | None = None

    @property
    def line(self) -> str:
        """The item as a line of items.jsonl."""
        every = {key: getattr(self, key) for key in self.__slots__}
        values = {key: value for key, value in every.items() if value is not None}
        return json.dumps(values, ensure_ascii=False, separators=(",", ":")) + "\n"

    @classmethod
    def of_line(cls, line: bytes | str) -> Item:
        """The item of a line; unknown keys are ignored.

        Raises:
            ValueError: the line holds no item.
        """
        if len(line) > ITEM_BYTES:
            raise ValueError(f"not an item: {len(line)} bytes, more than the limit of {ITEM_BYTES}")
        values = json.loads(line)
        if not isinstance(values, dict):
            raise ValueError("not an item: a JSON object with a string under id is expected")
        return cls.of_values(values)

    @classmethod
    def of_values(cls, values: Mapping[str, Any]) -> Item:
        """The item of a dictionary; unknown keys are ignored.

        Raises:
            ValueError: it is no item.
        """
        if not isinstance(values.get("id"), str):
            raise ValueError("not an item: a JSON object with a string under id is expected")
        known: dict[str, Any] = {key: values.get(key) for key in cls.__slots__}
        for key in ("id", "path", "caption"):
            if not isinstance(known[key], str | None):
                raise ValueError(f"not an item: {key} is not a string")
            if problem := problem_of_text(known[key] or ""):
                raise ValueError(f"not an item: {key} is {problem}")
            if key != "caption" and len(known[key] or "") > NAME_CHARACTERS:
                raise ValueError(f"not an item: {key} has more than {NAME_CHARACTERS} characters")
        for key in ("size", "mtime_ns", "offset"):
            if not (known[key] is None or type(known[key]) is int):
                raise ValueError(f"not an item: {key} is not an integer")
        return cls(**known)


class IndexBase:
    """An index, of files or in a store.

    Attributes:
        source: its folder, or the name of the store, for messages.
        kind: `images` or `captions`.
        dim: dimensions of the vectors.
        plain_dim: dimensions of the space; fewer than `dim` where the vectors have a hubness correction.
        count: number of rows.
        model: the model that made the vectors.
        image_root: the image folder, and which of its files may be opened.
    """

    source: str
    kind: Kind
    dim: int
    plain_dim: int
    count: int
    model: dict[str, Any]
    image_root: ImageRoot

    @property
    def calibration(self) -> Calibration | None:
        """What a score means in it; None if that is not known."""
        raise NotImplementedError

    def fitted(self, vectors: Floats) -> Floats:
        """Vectors of the model, float32 `(n, d)`, as vectors of the index `(n, dim)`: of its first dimensions."""
        return truncated(vectors, self.plain_dim, vectors.shape[1] - (self.dim - self.plain_dim))

    @property
    def root(self) -> str | None:
        """The image folder; None if neither the index nor the user names it."""
        return self.image_root.root

    def path(self, item: Item) -> Path:
        """The path of an item's image, for messages.

        Raises:
            ValueError: the item is a caption.
        """
        return self.image_root.path(_image_path(item))

    def image(self, item: Item) -> Path:
        """The path of an item's image, to open it.

        Raises:
            OutsideError: it is outside of the folders that may be read; see `ImageRoot`.
            ValueError: the item is a caption.
        """
        return self.image_root.file(_image_path(item))

    def contents(self, item: Item) -> bytes:
        """The contents of an item's image file, or of the part of a shard that the image is.

        Raises:
            OSError: as `image`, or they cannot be read.
            ValueError: the item is a caption.
        """
        with open_regular(self.image(item), None if item.offset is not None else MAX_BYTES) as file:
            file.seek(max(0, item.offset or 0))
            return file.read(MAX_BYTES if item.offset is None else max(0, min(item.size or 0, MAX_BYTES)))


def _image_path(item: Item) -> str:
    if item.path is None:
        raise ValueError(f"item {item.id} has no path: it is a caption")
    return item.path
