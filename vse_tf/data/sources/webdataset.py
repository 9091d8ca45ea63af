"""The source `webdataset`: tar shards of images and captions, as img2dataset and open_clip write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vse_tf.cache import cache_folder, cached_result
from vse_tf.config import DataSettings, TableSettings
from vse_tf.data.packed_images import PackedFile
from vse_tf.data.records import Collection
from vse_tf.data.sources.packed import Shard, collect_packed
from vse_tf.data.sources.shard_index import ShardIndex, read_index
from vse_tf.data.sources.shards import shard_paths, splits_of_names
from vse_tf.data.sources.tar_shards import index_tar
from vse_tf.data.verify import RULES
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular
from vse_tf.remote.shards import fetch_ahead, mirror_of, present

SUFFIX = ".tar"
MB = 10**6
# Stored with an index: raise it when what is in an index changes.
FORMAT = 1
# Compressed shards have no positions.
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "Zstandard"}


def read_webdataset(settings: DataSettings, progress: bool = True) -> Collection:
    """Read tar shards.

    A sample is made of the members whose names are equal up to the first dot: an image (`.jpg`, `.png`, `.webp`, …) and
    a `.txt` with its caption, or a `.json` with one caption or a list under `data.table.caption_column`. The split is
    the `.json`'s `data.table.split_column`, or said by the shard's name (`train-00000.tar`); without either, splits are
    drawn. The positions of all images are found once and cached until a shard changes; images are read where they are.

    Args:
        settings: `annotations` names shards, their folder, or a pattern.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: no shards, or the problems of their samples.
    """
    paths = shard_paths(settings.annotations, SUFFIX, settings)
    return collect_packed("webdataset", open_shards(paths, settings, progress), settings, progress)


def open_shards(paths: Sequence[Path], settings: DataSettings, progress: bool) -> Iterator[Shard]:
    """The shards with their indexes, one after another.

    Args:
        paths: the shards.
        settings: as in `read_webdataset`.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: a shard cannot be read.
    """
    files = []
    for path in paths:
        with file_errors(path):
            files.append(PackedFile.of(str(path)))
            if mirror_of(path) is None:
                _check_kind(path)
    fetch_ahead(paths)
    with phase_if(progress, "indexing the shards", sum(file.size for file in files) // MB, "MB") as indexing:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            indexing.update(done // MB - before // MB)

        for path, file, split in zip(paths, files, splits_of_names(paths), strict=True):
            start = done
            with file_errors(path):
                index = _index(path, file, settings.table, cache_folder(settings), advance)
            advance(start + file.size - done)
            yield Shard(index, file, split)


def _index(
    path: Path, file: PackedFile, table: TableSettings, cache: Path, advance: Callable[[int], object]
) -> ShardIndex:
    """The index of a shard, from the cache if there is one."""

    def make() -> ShardIndex:
        if mirror_of(path) is not None:
            _check_kind(present(path))
        return index_tar(path, table, advance)

    values = cached_result(cache, path, index_name(table), lambda: make().values(), file.state)
    try:
        return read_index(str(path), values)
    except ValueError:
        # Somebody else has changed the cache.
        return make()


def index_name(table: TableSettings) -> str:
    """The name of indexes in the cache: they depend on the keys that are read."""
    keys = json.dumps([FORMAT, table.caption_column, table.split_column])
    return f"tar-{RULES}-{hashlib.sha256(keys.encode()).hexdigest()[:8]}"


def _check_kind(path: Path) -> None:
    with open_regular(path) as file:
        start = file.read(8)
    if kind := next((kind for magic, kind in COMPRESSED.items() if start.startswith(magic)), None):
        raise UserError(f"{path}: compressed by {kind}; images inside have no positions: decompress the shard")
