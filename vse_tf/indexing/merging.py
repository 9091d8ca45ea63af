"""Merges indexes of one model into one index without copying vectors. NumPy only."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_paths import absolute, own_file
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.shards import map_shard
from vse_tf.errors import UserError
from vse_tf.files import file_errors
from vse_tf.indexing.compacting import compacted
from vse_tf.indexing.relevance import calibrate


def merge(folders: Sequence[str | Path], output: str | Path, storage: str | None = None) -> Index:
    """Concatenate indexes: shards are hard-linked, or copied if the output is on another file system.

    Args:
        folders: the indexes, in order; of the same model and kind.
        output: folder of the new index.
        storage: of compact vectors, see `vse_tf.indexing.embedding.embed` (default: that of the first index).

    Returns:
        The new index. Its image paths are relative to the folder that contains the images of all indexes. If an index
        does not say where its images are, and the image folders have different names, each path begins with the name
        of its image folder.

    Raises:
        UserError: a folder is not an index or has no float32 vectors, the models or kinds differ, or the output is not
            empty.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for year in ("2014", "2015"):
        ...         writer = IndexWriter(f"{folder}/{year}", "captions", dim=2)
        ...         _ = writer.commit([writer.write([[0, 1]])], [Item("1", caption="a dog")], model={})
        ...     merge([f"{folder}/2014", f"{folder}/2015"], f"{folder}/all").count
        2
    """
    if not folders:
        raise UserError("--merge: name the indexes to merge")
    indexes = [Index.open(folder) for folder in folders]
    first, target = indexes[0], Path(output)
    for index in indexes:
        if not index.complete:
            raise UserError(f"{index.folder}: its float32 vectors are gone, and without them it cannot be merged")
    for index in indexes[1:]:
        spaces = [(each.kind, each.dim, each.plain_dim, each.model.get("id")) for each in (index, first)]
        if spaces[0] != spaces[1]:
            raise UserError(f"{index.folder}: its kind or model differs from that of {first.folder}")
    if target.exists() and any(target.iterdir()):
        raise UserError(f"--output: {target} is not empty; choose another folder")
    form = None if first.compact is None else first.compact.form
    if storage is not None:
        form = Form.of(storage, first.dim, first.plain_dim)
    writer = IndexWriter(target, first.kind, first.dim, first.plain_dim)
    for index in indexes:
        for shard in index.shards:
            with file_errors(target, "written"):
                _link(own_file(index.folder, shard.name), target / shard.name)
    shards = [shard for index in indexes for shard in index.shards]
    model = dict(first.model)
    if model.get("path"):
        model["path"] = absolute(model["path"], first.folder)
    root, prefixes = _roots(indexes)
    items = _joined_items(indexes, prefixes, root)
    root_name = None if any(prefixes) else first.image_root.name
    texts = next((index.calibration.texts for index in indexes if index.calibration is not None), None)
    # Shards may be named several times, as often as an index of them is merged.
    calibration = calibrate(
        lambda: (map_shard(target, shard, first.dim) for shard in shards),
        sum(shard.rows for shard in shards),
        first.kind,
        first.plain_dim,
        texts,
    )
    compact = compacted(writer, shards, form, calibration)
    return writer.commit(shards, items, model, root, first.provenance, root_name, calibration, compact)


def _roots(indexes: Sequence[Index]) -> tuple[str | None, list[str]]:
    """The folder that contains the images of all indexes, if it is known, and the subfolder of each index."""
    names = [index.image_root.name for index in indexes]
    # Merged indexes of older versions hold absolute paths and no root.
    roots = [index.root or ("/" if index.image_root.name is None else None) for index in indexes]
    if indexes[0].kind == "images" and all(roots):
        known = [str(root) for root in roots]
        shared = os.path.commonpath(known)
        return shared, ["" if root == shared else os.path.relpath(root, shared) for root in known]
    return None, [name or "" for name in names] if len(set(names)) > 1 else [""] * len(names)


def _joined_items(indexes: Sequence[Index], prefixes: Sequence[str], root: str | None) -> Iterator[Item | bytes]:
    for index, prefix in zip(indexes, prefixes, strict=True):
        # Indexes of lists made by older versions hold absolute paths, too.
        if prefix or (index.kind == "images" and index.image_root.name is None):
            yield from (_moved(item, prefix, root) for item in index.all_items())
        else:
            yield from index.item_bytes()


def _moved(item: Item, prefix: str, root: str | None) -> Item:
    if item.path is None:
        return item
    path = Path(prefix, item.path)
    if path.is_absolute():
        path = Path(os.path.relpath(path, root or path.anchor))
    return dataclasses.replace(item, path=path.as_posix())


def _link(source: Path, target: Path) -> None:
    if target.exists():  # two indexes contain the same shard
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
