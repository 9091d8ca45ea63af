"""The index: what is written is what is read, and damage is one line that names the file."""

import json
import os
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vse_tf.artifacts.index import ITEMS, Index, Item
from vse_tf.artifacts.index_manifest import MANIFEST
from vse_tf.artifacts.index_paths import OutsideError
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError

MODEL = {"kind": "run", "path": "runs/a", "id": "abc"}
SIZES = (3, 1, 4)
DIM = 5


def unit(rows, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def images(count, prefix="p"):
    return [Item(f"{prefix}/{i}.jpg", path=f"{prefix}/{i}.jpg", size=i, mtime_ns=10**18 + i) for i in range(count)]


def write(folder, sizes=SIZES, seed=0, items=None):
    writer = IndexWriter(folder, "images", DIM)
    vectors = unit(sum(sizes), seed)
    shards = [writer.write(part) for part in np.split(vectors, np.cumsum(sizes)[:-1])]
    root = folder.parent / "images"
    index = writer.commit(shards, items or images(sum(sizes)), MODEL, root=root, provenance={"seed": 3})
    return index, vectors


def test_what_is_written_is_read(tmp_path):
    _, vectors = write(tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert (index.kind, index.dim, len(index), index.model, index.provenance) == ("images", DIM, 8, MODEL, {"seed": 3})
    np.testing.assert_array_equal(index.matrix(), vectors)
    assert [start for start, _ in index.vectors()] == [0, 3, 4]
    assert all(isinstance(part, np.memmap) and part.dtype == np.float32 for _, part in index.vectors())
    np.testing.assert_array_equal(index.gather([7, 0, 3, 0]), vectors[[7, 0, 3, 0]])
    assert index.gather([]).shape == (0, DIM)
    assert list(index.all_items()) == images(8)
    assert index.items([7, 0, 7]) == [images(8)[7], images(8)[0], images(8)[7]]
    assert str(index.path(index.item(2))) == f"{tmp_path}/images/p/2.jpg"
    assert str(Index.open(tmp_path / "index", root="/moved").path(index.item(2))) == "/moved/p/2.jpg"
    index.verify()


def test_the_folder_is_what_the_documentation_says(tmp_path):
    write(tmp_path / "index")
    manifest = json.loads((tmp_path / "index" / MANIFEST).read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == list(SIZES)
    assert {path.name for path in (tmp_path / "index").iterdir()} == {
        MANIFEST,
        ITEMS,
        *(shard["name"] for shard in manifest["shards"]),
    }
    first = json.loads((tmp_path / "index" / ITEMS).read_text().splitlines()[0])
    assert first == {"id": "p/0.jpg", "path": "p/0.jpg", "size": 0, "mtime_ns": 10**18}


def test_an_empty_index_and_captions(tmp_path):
    index = IndexWriter(tmp_path / "none", "captions", DIM).commit([], [], MODEL)
    assert len(index) == 0
    assert index.matrix().shape == (0, DIM)
    assert list(index.all_items()) == index.items([]) == []
    writer = IndexWriter(tmp_path / "one", "captions", DIM)
    item = Item("1", caption='a "quoted"\nline\u2028with é and 狗')
    index = writer.commit([writer.write(unit(1))], [item], MODEL)
    assert index.item(0) == next(index.all_items()) == item
    with pytest.raises(ValueError, match="caption"):
        index.path(item)


texts = st.text(st.characters(codec="utf-8"))


@given(st.builds(Item, texts, st.none() | texts, st.none() | texts, st.none() | st.integers(), st.none()))
def test_every_item_survives_its_line(item):
    assert item.line.count("\n") == 1
    assert item.line.endswith("\n")
    assert Item.of_line(item.line.encode()) == item


def test_a_second_index_replaces_the_first_and_its_shards(tmp_path):
    write(tmp_path / "index")
    old = {path.name for path in (tmp_path / "index").glob("*.npy")}
    index, vectors = write(tmp_path / "index", (2, 2), seed=1)
    np.testing.assert_array_equal(index.matrix(), vectors)
    assert not old & {path.name for path in (tmp_path / "index").glob("*.npy")}


def test_the_old_index_stays_until_commit(tmp_path):
    index, vectors = write(tmp_path / "index")
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    shard = writer.write(unit(2, seed=1))
    np.testing.assert_array_equal(Index.open(tmp_path / "index").matrix(), vectors)

    def failing():
        yield images(1)[0]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        writer.commit([shard], failing(), MODEL)
    for wrong in (images(1), images(3)):
        with pytest.raises(ValueError, match="items for 2 vectors"):
            writer.commit([shard], wrong, MODEL)
    again = Index.open(tmp_path / "index")
    again.verify()
    assert again.items(range(8)) == index.items(range(8))
    assert not list((tmp_path / "index").glob(".*"))


@pytest.mark.parametrize("rows", [[8], [-1], [0, 99]])
def test_rows_that_are_not_there(tmp_path, rows):
    index, _ = write(tmp_path / "index")
    with pytest.raises(IndexError, match="of an index of 8 rows"):
        index.items(rows)
    with pytest.raises(IndexError):
        index.gather(rows)


def test_only_unit_rows_are_written(tmp_path):
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    for wrong in (2 * unit(3), unit(3)[:, :4], np.zeros((1, DIM)), np.full((1, DIM), np.nan), unit(3)[0]):
        with pytest.raises(ValueError, match=r"vector|shape"):
            writer.write(wrong)
    assert not list((tmp_path / "index").iterdir())


def test_no_index_says_how_to_make_one(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match=r"no index here.*vse_tf\.embed"):
            Index.open(folder)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.*cannot be written"):
        IndexWriter(tmp_path / "file" / "index", "images", DIM)


def shard_of(folder):
    return folder / json.loads((folder / MANIFEST).read_text())["shards"][0]["name"]


def edit(folder, **changed):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changed}))


