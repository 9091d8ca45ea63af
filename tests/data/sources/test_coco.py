import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from source_files import captions, make_images, read_quietly, settings_for, write_json

from vse_tf.errors import UserError


def coco(images: dict[int, str], texts: list[tuple[int, int, str]]) -> dict:
    return {
        "images": [{"id": number, "file_name": name} for number, name in images.items()],
        "annotations": [{"id": number, "image_id": image, "caption": text} for number, image, text in texts],
    }


TRAIN = coco({1: "a.jpg", 2: "b.jpg"}, [(11, 1, "a1"), (12, 2, "b1"), (13, 1, "a2"), (14, 1, "a3")])
# The same image ids and file names, other images and captions.
VAL = coco({1: "a.jpg", 3: "c.jpg"}, [(21, 1, "va1"), (22, 3, "vc1"), (23, 3, "vc1")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path / "train2014", "a.jpg", "b.jpg")
    make_images(tmp_path / "val2014", "a.jpg", "c.jpg")
    return tmp_path


def load(folder: Path, files: Mapping[str, object], images: list[str] | str | None = None, **changes):
    names = [write_json(folder / name, data) for name, data in files.items()]
    roots = [str(folder / name) for name in (images if isinstance(images, list) else [images or "train2014"])]
    return read_quietly(settings_for(folder, "coco", annotations=names, images=roots, **changes))


def load_two(folder: Path, **changes):
    files = {"captions_train2014.json": TRAIN, "captions_val2014.json": VAL}
    return load(folder, files, ["train2014", "val2014"], **changes)


def ids(folder: Path, name: str, *numbers: int) -> str:
    np.save(folder / name, np.array(numbers, np.int64))
    return str(folder / name)


def test_files_that_share_ids_and_names_stay_apart(folder):
    collection = load_two(folder)
    assert captions(collection) == {
        "train": [("a1", "a2", "a3"), ("b1",)],
        "val": [("va1",), ("vc1", "vc1")],
    }
    assert [Path(path).parent.name for path in collection.splits["val"].images.paths] == ["val2014"] * 2
    assert collection.splits["val"].records[1].where.endswith("captions_val2014.json: images[1] (id 3)")


def test_the_ids_are_kept(folder):
    records = [record for split in load_two(folder).splits.values() for record in split.records]
    assert [record.image_id for record in records] == [1, 2, 1, 3]
    assert [record.caption_ids for record in records] == [(11, 13, 14), (12,), (21,), (22, 23)]
    chosen = load_two(folder, split_ids={"test": [ids(folder, "test.npy", 13, 11)]})
    assert [record.caption_ids for record in chosen.splits["test"].records] == [(11, 13)]
    named = coco({1: "a.jpg"}, [("x", 1, "a1"), (5, 1, "a2")])
    assert load(folder, {"captions_train.json": named}).splits["train"].records[0].caption_ids == ()


def test_one_folder_may_hold_the_subfolders_of_all(folder):
    one = coco({1: "train2014/a.jpg"}, [(1, 1, "x")])
    two = coco({1: "val2014/c.jpg"}, [(1, 1, "y")])
    collection = load(folder, {"captions_train.json": one, "captions_val.json": two}, ".")
    assert captions(collection) == {"train": [("x",)], "val": [("y",)]}


def test_other_names_are_drawn_by_image(folder):
    collection = load(folder, {"all.json": TRAIN}, val_fraction=0.5, test_fraction=0.0)
    assert {name: len(split) for name, split in collection.splits.items()} == {"train": 1, "val": 1}
    assert sorted(chain.from_iterable(captions(collection).values())) == [("a1", "a2", "a3"), ("b1",)]


def test_id_files_choose_captions(folder):
    split_ids = {
        "train": [ids(folder, "train.npy", 13, 11), ids(folder, "restval.npy", 22)],
        "dev": [ids(folder, "dev.npy", 21, 21)],
    }
    collection = load_two(folder, split_ids=split_ids)
    assert captions(collection) == {"train": [("a1", "a2"), ("vc1",)], "val": [("va1",)]}
    assert collection.skipped == ()


def test_ids_that_name_nothing_and_ids_in_two_splits(folder):
    split_ids = {"train": [ids(folder, "t.npy", 11, 12, 99, 98)], "val": [ids(folder, "v.npy", 13, 12)]}
    with pytest.raises(UserError) as info:
        load_two(folder, split_ids=split_ids)
    message = str(info.value)
    assert "3 problems" in message
    assert "v.npy (val): annotation id in two splits: 12 is also in train" in message
    assert "data.split_ids.train: unknown annotation ids: 2 are in no caption file, the first is 99" in message
    assert "annotations[2] (id 13): image in two splits: a.jpg is in val here, in train at" in message
    collection = load_two(folder, split_ids=split_ids, on_bad="skip")
    assert captions(collection) == {"train": [("a1",), ("b1",)]}
    assert len(collection.skipped) == 3


def test_ids_that_occur_in_two_files_are_an_error(folder):
    other = coco({7: "c.jpg"}, [(11, 7, "z")])
    files = {"one.json": TRAIN, "two.json": other}
    with pytest.raises(UserError, match=r"11 in .*one\.json and .*two\.json"):
        load(folder, files, ["train2014", "val2014"], split_ids={"train": [ids(folder, "t.npy", 11)]}, on_bad="skip")


def test_id_files_that_are_none(folder):
    np.save(folder / "pickled.npy", np.array([{}], object))
    np.save(folder / "floats.npy", np.array([1.5]))
    np.savez(folder / "several.npz", a=np.array([1]))
    (folder / "text.npy").write_text("12\n13\n")
    (folder / "empty.npy").touch()
    for name in ("pickled.npy", "floats.npy", "several.npz", "text.npy", "empty.npy", "gone.npy"):
        with pytest.raises(UserError, match=rf"{re.escape(name)} \(data\.split_ids\.train\): "):
            load_two(folder, split_ids={"train": [str(folder / name)]}, on_bad="skip")
    with pytest.raises(UserError, match=r"--data\.split_ids\.train"):
        load_two(folder, split_ids={"train": []})


def changed(images=(), annotations=()) -> dict:
    return {"images": [*TRAIN["images"], *images], "annotations": [*TRAIN["annotations"], *annotations]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed([{"id": 9, "file_name": "gone.jpg"}]), "images[2] (id 9): missing image: 'gone.jpg'"),
        (changed([{"id": 9, "file_name": "../val2014/a.jpg"}]), "images[2] (id 9): path outside the image folder"),
        (changed([{"id": 9, "file_name": "a.jpg"}]), "images[2] (id 9): duplicate image"),
        (changed([{"id": 1, "file_name": "c.jpg"}]), "images[2]: duplicate image: id 1"),
        (
            changed([{"id": 9, "file_name": "text.jpg"}], [{"id": 1, "image_id": 9, "caption": "x"}]),
            "undecodable image",
        ),
        (changed([{"id": 9, "file_name": "new.jpg"}]), "images[2] (id 9): image without captions"),
        (changed([{"id": 9}], [{"id": 1, "image_id": 9, "caption": "x"}]), "images[2]: missing key: file_name"),
        (changed([{"id": [1], "file_name": 4}]), "images[2].file_name: wrong type: a number"),
        (changed([{"id": [1], "file_name": 4}]), "images[2].id: wrong type: a list"),
        (changed([3]), "images[2]: wrong type: a number, not an object"),
        (changed([], [{"id": 15, "image_id": 1, "caption": " "}]), "annotations[4] (id 15): empty caption"),
        (
            changed([], [{"id": 15, "image_id": 1, "caption": 3}]),
            "annotations[4] (id 15): wrong type: the caption is a",
        ),
        (changed([], [{"id": 15, "image_id": 8, "caption": "x"}]), "annotations[4]: unknown image id: 8"),
        (changed([], [{"id": 15, "caption": "x"}]), "annotations[4]: missing key: image_id"),
        (
            changed([], [{"id": 11, "image_id": 1, "caption": "x"}]),
            "annotations[4] (id 11): repeated annotation id: 11",
        ),
        (changed([], ["x"]), "annotations[4]: wrong type: a string, not an object"),
    ],
)
def test_each_problem_stops_or_is_left_out(folder, data, message):
    (folder / "train2014" / "text.jpg").write_text("not an image at all")
    make_images(folder / "train2014", "new.jpg")
    with pytest.raises(UserError, match=re.escape(message)):
        load(folder, {"captions_train.json": data})
    collection = load(folder, {"captions_train.json": data}, on_bad="skip")
    assert any(message in str(problem) for problem in collection.skipped)
    train_captions = captions(collection)["train"]
    assert train_captions[0][:3] == ("a1", "a2", "a3")
    assert train_captions[1:] == [("b1",)]


