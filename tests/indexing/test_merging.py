"""A merged index is the index of all items."""

import os

import numpy as np
import pytest

from tests.indexing.test_search import unit
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.compact_search import default_search
from vse_tf.indexing.merging import merge
from vse_tf.indexing.search import ExactSearch


def write(folder, vectors, model="a", kind="images", root=None):
    writer = IndexWriter(folder, kind, vectors.shape[1])
    items = [Item(f"{i}.jpg", path=f"{i}.jpg") for i in range(len(vectors))]
    half = len(vectors) // 2
    shards = [writer.write(vectors[:half]), writer.write(vectors[half:])]
    return writer.commit(
        shards, items, {"id": model, "path": "runs/a"}, root=root or folder.parent / "images" / folder.name
    )


def test_merged_indexes_are_searched_as_one(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((50, 6)))
    write(tmp_path / "a", vectors[:20])
    write(tmp_path / "b", vectors[20:])
    index = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    index.verify()
    np.testing.assert_array_equal(index.matrix(), vectors)
    assert str(index.path(index.item(3))) == f"{tmp_path}/images/a/3.jpg"
    assert str(index.path(index.item(23))) == f"{tmp_path}/images/b/3.jpg"
    single = write(tmp_path / "single", vectors)
    for ours, expected in zip(ExactSearch(index)(vectors, 7), ExactSearch(single)(vectors, 7), strict=True):
        np.testing.assert_array_equal(ours, expected)
    # The shard is a link, and stays when the merged index is replaced.
    shard = index.folder / index.shards[0].name
    assert os.stat(shard).st_nlink == 2  # noqa: PTH116
    write(tmp_path / "a", vectors[5:9])
    index.verify()


def test_a_merged_index_names_no_folder_of_its_machine(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((8, 6)))
    write(tmp_path / "a", vectors)
    write(tmp_path / "b", vectors)
    (tmp_path / "deep").mkdir()
    index = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "deep" / "all")
    for name in ("manifest.json", "items.jsonl"):
        assert str(tmp_path) not in (index.folder / name).read_text()
    assert index.item(9) == Item("1.jpg", path="b/1.jpg")
    assert index.root == str(tmp_path / "images")


def test_image_folders_that_are_not_known_differ_by_name(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((8, 6)))
    write(tmp_path / "a", vectors, root="/no/a")
    write(tmp_path / "b", vectors, root="/no/b")
    index = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "all")
    assert (index.root, index.item(3).path, index.item(11).path) == (None, "a/3.jpg", "b/3.jpg")
    index = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "twice")
    assert (index.root, index.image_root.name, index.item(11).path) == (None, "a", "3.jpg")


def test_an_earlier_merge_with_absolute_paths_is_merged(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((2, 6)))
    old = IndexWriter(tmp_path / "old", "images", 6)
    items = [Item("1.jpg", path=f"{tmp_path}/images/a/1.jpg"), Item("2.jpg", path=f"{tmp_path}/images/b/2.jpg")]
    old.commit([old.write(vectors)], items, {"id": "a"})
    index = merge([tmp_path / "old", tmp_path / "old"], tmp_path / "all")
    assert str(Index.open(index.folder, root="/").image(index.item(3))) == f"{tmp_path}/images/b/2.jpg"
    assert f'"{tmp_path}' not in (index.folder / "items.jsonl").read_text()


def test_without_links_shards_are_copied(tmp_path, monkeypatch):
    vectors = unit(np.random.default_rng(0).standard_normal((8, 6)))
    write(tmp_path / "a", vectors)

    def other_device(*args):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_device)
    # The same index twice: the same shards, each item twice.
    index = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "twice")
    np.testing.assert_array_equal(index.matrix(), np.concatenate([vectors, vectors]))


def test_merged_indexes_and_captions_are_merged_again(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((8, 6)))
    write(tmp_path / "a", vectors)
    once = merge([tmp_path / "a", tmp_path / "a"], tmp_path / "once")
    twice = merge([tmp_path / "once", tmp_path / "a"], tmp_path / "twice")
    assert list(twice.all_items()) == [*once.all_items(), *list(once.all_items())[:8]]
    twice.verify()


def test_indexes_that_cannot_be_merged_are_one_line(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((8, 6)))
    write(tmp_path / "a", vectors)
    write(tmp_path / "b", vectors, model="b")
    write(tmp_path / "c", vectors, kind="captions")
    write(tmp_path / "d", unit(vectors[:, :5]))
    for name in "bcd":
        with pytest.raises(UserError, match=f"/{name}: its kind or model differs from that of"):
            merge([tmp_path / "a", tmp_path / name], tmp_path / "all")
    with pytest.raises(UserError, match="is not empty; choose another folder"):
        merge([tmp_path / "a"], tmp_path / "b")
    with pytest.raises(UserError, match="no index here"):
        merge([tmp_path / "a", tmp_path / "missing"], tmp_path / "all")
    with pytest.raises(UserError, match="name the indexes"):
        merge([], tmp_path / "all")


def test_a_merged_index_has_compact_vectors(tmp_path):
    vectors = unit(np.random.default_rng(0).standard_normal((50, 6)))
    write(tmp_path / "a", vectors[:20])
    write(tmp_path / "b", vectors[20:])
    folders = [tmp_path / "a", tmp_path / "b"]
    index = merge(folders, tmp_path / "all", "int8:4")
    assert str(index.compact.form) == "int8:4" and len(index.compact.shards) == 4
    for ours, expected in zip(default_search(index)(vectors, 7), ExactSearch(index)(vectors, 7), strict=True):
        np.testing.assert_array_equal(ours, expected)
    # Without an option it has those of the first.
    assert merge([tmp_path / "all", tmp_path / "a"], tmp_path / "more").compact.form == index.compact.form
    with pytest.raises(UserError, match="from 1 to the model's 6"):
        merge(folders, tmp_path / "wrong", "int8:7")
    assert not (tmp_path / "wrong").exists()
    for shard in index.shards:
        (index.folder / shard.name).unlink()
    with pytest.raises(UserError, match="all: its float32 vectors are gone"):
        merge([tmp_path / "a", tmp_path / "all"], tmp_path / "gone")