def pickled(folder):
    np.save(shard_of(folder), np.array([{"a": 1}] * 3, object), allow_pickle=True)


def shard_named(name, rows):
    return {"name": name, "rows": rows, "sha256": ""}


def piped(path):
    path.unlink()
    os.mkfifo(path)


def linked(path, target):
    path.unlink()
    path.symlink_to(target)


def header(folder, shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    shard_of(folder).write_bytes(b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + b"\0" * 60)


DAMAGE = {
    "shard gone": (lambda f: shard_of(f).unlink(), r"vectors-\w+\.npy.*No such file"),
    "shard cut": (lambda f: shard_of(f).write_bytes(shard_of(f).read_bytes()[:-1]), r"vectors-\w+\.npy"),
    "shard empty": (lambda f: shard_of(f).write_bytes(b""), r"vectors-\w+\.npy"),
    "shard of other rows": (lambda f: np.save(shard_of(f), unit(2)), r"vectors-\w+\.npy.*\(3, 5\)"),
    "shard of other dim": (lambda f: np.save(shard_of(f), unit(3)[:, :4]), r"vectors-\w+\.npy.*\(3, 5\)"),
    "shard of doubles": (lambda f: np.save(shard_of(f), unit(3).astype(float)), r"vectors-\w+\.npy.*float32"),
    "shard of objects": (pickled, r"vectors-\w+\.npy"),
    "items gone": (lambda f: (f / ITEMS).unlink(), r"items\.jsonl.*No such file"),
    "items cut": (lambda f: (f / ITEMS).write_bytes((f / ITEMS).read_bytes()[:-1]), r"items\.jsonl.*bytes"),
    "manifest empty": (lambda f: (f / MANIFEST).write_text(""), "manifest.json: Expecting value"),
    "manifest a list": (lambda f: (f / MANIFEST).write_text("[]"), "manifest.json: not an index's manifest"),
    "manifest not UTF-8": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), "manifest.json"),
    "later format": (lambda f: edit(f, format=4), "manifest.json: written by a newer version"),
    "another plain space": (lambda f: edit(f, plain_dim=2), "manifest.json: plain_dim is 2"),
    "unknown kind": (lambda f: edit(f, kind="songs"), "manifest.json: kind is 'songs'"),
    "no dim": (lambda f: edit(f, dim=None), "manifest.json: dim"),
    "a count of another index": (lambda f: edit(f, count=9), "manifest.json: count is 9, the shards hold 8"),
    "no shards": (lambda f: edit(f, shards=[{}]), "manifest.json: shards without"),
    "a way out": (
        lambda f: edit(f, count=3, shards=[{"name": "../a.npy", "rows": 3, "sha256": ""}]),
        "manifest.json: shards without",
    ),
    "no items": (lambda f: edit(f, items={}), "manifest.json: items without"),
    "no model": (lambda f: edit(f, model=None), "manifest.json: no model"),
    "root is a number": (lambda f: edit(f, root=3), "manifest.json: root"),
    "root is no path": (lambda f: edit(f, root="a\0"), "manifest.json: root is not a path"),
    "root without end": (lambda f: edit(f, root="a" * 10_000), "manifest.json: root is not a path"),
    "a dim of many": (lambda f: edit(f, dim=10**30), "manifest.json: dim is above"),
    "a negative dim": (lambda f: edit(f, dim=-5), "manifest.json: dim"),
    "a negative count": (lambda f: edit(f, count=-8), "manifest.json: dim and count"),
    "a shard above": (lambda f: edit(f, count=3, shards=[shard_named("..", 3)]), "manifest.json: shards without"),
    "a shard with a NUL": (lambda f: edit(f, count=3, shards=[shard_named("a\0.npy", 3)]), "shards without"),
    "negative rows": (lambda f: edit(f, count=-3, shards=[shard_named("a.npy", -3)]), "manifest.json: dim and count"),
    "huge rows": (lambda f: edit(f, count=10**30, shards=[shard_named("a.npy", 10**30)]), "cannot be 10+ lines"),
    "a model of lists": (lambda f: edit(f, model={"path": []}), "manifest.json: model.path is not a string"),
    "an id of numbers": (lambda f: edit(f, model={"id": 5}), "manifest.json: model.id is not a string"),
    "nested deeply": (lambda f: (f / MANIFEST).write_text("[" * 10**6), "manifest.json: .*nested too deeply"),
    "manifest a pipe": (lambda f: piped(f / MANIFEST), "manifest.json: not a regular file but a pipe"),
    "manifest a device": (lambda f: linked(f / MANIFEST, "/dev/zero"), "manifest.json: a link out of"),
    "manifest without end": (lambda f: os.truncate(f / MANIFEST, 2**40), "manifest.json: .*more than the limit"),
    "items a pipe": (lambda f: piped(f / ITEMS), r"items\.jsonl.*not a regular file but a pipe"),
    "items elsewhere": (lambda f: linked(f / ITEMS, "/etc/hostname"), r"items\.jsonl.*a link out of"),
    "shard a pipe": (lambda f: piped(shard_of(f)), r"vectors-\w+\.npy.*not a regular file but a pipe"),
    "shard a loop": (lambda f: linked(shard_of(f), shard_of(f).name), r"vectors-\w+\.npy.*symbolic links"),
    "shard elsewhere": (lambda f: linked(shard_of(f), "/dev/zero"), r"vectors-\w+\.npy.*a link out of"),
    "a shape below zero": (lambda f: header(f, "(-3, -5)"), r"vectors-\w+\.npy.*announces the shape"),
    "a shape too large": (lambda f: header(f, f"({2**40}, 5)"), r"vectors-\w+\.npy.*header announces"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_when_opening(tmp_path, damage):
    write(tmp_path / "index")
    act, named = DAMAGE[damage]
    act(tmp_path / "index")
    with pytest.raises(UserError, match=named):
        Index.open(tmp_path / "index")


def swapped(text):
    return text.replace('"size":0', '"size" 0')


LINES = {
    "broken JSON": (swapped, "line 1"),
    "a number": (lambda text: "7".ljust(text.index("\n")) + text[text.index("\n") :], "line 1: not an item"),
    "a path of numbers": (lambda text: text.replace('"path":"p/0.jpg"', '"path":123456789', 1), "line 1.*path"),
    "a line less": (lambda text: text.replace("\n", " ", 1), "line"),
    "a line more": (lambda text: text.replace(",", "\n", 1), "line"),
}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"id": 5}', "id is expected|string under id"),
        ('{"id": "a", "path": ["a"]}', "path is not a string"),
        ('{"id": "a", "caption": 1e9}', "caption is not a string"),
        ('{"id": "a", "size": "7"}', "size is not an integer"),
        ('{"id": "a", "mtime_ns": true}', "mtime_ns is not an integer"),
        ('{"id": "a\\ud800"}', "id is not Unicode"),
        ('{"id": "a", "path": "\\udcff.jpg"}', "path is not UTF-8"),
        ('{"id": "' + "a" * 9000 + '"}', "id has more than"),
        ('{"id": "a", "caption": "' + "a" * 2**23 + '"}', "more than the limit"),
        ('{"id": "a", "size": ' + "9" * 5000 + "}", "."),
        ("[" * 100_000, "."),
        ("NaN        ", "not an item"),
        ("\xff" * 20, "."),
    ],
    ids=range(13),
)
def test_an_odd_item_is_one_line(tmp_path, line, named):
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    index = writer.commit([writer.write(unit(1))], [line.encode("latin-1") + b"\n"], MODEL)
    for read in (lambda: index.item(0), lambda: list(index.all_items())):
        with pytest.raises(UserError, match=rf"items\.jsonl: line 1: .*({named})"):
            read()


