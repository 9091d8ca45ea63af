import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vse_tf.config import DataSettings
from vse_tf.data.records import FileImages, Report
from vse_tf.data.sources.building import Gathering, collect, draw_splits, split_names
from vse_tf.errors import UserError

NAMES = st.lists(st.text(max_size=8), unique=True, max_size=30)


@given(NAMES, st.randoms())
def test_the_drawn_split_does_not_depend_on_the_order(names, random):
    shuffled = random.sample(names, len(names))
    assert draw_splits(names, DataSettings()) == draw_splits(shuffled + shuffled[:3], DataSettings())


@given(NAMES, st.floats(0, 0.49), st.floats(0, 0.49))
def test_shares_are_kept_and_train_is_never_empty(names, val, test):
    drawn = list(draw_splits(names, DataSettings(val_fraction=val, test_fraction=test)).values())
    assert len(drawn) == len(names)
    assert "train" in drawn or not names
    for name, share in (("val", val), ("test", test)):
        assert abs(drawn.count(name) - share * len(names)) <= 1 or len(names) < 3
        assert drawn.count(name) >= (share > 0) or len(names) < 3
        assert share or name not in drawn


def test_another_seed_is_another_split():
    names = [str(i) for i in range(100)]
    first, second = (draw_splits(names, DataSettings(split_seed=seed)) for seed in (0, 1))
    assert first != second
    assert sorted(first.values()) == sorted(second.values())


def test_a_new_image_moves_no_more_than_the_borders():
    names = [str(i) for i in range(1000)]
    before, after = draw_splits(names, DataSettings()), draw_splits([*names, "new"], DataSettings())
    assert sum(before[name] != after[name] for name in names) <= 2


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none_is_an_error(fraction):
    with pytest.raises(UserError, match=r"data\.test_fraction"):
        draw_splits(["a"], DataSettings(test_fraction=fraction))


def test_shares_that_leave_nothing_for_train_are_an_error():
    with pytest.raises(UserError, match="leave no image for train"):
        draw_splits(["a"], DataSettings(val_fraction=0.5, test_fraction=0.5))


def test_split_aliases():
    assert split_names(["train", "dev", "minival"], "x") == {"train": "train", "dev": "val", "minival": "minival"}
    assert split_names(["Train", "VAL", "tesT", "Mine"], "x") == {
        "Train": "train",
        "VAL": "val",
        "tesT": "test",
        "Mine": "Mine",
    }
    assert split_names(["Train", "train"], "x", any_case=True) == {"Train": "train", "train": "train"}
    with pytest.raises(UserError, match="'Train' and 'train' both mean 'train'"):
        split_names(["Train", "train"], "x")
    with pytest.raises(UserError, match="'dev' and 'validation' both mean 'val'"):
        split_names(["dev", "validation"], "x")


def gather() -> Gathering:
    gathering = Gathering(Report())
    for split, image in (("extra", "a"), ("test", "b"), ("train", "c"), ("test", "d")):
        entry = gathering.image(image, split, f"line {image}")
        assert entry is not None
        gathering.caption(entry, f" {image}\n", "line")
    return gathering


def build(gathering: Gathering, **changes):
    settings = dataclasses.replace(DataSettings(), **changes)
    return collect(
        "table",
        gathering,
        settings,
        lambda _, entries: FileImages(tuple(entry.image for entry in entries)),
    )


def test_rows_are_dense_within_splits_and_train_comes_first():
    collection = build(gather())
    assert list(collection.splits) == ["train", "test", "extra"]
    for split in collection.splits.values():
        assert [record.row for record in split.records] == list(range(len(split)))
        assert split.images.paths == tuple(record.image for record in split.records)
    assert [record.image for record in collection.splits["test"].records] == ["b", "d"]
    assert collection.splits["test"].captions == ["b", "d"]


def test_images_without_captions_are_problems_and_rows_are_dense():
    gathering = gather()
    gathering.entries[1].captions.clear()
    with pytest.raises(UserError, match="line b: image without captions: b"):
        build(gathering)
    collection = build(gathering, on_bad="skip")
    assert [(record.image, record.row) for record in collection.splits["test"].records] == [("d", 0)]


def test_every_kind_of_bad_caption_is_named():
    gathering = gather()
    entry = gathering.entries[0]
    for text in ("a", " a ", "", " \t\u3000\n", 5, None, ["a"], "\udce9t\u00e9", "\ud83d"):
        gathering.caption(entry, text, "place")
    assert [problem.what for problem in gathering.report.problems] == [
        "empty caption",
        "empty caption",
        "wrong type: the caption is a number, not a string",
        "wrong type: the caption is null, not a string",
        "wrong type: the caption is a list, not a string",
        "caption unreadable: not UTF-8: byte 0xe9",
        "caption unreadable: not Unicode: half a surrogate pair",
    ]
    assert entry.captions == ["a"]
    assert gathering.notes() == ["2 captions repeat others of their image and count once; the first is at place"]


def test_equal_words_with_different_ids_are_two_captions():
    gathering = gather()
    entry = gathering.entries[0]
    for number in (1, 2, 1):
        gathering.caption(entry, "same", "place", ("sentid", number), number)
    assert entry.captions == ["a", "same", "same", "same"]
    assert [problem.what for problem in gathering.report.problems] == [
        "repeated sentid: 1 belongs to another caption of a, too; both captions are read"
    ]
    # A number that means two captions is none.
    assert entry.caption_ids == [None, 1, 2, None]
    assert gathering.notes() == []


def test_a_second_mention_of_an_image():
    gathering = gather()
    assert gathering.image("a", "extra", "line 9", merge=True) is gathering.entries[0]
    assert gathering.image("a", "extra", "line 9") is None
    assert gathering.image("a", "train", "line 9", merge=True) is None
    assert [problem.what for problem in gathering.report.problems] == [
        "duplicate image: a is already at line a",
        "image in two splits: a is in train here, in extra at line a",
    ]


@pytest.mark.parametrize("name", ["", "../etc", "a b", "\udcff"])
def test_a_split_name_that_could_not_be_a_folder_is_a_problem(name):
    gathering = gather()
    assert gathering.image("z", name, "line 9") is None
    assert gathering.report.problems[0].what.startswith("bad split name")
    gathering.report.problems[0].what.encode()