def test_captions_without_ids_are_merged_and_counted(folder):
    collection = load(folder, {"captions_train.json": changed([], [{"image_id": 1, "caption": "same"}] * 3)})
    assert captions(collection)["train"][0][-1] == "same"
    assert len(collection.splits["train"].records[0].captions) == 4
    assert "2 captions repeat others" in collection.notes[0]


def test_ids_may_be_strings_here_and_numbers_there(folder):
    data = {
        "images": [{"id": "1", "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": "11", "image_id": 1, "caption": "a1"}, {"id": 12, "image_id": "2", "caption": "b1"}],
    }
    collection = load(folder, {"captions_train.json": data})
    records = collection.splits["train"].records
    assert [(record.image_id, record.captions, record.caption_ids) for record in records] == [
        (1, ("a1",), (11,)),
        (2, ("b1",), (12,)),
    ]
    split_ids = {"train": [ids(folder, "t.npy", 11)], "val": [ids(folder, "v.npy", 12)]}
    collection = load(folder, {"captions_train.json": data}, split_ids=split_ids)
    assert captions(collection) == {"train": [("a1",)], "val": [("b1",)]}


def test_ids_that_are_no_numbers_are_ids(folder):
    annotations = [{"id": number, "image_id": 1, "caption": "same"} for number in ("x1", "x2", "x2")]
    collection = load(folder, {"captions_train.json": changed([], annotations)}, on_bad="skip")
    assert collection.splits["train"].records[0].captions[-3:] == ("same",) * 3
    assert "(id x2)" not in str(collection.skipped[0])
    assert "repeated annotation id: x2" in str(collection.skipped[0])


