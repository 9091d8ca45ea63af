"""Galleries from folders, lists and indexes; what is wrong with them is named."""

import json
import os

import numpy as np
import pytest

from tests.serving.pictures import encoded, picture
from tests.serving.runs import write_run
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.exporting.gallery import read_gallery


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run") / "run"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "in").mkdir(parents=True)
    for number, name in enumerate(("b.jpg", "a.PNG", "in/c.webp")):
        (folder / name).write_bytes(encoded(picture(40, 30, number), {"b": "JPEG", "a": "PNG"}.get(name[0], "WEBP")))
    (folder / "notes.txt").write_text("no photo")
    (folder / "broken.jpg").write_bytes(b"no photo either")
    return folder


class Notes(list):
    def __call__(self, problem):
        self.append(str(problem))


def test_a_folder_is_embedded_and_broken_images_are_named(embedder, images):
    notes = Notes()
    gallery = read_gallery(images, embedder, notes, progress=False)
    assert gallery.ids == gallery.captions == ["a.PNG", "b.jpg", "in/c.webp"]
    np.testing.assert_array_equal(gallery.vectors, embedder.encode_images([images / name for name in gallery.ids]))
    assert len(notes) == 1
    assert "broken.jpg" in notes[0]
    assert gallery.facts == {"kind": "images", "source": "images", "left_out": 1, "items": 3}


def test_a_text_file_lists_images_or_captions(embedder, images):
    listing = images / "list.txt"
    listing.write_text(f"in/c.webp\n\n{images / 'b.jpg'}\nmissing.jpg\nin/c.webp\n")
    notes = Notes()
    gallery = read_gallery(listing, embedder, notes, progress=False)
    assert gallery.ids == ["in/c.webp", "b.jpg"]
    assert "line 4: missing image: 'missing.jpg'" in notes[0]
    assert "a second item is called 'in/c.webp'" in notes[1]
    listing.write_bytes("a dog\n\n  zwei Hünde \n".encode() + b"\xff\n")
    notes = Notes()
    gallery = read_gallery(listing, embedder, notes, progress=False)
    assert (gallery.ids, gallery.captions) == (["1", "3"], ["a dog", "zwei Hünde"])
    np.testing.assert_array_equal(gallery.vectors, embedder.encode_texts(["a dog", "zwei Hünde"]))
    assert (gallery.facts["kind"], gallery.facts["left_out"]) == ("captions", 1)
    assert "line 4: not UTF-8" in notes[0]


