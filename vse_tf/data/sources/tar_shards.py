"""Reads the members of a tar shard: where each image is, and its captions. Nothing is unpacked."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vse_tf.config import TableSettings
from vse_tf.data.sources.files import json_type, short_repr
from vse_tf.data.sources.shard_index import ShardIndex
from vse_tf.data.verify import read_image_header
from vse_tf.files import DESCRIPTION_BYTES, open_regular

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
TEXTS = ("txt", "json")
# The longest header of a member that is read: names and attributes, not contents.
HEADER_BYTES = 2**20
BLOCK = 512
# A key, which the parts of a sample share, and what the part is.
_NAME = re.compile(r"((?:.*/)?[^/.][^/.]*)\.([^/]+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    start: int
    size: int


def index_tar(path: Path, table: TableSettings, advance: Callable[[int], object] = lambda count: None) -> ShardIndex:
    """List the samples of a shard.

    A sample is made of the members whose names are equal up to the first dot: an image, and a `.txt` with its caption
    or a `.json` with one or a list. Links and names that lead out of the shard are problems; nothing opens them.

    Args:
        path: the shard.
        table: the keys of caption and split in a `.json`.
        advance: called with the number of bytes done since the last call.

    Raises:
        OSError: it cannot be read.
    """
    index = ShardIndex(str(path))
    with open_regular(path) as file:
        samples: dict[str, dict[str, _Part]] = {}
        done = 0
        try:
            for member, end in _members(file):
                advance(end - done)
                done = end
                _sort(member, samples, index)
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            reason = str(error).split("\n")[0] or "it cannot be read"
            index.problem("", f"damaged shard: {reason}; {len(samples)} samples before it can be read")
        for key, parts in samples.items():
            _add(file, key, parts, table, index)
        advance(os.fstat(file.fileno()).st_size - done)
    return index


def _members(file: BinaryIO) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """The members of a shard, each with the position behind it."""
    size = os.fstat(file.fileno()).st_size
    with tarfile.open(fileobj=_Headers(file), mode="r:") as archive:  # type: ignore[call-overload]
        last = -1
        while (member := archive.next()) is not None:
            # The archive keeps a list of them.
            archive.members = []
            if archive.offset <= last or member.size < 0:
                raise tarfile.ReadError(f"broken header at byte {member.offset}")
            last = archive.offset
            if member.isreg() and member.offset_data + member.size > size:
                raise tarfile.ReadError(f"it is truncated in {short_repr(member.name)}")
            yield member, min(last, size)
        # Otherwise the list would end silently at a broken header.
        file.seek(archive.offset)
        block = file.read(BLOCK)
        if block.strip(b"\0"):
            raise tarfile.ReadError(f"broken header at byte {archive.offset}")


class _Headers:
    """A file that gives headers only: a forged one may announce gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes, at most {HEADER_BYTES} are read")
        return self.file.read(size)


def _sort(member: tarfile.TarInfo, samples: dict[str, dict[str, _Part]], index: ShardIndex) -> None:
    """Put a member to its sample."""
    name = member.name.removeprefix("./")
    if member.isdir():
        return
    if not member.isreg() or member.issparse():
        kind = "a link" if member.islnk() or member.issym() else "no plain file"
        index.problem(name, f"not read: {short_repr(name)} is {kind}")
        return
    if name.startswith("/") or ".." in name.split("/") or "\0" in name:
        index.problem(name, f"not read: {short_repr(name)} leads out of the shard")
        return
    found = _NAME.fullmatch(name)
    suffix = found[2].lower() if found else ""
    if not found or suffix not in IMAGES + TEXTS:
        return
    parts = samples.setdefault(found[1], {})
    kind = suffix if suffix in TEXTS else "image"
    if kind in parts:
        index.problem(name, f"duplicate member: {short_repr(parts[kind].name)} is there already and is read")
        return
    parts[kind] = _Part(name, member.offset_data, member.size)


def _add(file: BinaryIO, key: str, parts: dict[str, _Part], table: TableSettings, index: ShardIndex) -> None:
    """Add a sample to the index."""
    if "image" not in parts:
        index.problem(key, f"missing image: the shard has only {' and '.join(part.name for part in parts.values())}")
        return
    image = parts["image"]
    captions: list[object] = []
    values: dict[str, Any] = {}
    try:
        if "json" in parts:
            values = _json(_text(file, parts["json"]))
            captions = _captions_of(values, table)
        if "txt" in parts and not captions:
            captions = [_text(file, parts["txt"]).decode("utf-8-sig", "surrogateescape")]
    except ValueError as error:
        index.bad_caption(image.name, f"caption unreadable: {error}")
    file.seek(image.start)
    header, _ = read_image_header(file, image.size)
    split = values.get(table.split_column)
    index.add(image.name, image.start, image.size, header, captions, split, values)


def _text(file: BinaryIO, part: _Part) -> bytes:
    if part.size > DESCRIPTION_BYTES:
        raise ValueError(f"{part.name} has {part.size} bytes, at most {DESCRIPTION_BYTES} are read")
    file.seek(part.start)
    return file.read(part.size)


def _json(text: bytes) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("values are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"broken JSON: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"the .json holds {json_type(values)}, not an object")
    return values


def _captions_of(values: dict[str, Any], table: TableSettings) -> list[object]:
    for key in (table.caption_column, "captions"):
        if values.get(key) is not None:
            found = values[key]
            return found if isinstance(found, list) else [found]
    return []
