"""Which source a caption file belongs to, by the first characters of its contents. No TensorFlow is imported here.

The readers of `vse_tf.data.sources` check the files themselves; this tells only which of them is meant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import re
import zlib
from pathlib import Path
from typing import Literal

from vse_tf.addresses import is_address
from vse_tf.data_settings import DataSettings
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular, text_encoding
from vse_tf.remote.copies import local_file
from vse_tf.remote.filesystem import missing, version
from vse_tf.remote.shards import suffixes_at

Kind = Literal["karpathy", "coco", "table", "precomp", "webdataset", "parquet"]
# COCO's caption files begin with a few kB about the set itself.
HEAD_BYTES = 2**20
# As webdataset writes a range of shards.
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
# A string, with its colon if it is a key and the bracket behind it; or a bracket. The last string may be cut off.
_TOKEN = re.compile(r'"((?:[^"\\]|\\.|\\$)*+)(?:"|$)(\s*:\s*(?=(\[?)))?|[][{}]', re.DOTALL)
_NAME_IT = "say what it is with --data.source karpathy, coco, table, precomp, webdataset or parquet"
# The suffixes of shards, and how they begin: the source, a position, and what is there.
SHARDS: dict[str, Kind] = {".tar": "webdataset", ".parquet": "parquet"}
_MAGIC: tuple[tuple[Kind, int, bytes], ...] = (("webdataset", 257, b"ustar"), ("parquet", 0, b"PAR1"))


def with_source(data: DataSettings) -> DataSettings:
    """The settings with the source that `auto` stands for.

    Args:
        data: the section `data`; another source than `auto` stays.

    Raises:
        UserError: the annotations cannot be read, or do not tell.

    Example:
        >>> with_source(DataSettings()).source
        'shapes'
    """
    if data.source != "auto":
        return data
    named = [data.annotations] if isinstance(data.annotations, str) else data.annotations or []
    if not any(named):
        return dataclasses.replace(data, source="tfds" if data.tfds.name else "shapes")
    kinds = {path: kind_of(path) for path in named if path}
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{path} ({kind})" for path, kind in kinds.items())
        raise UserError(f"data.annotations: files of different kinds: {found}; name files of one kind")
    return dataclasses.replace(data, source=next(iter(kinds.values())))


def kind_of(path: str) -> Kind:
    """The source that reads a caption file or folder. Of a large file only the head is read.

    Args:
        path: the file or folder.

    Raises:
        UserError: it cannot be read, or does not tell.
    """
    if is_address(path):
        return _remote_kind(path)
    # Not pathlib's: it raises for a name of 300 letters, and for `~` without a home.
    place = Path(os.path.expanduser(path))  # noqa: PTH111
    if os.path.isdir(place):  # noqa: PTH112
        if any(place.glob("*_ims.npy")) or any(place.glob("*_caps.txt")):
            return "precomp"
        for suffix, kind_of_shards in SHARDS.items():
            if any(place.glob(f"*{suffix}")) or any(place.glob(f"*/*{suffix}")):
                return kind_of_shards
        raise UserError(
            f"data.annotations: {path} is a folder without *_ims.npy, *.tar and *.parquet files; name the caption file "
            "in it"
        )
    # Before it is opened: a pattern names no file.
    if (shards := SHARDS.get(place.suffix) or _shards_of(place)) is not None:
        return shards
    text = _head(place).lstrip()
    # What is no text at all is left to the reader of tables too, which says what it is.
    top, item, end = _keys(text) if text.startswith("{") else ({}, set(), 0)
    kind: Kind | None = None
    if top.get("images"):
        if "annotations" in top or "file_name" in item:
            kind = "coco"
        elif end or {"sentences", "sentids", "filename"} & item:
            kind = "karpathy"
    elif not top or (end and "\n" not in text[:end]):
        # No object, or one per line.
        kind = "table"
    elif top.get("annotations"):
        kind = "coco"
    if not kind:
        keys = ", ".join(key[:40] for key in list(top)[:5])
        raise UserError(f"data.annotations: {path} is a JSON object with the keys {keys!r}; {_NAME_IT}")
    return kind


def _remote_kind(address: str) -> Kind:
    """The source that reads a remote file or folder. Shards are not fetched for that."""
    if (shards := SHARDS.get(Path(address).suffix)) is not None:
        return shards
    if version(address) is not None:
        return kind_of(str(local_file(address)))
    suffixes = suffixes_at(address)
    for suffix, kind in SHARDS.items():
        if suffix in suffixes:
            return kind
    if ".npy" in suffixes:
        return "precomp"
    raise UserError(
        f"data.annotations: {address} holds no shards (*.tar, *.parquet) and no *_ims.npy; check the address"
        if suffixes
        else str(missing(address))
    )


def is_pattern(path: str) -> bool:
    """Whether a path of shards stands for several: `*`, `?`, or a range as in `train-{00000..00041}.tar`."""
    return not os.path.exists(path) and (glob.has_magic(path) or RANGE.search(path) is not None)  # noqa: PTH110


def _shards_of(path: Path) -> Kind | None:
    """The source of a shard without the suffix of one."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        start = file.read(512)
        return next((kind for kind, at, magic in _MAGIC if start[at : at + len(magic)] == magic), None)
    return None


def _head(path: Path) -> str:
    """The first characters of a text file, compressed by gzip or not."""
    with file_errors(path, advice="name the caption file with --data.annotations"), open_regular(path) as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"\x1f\x8b"):
        try:
            head = zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
        except zlib.error:
            # The reader says what is wrong.
            return ""
    return head.decode(text_encoding(head), errors="replace").removeprefix("\ufeff")


def _keys(text: str) -> tuple[dict[str, bool], set[str], int]:
    """What the beginning of a JSON object tells.

    Returns:
        Its keys, each with whether its value is a list; the keys of the first item of its `images`; the position where
        the object ends, 0 if that is not in the text.
    """
    top: dict[str, bool] = {}
    item: set[str] = set()
    depth, last, items = 0, "", 0
    for token in _TOKEN.finditer(text):
        mark = token[0][0]
        if mark in "[{":
            depth += 1
            items += depth == 3 and last == "images"
        elif mark in "]}":
            depth -= 1
            if not depth:
                return top, item, token.end()
        elif token[2] is not None and depth == 1:
            last = token[1]
            top[last] = token[3] == "["
        elif token[2] is not None and depth == 3 and items == 1:
            item.add(token[1])
    return top, item, 0
