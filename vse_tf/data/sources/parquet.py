"""The source `parquet`: Parquet files of images and captions, as model hubs have them.

A row of a Parquet file cannot be read without its row group, a thousand rows or so. The images are therefore copied to
the cache folder once, as one file for each Parquet file, and are read from there by their positions.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vse_tf.atomic import atomic_file, check_folder
from vse_tf.cache import cache_folder, read_cached, write_cached
from vse_tf.cache_size import GB, BoundedCache
from vse_tf.config import DataSettings
from vse_tf.data.packed_images import PackedFile
from vse_tf.data.records import Collection
from vse_tf.data.sources.files import one_path
from vse_tf.data.sources.image_folder import ImageFolder
from vse_tf.data.sources.packed import Shard, collect_packed
from vse_tf.data.sources.parquet_rows import ParquetShard
from vse_tf.data.sources.shard_index import ShardIndex, read_index
from vse_tf.data.sources.shards import shard_paths, splits_of_names
from vse_tf.data.verify import RULES
from vse_tf.display import phase_if, say
from vse_tf.files import file_errors
from vse_tf.locks import process_lock
from vse_tf.remote.shards import fetch_ahead, present

SUFFIX = ".parquet"
MB = 10**6
# Stored with an index: raise it when what is in an index changes.
FORMAT = 1


def read_parquet(settings: DataSettings, progress: bool = True) -> Collection:
    """Read Parquet files.

    The image is a struct of `bytes` and `path`, or bytes; the captions are a string, a list of strings, or several
    columns (`caption_0`, `caption_1`, …). Rows with the same image under the same name are one image with the captions
    of all of them. The split is the column `data.table.split_column`, or said by the file's name
    (`train-00000.parquet`); without either, splits are drawn. An image that is only a path is a file below
    `data.images`, if that is given.

    Args:
        settings: `annotations` names Parquet files, their folder, or a pattern; `table` names the columns.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: no Parquet files or columns, no space in the cache folder, or the problems of the rows.
    """
    paths = shard_paths(settings.annotations, SUFFIX, settings)
    return collect_packed("parquet", open_shards(paths, settings, progress), settings, progress)


def open_shards(paths: Sequence[Path], settings: DataSettings, progress: bool) -> Iterator[Shard]:
    """The shards with their indexes, one after another.

    Args:
        paths: the shards.
        settings: as in `read_parquet`.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: a shard cannot be read.
    """
    root = one_path(settings.images, "data.images", "image folder") if settings.images else None
    folder = ImageFolder(root) if root else None
    copies = [_Copy(path, settings) for path in paths]
    cache = BoundedCache(cache_folder(settings), settings.cache_size)
    entries = dict.fromkeys(copy.entry for copy in copies)
    for entry in entries:
        cache.claim(entry)
    missing = [copy for copy in copies if not copy.exists()]
    fetch_ahead([copy.path for copy in missing])
    needed = sum(ParquetShard(present(copy.path), settings.table).image_bytes for copy in missing)
    if missing:
        for entry in entries:
            check_folder(entry, "data.cache_dir")
        if progress:
            say(
                f"copying the images of {len(missing)} Parquet files to {copies[0].entry}: {needed / GB:.2g} GB, once",
                sys.stderr,
            )
        cache.make_room(needed, "the images of the Parquet files")
    with phase_if(progress and bool(missing), "copying the images", needed // MB, "MB") as copying:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            before, done = done, done + count
            copying.update(done // MB - before // MB)

        for copy, split in zip(copies, splits_of_names(paths), strict=True):
            index = copy.index()
            if index is None:
                with file_errors(copy.entry, "written", "name another folder with --data.cache_dir"):
                    index = copy.make(ParquetShard(present(copy.path), settings.table), folder, advance)
            with file_errors(copy.images):
                file = PackedFile.of(str(copy.images))
            yield Shard(index, file, split)


class _Copy:
    """The images of a Parquet file as one file in the cache folder, and their index; the names depend on its state."""

    def __init__(self, path: Path, settings: DataSettings) -> None:
        self.path = path
        # One for all files of a folder, so that they are evicted together.
        folder = path.absolute().parent
        name = f"{folder.name[:60] or 'root'}-{_digest(os.fsencode(folder))}"
        self.entry = cache_folder(settings).absolute() / "parquet" / name
        with file_errors(path):
            file = PackedFile.of(str(path))
        table = settings.table
        columns = [table.image_column, table.caption_column, table.split_column]
        version = [FORMAT, RULES, file.size, file.mtime_ns, *columns, str(settings.images)]
        self._of_file = f"{path.stem[:60]}-{_digest(os.fsencode(path.absolute()))}-"
        name = self._of_file + _digest(json.dumps(version).encode())
        self.images = self.entry / f"{name}.images"
        self._index = self.entry / f"{name}.json"

    def exists(self) -> bool:
        """Whether there is a copy of the file as it is now."""
        return self.images.exists() and self._index.exists()

    def index(self) -> ShardIndex | None:
        """The index, if the copy is complete."""
        found = read_cached(self._index)
        try:
            if found["bytes"] == self.images.stat().st_size:
                return read_index(str(self.path), found["index"])
        except (OSError, TypeError, KeyError, ValueError):
            pass
        return None

    def make(self, shard: ParquetShard, folder: ImageFolder | None, advance: Callable[[int], object]) -> ShardIndex:
        """Copy the images, unless another process has done so meanwhile."""
        self.entry.mkdir(parents=True, exist_ok=True)
        with process_lock(self.entry / f".{self.images.stem}.lock", "copies these images"):
            if index := self.index():
                return index
            for old in self.entry.glob(f"{glob.escape(self._of_file)}*"):
                old.unlink(missing_ok=True)
            with atomic_file(self.images) as file:
                index = shard.copy(file, folder, advance)
                size = file.tell()
            write_cached(self._index, {"bytes": size, "index": index.values()})
            return index


def _digest(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()[:16]
