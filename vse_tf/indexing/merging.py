"""Several indexes of one model as one index, without copying a vector. NumPy only."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from vse_tf.artifacts.index import MANIFEST, Index, Item, told
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError


def merge(folders: Sequence[str | Path], output: str | Path) -> Index:
    """Put indexes one after another: their shards are linked (copied to another file system), their items joined.

    Args:
        folders: the indexes, in order; of one model and one kind.
        output: folder of the new index.

    Returns:
        The new index; its photo paths are absolute.

    Raises:
        UserError: no index there, indexes of different models or kinds, or an output that is there already.

    Example:
        >>> merge(["2014.index", "2015.index"], "all.index").count
        16182
    """
    if not folders:
        raise UserError("--merge: name the indexes to merge")
    indexes = [Index.open(folder) for folder in folders]
    first, target = indexes[0], Path(output)
    for index in indexes[1:]:
        if (index.kind, index.dim, index.model.get("id")) != (first.kind, first.dim, first.model.get("id")):
            raise UserError(f"{index.folder}: made of other items or by another model than {first.folder}")
    if (target / MANIFEST).exists() or (target.exists() and any(target.iterdir())):
        raise UserError(f"--output: {target} is there already; choose another folder")
    writer = IndexWriter(target, first.kind, first.dim)
    for index in indexes:
        for shard in index.shards:
            told(target, _link, index.folder / shard.name, target / shard.name, doing="written")
    shards = [shard for index in indexes for shard in index.shards]
    return writer.commit(shards, _items(indexes), first.model, provenance=first.provenance)


def _items(indexes: Sequence[Index]) -> Iterator[Item | bytes]:
    for index in indexes:
        if index.root is None:
            yield from index.item_bytes()
        else:
            yield from (_rooted(index, item) for item in index.all_items())


def _rooted(index: Index, item: Item) -> Item:
    return item if item.path is None else dataclasses.replace(item, path=str(index.path(item)))


def _link(source: Path, target: Path) -> None:
    if target.exists():  # two indexes with the same shard
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