def test_a_line_of_many_megabytes_costs_little(tmp_path):
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    line = b'{"id": "a", "caption": "' + b"a" * (100 * 2**20) + b'"}\n'
    index = writer.commit([writer.write(unit(1))], [line], MODEL)
    tracemalloc.start()
    for read in (lambda: index.item(0), lambda: next(index.all_items())):
        with pytest.raises(UserError, match="more than the limit"):
            read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20


def test_the_manifest_names_no_folder_of_its_machine(tmp_path):
    model = {**MODEL, "path": str(tmp_path / "runs" / "a")}
    writer = IndexWriter(tmp_path / "index", "images", DIM)
    index = writer.commit([writer.write(unit(1))], images(1), model, root=tmp_path / "images")
    assert str(tmp_path) not in (index.folder / MANIFEST).read_text()
    assert index.model["path"] == "../runs/a"
    # Not the way up to the root of the file system and down again.
    index = writer.commit([writer.write(unit(1))], images(1), {**model, "path": "/no/run"}, root="/no/images")
    assert "/no" not in (index.folder / MANIFEST).read_text()
    assert (index.root, index.image_root.name, index.model.get("path")) == (None, "images", None)
    with pytest.raises(OutsideError, match=r"name it with --root \(it was called 'images'\)"):
        index.image(index.item(0))