def test_image_folders_that_are_links_elsewhere(folder):
    make_images(folder / "disk", "x.jpg")
    (folder / "images").mkdir()
    (folder / "images" / "train2014").symlink_to(folder / "disk")
    path = write_json(folder / "captions_train.json", coco({1: "train2014/x.jpg"}, [(1, 1, "x")]))
    collection = read_quietly(settings_for(folder, "coco", annotations=path, images=str(folder / "images")))
    assert captions(collection) == {"train": [("x",)]}


def test_one_image_in_two_files_is_in_two_splits(folder):
    files = {"captions_train.json": TRAIN, "captions_val.json": coco({5: "a.jpg"}, [(1, 5, "x")])}
    with pytest.raises(UserError, match=r"captions_val\.json: images\[0\] \(id 5\): image in two splits"):
        load(folder, files)


@pytest.mark.parametrize(
    "data", [[], {"images": []}, {"images": [], "annotations": {}}, {"images": {}, "annotations": []}]
)
def test_another_kind_of_file_is_always_an_error(folder, data):
    with pytest.raises(UserError, match="not a COCO caption file"):
        load(folder, {"captions_train.json": data}, on_bad="skip")


def test_settings_that_do_not_fit(folder):
    with pytest.raises(UserError, match=r"--data\.images"):
        read_quietly(settings_for(folder, "coco", annotations="x.json"))
    with pytest.raises(UserError, match=r"--data\.annotations"):
        read_quietly(settings_for(folder, "coco", images=str(folder)))
    with pytest.raises(UserError, match=r"names 2 folders and --data\.annotations 1 files"):
        load(folder, {"captions_train.json": TRAIN}, ["train2014", "val2014"])
    path = write_json(folder / "one.json", TRAIN)
    with pytest.raises(UserError, match="more than once"):
        read_quietly(settings_for(folder, "coco", annotations=[path, path], images=str(folder)))
