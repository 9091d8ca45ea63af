"""The items of a collection in shards: the images of tar shards and Parquet files, with or without captions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vse_tf.addresses import is_address
from vse_tf.artifacts.index import Item
from vse_tf.config import DataSettings
from vse_tf.data.packed_images import PackedFile, PackedImages
from vse_tf.data.records import Problem
from vse_tf.data.sources.packed import Shard
from vse_tf.data.sources.shards import shard_paths
from vse_tf.indexing.image_files import SUFFIXES
from vse_tf.indexing.items import Items
from vse_tf.remote.filesystem import version
from vse_tf.remote.shards import fetch_ahead, mirror_of, suffixes_at
from vse_tf.source_detection import SHARDS, is_pattern


@dataclass(frozen=True)
class ShardItems(Items):
    """A collection in shards, to iterate over.

    Args:
        shards: the shards.
    """

    shards: tuple[Path, ...] = field(default=(), kw_only=True)

    def __iter__(self) -> Iterator[Item | Problem]:
        self.ignored.clear()
        for path, shard in zip(self.shards, _open(self.shards), strict=True):
            yield from (Problem(where, what) for where, what in shard.index.problems)
            name = os.path.relpath(path, self.root)
            # The position in a copy in the cache folder is of no use to others.
            has_position = shard.file.path == str(path)
            for sample in shard.index.samples:
                offset = sample.start if has_position else None
                found = Item(f"{name}/{sample.name}", name, None, sample.length, shard.file.mtime_ns, offset)
                yield Problem(shard.index.place(sample.name), sample.reason) if sample.reason else found

    def images(self, items: Sequence[Item]) -> PackedImages:
        """The images of some items."""
        names = dict.fromkeys(str(item.path) for item in items)
        paths = [Path(str(self.root), name) for name in names]
        files, numbers = [], {name: number for number, name in enumerate(names)}
        samples: dict[str, tuple[int, int]] = {}
        fetch_ahead(paths)
        for name, path in zip(names, paths, strict=True):
            mine = [item for item in items if item.path == name]
            if mine[0].offset is None:
                (shard,) = _open([path])
                samples |= {f"{name}/{each.name}": (each.start, each.length) for each in shard.index.samples}
                files.append(shard.file)
            else:
                samples |= {item.id: (item.offset or 0, item.size or 0) for item in mine}
                file = PackedFile.of(str(path))
                # One that has changed since the positions were found is not read.
                files.append(PackedFile(file.path, file.size, mine[0].mtime_ns or 0))
        places = [samples[item.id] for item in items]
        starts, lengths = zip(*places, strict=True)
        where = [str(Path(str(self.root), item.id)) for item in items]
        return PackedImages(where, files, [numbers[str(item.path)] for item in items], starts, lengths)


def shard_items(source: str | Path) -> ShardItems | None:
    """The images in shards: a shard, a pattern, or a folder of shards without image files; None for anything else.

    Args:
        source: what `--images` names.

    Raises:
        UserError: a pattern that names no shard.

    Example:
        >>> shard_items("holiday") is None
        True
    """
    if is_address(source):
        return _remote_items(source)
    path = Path(source)
    kinds = {suffix for suffix in SHARDS if path.suffix == suffix and (is_pattern(str(path)) or path.is_file())}
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises if the name is too long
        names = [entry.name.lower() for entry in os.scandir(path) if not entry.name.startswith(".")]
        kinds = {suffix for suffix in SHARDS if any(name.endswith(suffix) for name in names)}
        if any(name.endswith(SUFFIXES) for name in names):
            return None
    if not kinds:
        return None
    # img2dataset writes a Parquet file of captions beside each tar.
    suffix = next(suffix for suffix in SHARDS if suffix in kinds)
    shards = tuple(Path(os.path.realpath(each)) for each in shard_paths(str(source), suffix))
    root = Path(os.path.commonpath([shard.parent for shard in shards]))
    return ShardItems("images", path, root, shards=shards)


def _remote_items(address: str) -> ShardItems | None:
    suffix = Path(address).suffix
    if suffix not in SHARDS:
        if version(address) is not None:
            return None
        there = suffixes_at(address)
        suffix = next((each for each in SHARDS if each in there), ".tar")
    shards = tuple(shard_paths(address, suffix))
    mirror, _ = mirror_of(shards[0]) or (None, "")
    assert mirror is not None
    return ShardItems("images", mirror.root, mirror.root, shards=shards, address=mirror.address)


def _open(paths: Sequence[Path]) -> Iterator[Shard]:
    """The shards with their indexes."""
    if paths[0].suffix == ".tar":
        from vse_tf.data.sources.webdataset import open_shards  # noqa: PLC0415
    else:
        from vse_tf.data.sources.parquet import open_shards  # noqa: PLC0415 (Arrow)

    return open_shards(paths, DataSettings(), progress=True)