def test_a_gallery_opens_regular_files_and_names_no_folder(embedder, images, tmp_path):
    os.mkfifo(images / "pipe.jpg")
    rows = [{"image": str(images / "b.jpg")}, {"image": "pipe.jpg"}, {"image": "x" * 300}, {"image": "a\0.jpg"}]
    (images / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    notes = Notes()
    gallery = read_gallery(images / "table.jsonl", embedder, notes, progress=False)
    assert gallery.ids == gallery.captions == ["b.jpg"]
    for note, reason in zip(notes, ("not a file: 'pipe.jpg'", "too long", "holds a NUL"), strict=True):
        assert reason in note
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(UserError, match=r"list\.txt: not a regular file but a pipe"):
        read_gallery(tmp_path / "list.txt", embedder, print)
    for place in ("x" * 300, "~nobody-of-this-name/images"):
        with pytest.raises(UserError, match="no such file or folder"):
            read_gallery(place, embedder, print)
    writer = IndexWriter(tmp_path / "old", "images", embedder.dim)
    items = [Item(str(images / "b.jpg"), path=str(images / "b.jpg"))]
    writer.commit([writer.write(gallery.vectors)], items, {"id": "abc"})
    assert read_gallery(tmp_path / "old", embedder, print).ids == ["../images/b.jpg"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_has_images_with_captions(embedder, images, kind):
    rows = [
        {"image": "b.jpg", "caption": 'a dog, "brown"'},
        {"image": "b.jpg", "caption": "its second caption"},
        {"image": "gone.jpg", "caption": "x"},
        {"image": "in/c.webp", "caption": ""},
    ]
    table = images / f"table.{kind}"
    if kind == "jsonl":
        rows[0]["caption"] = [rows[0]["caption"], "more"]
        table.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n[1]\n" + '{"image": 3.5}\n{}\n')
    else:
        table.write_text(
            'image,caption\nb.jpg,"a dog, ""brown"""\nb.jpg,its second caption\ngone.jpg,x\nin/c.webp,\nb.jpg\n'
        )
    notes = Notes()
    gallery = read_gallery(table, embedder, notes, progress=False)
    assert gallery.ids == ["b.jpg", "in/c.webp"]
    assert gallery.captions == ['a dog, "brown"', "in/c.webp"]
    assert gallery.vectors.shape == (2, embedder.dim)
    text = "\n".join(notes)
    assert f"table.{kind}: line {4 if kind == 'csv' else 3}: missing image: 'gone.jpg'" in text
    if kind == "jsonl":
        for message in (
            "line 5: broken JSON",
            "line 6: wrong type: the line is a list, not an object",
            "line 7: image is not",
            "line 8: neither image nor",
        ):
            assert message in text
    else:
        assert "line 6: wrong number of fields" in text


def test_a_table_of_captions_may_name_its_items(embedder, tmp_path):
    (tmp_path / "t.csv").write_text("id, caption\nx,a dog\n7,two dogs\n")
    gallery = read_gallery(tmp_path / "t.csv", embedder, print, progress=False)
    assert (gallery.ids, gallery.captions) == (["x", "7"], ["a dog", "two dogs"])
    (tmp_path / "t.jsonl").write_text('{"caption": "a dog"}\n\n{"id": 7, "caption": "two dogs"}\n')
    assert read_gallery(tmp_path / "t.jsonl", embedder, print, progress=False).ids == ["1", "7"]


def write_index(folder, dim, kind="images", rows=3):
    values = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    writer = IndexWriter(folder, kind, dim)
    items = [
        Item(f"{row}.jpg", path=f"{row}.jpg") if kind == "images" else Item(str(row), caption=f"caption {row}")
        for row in range(rows)
    ]
    writer.commit([writer.write(values)] if rows else [], items, {"kind": "run", "path": "x", "id": "abc"}, root="/")
    return values


@pytest.mark.parametrize("kind", ["images", "captions"])
def test_an_index_is_taken_as_it_is(embedder, tmp_path, kind):
    values = write_index(tmp_path, embedder.dim, kind)
    gallery = read_gallery(tmp_path, embedder, print)
    np.testing.assert_array_equal(gallery.vectors, values)
    images = kind == "images"
    assert gallery.ids == (["0.jpg", "1.jpg", "2.jpg"] if images else ["0", "1", "2"])
    assert gallery.captions == (gallery.ids if images else ["caption 0", "caption 1", "caption 2"])
    assert gallery.facts["kind"] == kind


def test_an_index_that_does_not_fit_or_is_damaged_is_one_line(embedder, tmp_path):
    write_index(tmp_path / "other", embedder.dim + 1)
    with pytest.raises(UserError, match=rf"{embedder.dim + 1} dimensions, this run gives {embedder.dim}"):
        read_gallery(tmp_path / "other", embedder, print)
    write_index(tmp_path / "good", embedder.dim)
    assert len(read_gallery(tmp_path / "good", embedder, print, model_id="abc")) == 3
    with pytest.raises(UserError, match="made by another model"):
        read_gallery(tmp_path / "good", embedder, print, model_id="def")
    write_index(tmp_path / "empty", embedder.dim, rows=0)
    with pytest.raises(UserError, match="the index is empty"):
        read_gallery(tmp_path / "empty", embedder, print)
    write_index(tmp_path / "damaged", embedder.dim)
    shard = next((tmp_path / "damaged").glob("*.npy"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=shard.name):
        read_gallery(tmp_path / "damaged", embedder, print)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.txt", None, "no such file or folder"),
        ("empty.txt", "", "no usable image or caption"),
        ("gone.txt", "gone.jpg\n", "no usable image or caption in it; first: .*line 1: missing image"),
        ("t.csv", "name\nx\n", "line 1: no column image or caption"),
        ("t.csv", 'caption\n"x\n', "line 2: broken CSV"),
        ("t.jsonl", "", "no usable image"),
    ],
)
def test_an_unusable_list_is_one_line(embedder, tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_gallery(tmp_path / name, embedder, Notes(), progress=False)


def test_a_run_of_features_has_no_images(tmp_path, images):
    run = write_run(tmp_path / "run", (12,), data__source="precomp", image__encoder="features")
    with pytest.raises(UserError, match="this run takes precomputed features"):
        read_gallery(images, load(run), print, progress=False)