def test_an_index_of_an_earlier_version_is_read(tmp_path):
    index, _ = write(tmp_path / "index")
    edit(index.folder, root=str(tmp_path / "images"), model={"kind": "run", "path": "/home/me/runs/a", "id": "abc"})
    manifest = json.loads((index.folder / MANIFEST).read_text())
    del manifest["root_name"]
    (index.folder / MANIFEST).write_text(json.dumps(manifest))
    index = Index.open(index.folder)
    assert str(index.image(index.item(2))) == f"{tmp_path}/images/p/2.jpg"


@pytest.mark.parametrize("damage", LINES)
def test_a_damaged_line_of_the_same_length_is_named(tmp_path, damage):
    write(tmp_path / "index")
    act, named = LINES[damage]
    path = tmp_path / "index" / ITEMS
    before = path.read_text()
    path.write_text(act(before).ljust(len(before)))
    index = Index.open(tmp_path / "index")
    for read in (lambda: index.item(0), lambda: list(index.all_items())):
        with pytest.raises(UserError, match=rf"items\.jsonl: .*{named}"):
            read()
    with pytest.raises(UserError, match=r"items\.jsonl: damaged"):
        index.verify()


def test_a_flipped_bit_is_found_by_verify(tmp_path):
    index, _ = write(tmp_path / "index")
    path = shard_of(tmp_path / "index")
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    Index.open(tmp_path / "index")
    with pytest.raises(UserError, match=rf"{path.name}: damaged"):
        index.verify()


def test_an_index_works_elsewhere(tmp_path):
    _, vectors = write(tmp_path / "index")
    shutil.move(tmp_path / "index", tmp_path / "elsewhere")
    np.testing.assert_array_equal(Index.open(tmp_path / "elsewhere").matrix(), vectors)
