import json
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from source_files import captions, make_images, problems, read_quietly, settings_for, write_json

from vse_tf.errors import UserError


def item(name: str, split: str = "train", texts: tuple[str, ...] = ("one", "two"), **more):
    sentences = [{"raw": text, "sentid": number, "imgid": 0} for number, text in enumerate(texts)]
    return {"filename": name, "split": split, "sentences": sentences, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", "val2014/a.jpg")
    return tmp_path


def load(folder: Path, items: object, **changes):
    path = write_json(folder / "dataset.json", {"images": items, "dataset": "x"})
    return read_quietly(settings_for(folder, "karpathy", annotations=path, images=str(folder / "images"), **changes))


def test_images_with_any_number_of_captions(folder):
    collection = load(
        folder,
        [
            item("a.jpg", texts=("one",), imgid=7),
            item("b.jpg", "val", texts=tuple("abcdefg")),
            item("a.jpg", "restval", filepath="val2014"),
            item("c.jpg", "test"),
        ],
    )
    assert captions(collection) == {
        "train": [("one",), ("one", "two")],
        "val": [tuple("abcdefg")],
        "test": [("one", "two")],
    }
    paths = collection.splits["train"].images.paths
    assert [Path(path).relative_to(folder / "images").as_posix() for path in paths] == ["a.jpg", "val2014/a.jpg"]
    assert collection.splits["train"].records[0].where.endswith("dataset.json: images[0] (imgid 7)")
    assert collection.source == "karpathy"
    assert collection.skipped == ()


def test_coco_ids_are_kept_where_there_are_such(folder):
    coco = item("a.jpg", cocoid=391895)
    coco["sentences"] = [{"raw": "x", "sentid": 770337}, {"raw": " ", "sentid": 5}, {"raw": "y", "sentid": 771687}]
    half = item("b.jpg", cocoid=7)
    del half["sentences"][1]["sentid"]
    collection = load(folder, [coco, half, item("c.jpg"), item("val2014/a.jpg", cocoid="8")], on_bad="skip")
    assert [(record.image_id, record.caption_ids) for record in collection.splits["train"].records] == [
        (391895, (770337, 771687)),
        (7, ()),
        (None, ()),
        (None, ()),
    ]


def test_restval_can_stay_by_itself(folder):
    collection = load(folder, [item("a.jpg"), item("b.jpg", "restval")], restval_as_train=False)
    assert list(collection.splits) == ["train", "restval"]


def test_tokens_stand_in_for_raw(folder):
    one = item("a.jpg")
    one["sentences"] = [{"tokens": ["a", "dog"]}, {"raw": None, "tokens": ["b"]}, {"raw": "c", "tokens": ["x"]}]
    assert captions(load(folder, [one])) == {"train": [("a dog", "b", "c")]}


def test_equal_captions_count_as_two_if_their_ids_differ(folder):
    assert captions(load(folder, [item("a.jpg", texts=("same", "same"))])) == {"train": [("same", "same")]}
    one = item("a.jpg", texts=("same", "same"))
    one["sentences"][1]["sentid"] = 0
    with pytest.raises(UserError, match=r"images\[0\]\.sentences\[1\]: repeated sentid: 0 "):
        load(folder, [one])


def test_no_caption_is_lost_for_a_repeated_sentid(folder):
    one = item("a.jpg", texts=("x", "y", "z"), cocoid=3)
    for sentence in one["sentences"]:
        sentence["sentid"] = "0"
    collection = load(folder, [one], on_bad="skip")
    assert captions(collection) == {"train": [("x", "y", "z")]}
    assert problems(collection) == ["repeated sentid", "repeated sentid"]
    assert collection.splits["train"].records[0].caption_ids == ()


def test_captions_without_ids_are_merged_and_counted(folder):
    one = item("a.jpg", texts=("same", "same", "y"))
    for sentence in one["sentences"]:
        del sentence["sentid"]
    collection = load(folder, [one])
    assert captions(collection) == {"train": [("same", "y")]}
    assert "1 caption repeats another of its image and counts once" in collection.notes[0]


def test_split_names_in_any_letter_case(folder):
    items = [item("a.jpg", "Train"), item("b.jpg", "VAL"), item("c.jpg", "RestVal"), item("val2014/a.jpg", "train")]
    assert {name: len(split) for name, split in load(folder, items).splits.items()} == {"train": 3, "val": 1}


def test_several_image_folders(folder):
    make_images(folder / "more", "d.jpg")
    path = write_json(folder / "dataset.json", {"images": [item("a.jpg"), item("d.jpg", "val")]})
    changes = {"annotations": path, "images": [str(folder / "images"), str(folder / "more")]}
    collection = read_quietly(settings_for(folder, "karpathy", **changes))
    assert {name: len(split) for name, split in collection.splits.items()} == {"train": 1, "val": 1}


BAD = [
    (item("gone.jpg"), "images[3]: missing image: 'gone.jpg'"),
    (item("../x.jpg", imgid=5), "images[3] (imgid 5): path outside the image folder: '../x.jpg'"),
    (item("a.jpg", filepath="../.."), "images[3]: path outside the image folder"),
    (item("c.jpg", texts=("", "ok")), "images[3].sentences[0]: empty caption"),
    (item("c.jpg", texts=()), "images[3]: image without captions"),
    (item("a.jpg"), "images[3]: duplicate image"),
    (item("a.jpg", "test"), "images[3]: image in two splits"),
    (item("text.jpg"), "images[3]: undecodable image"),
    (5, "images[3]: wrong type: the image is a number, not an object"),
    ({"filename": 1, "split": None}, "images[3].filename: wrong type: a number, not a string"),
    ({"filename": 1, "split": None}, "images[3].split: wrong type: null, not a string"),
    ({"filename": 1, "split": None}, "images[3]: missing key: sentences"),
    (item("c.jpg", filepath=["x"]), "images[3].filepath: wrong type: a list, not a string"),
    (item("c.jpg", ""), "images[3]: bad split name"),
    (item("c.jpg") | {"sentences": ["x"]}, "images[3].sentences[0]: wrong type: the caption is a string"),
    (item("c.jpg") | {"sentences": [{"raw": 4}]}, "images[3].sentences[0].raw: wrong type: a number"),
    (item("c.jpg") | {"sentences": [{"tokens": [1]}]}, "images[3].sentences[0].tokens: wrong type"),
    (item("c.jpg") | {"sentences": [{}]}, "images[3].sentences[0]: missing key: raw (or tokens)"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=[message for _, message in BAD])
def test_each_problem_stops_or_is_left_out(folder, bad, message):
    (folder / "images" / "text.jpg").write_text("not an image at all")
    good = [item("a.jpg"), item("b.jpg", "val"), item("a.jpg", "test", filepath="val2014")]
    with pytest.raises(UserError) as info:
        load(folder, [*good, bad])
    assert message in str(info.value)
    assert "\n" not in str(info.value)
    collection = load(folder, [*good, bad], on_bad="skip")
    assert any(message in str(problem) for problem in collection.skipped)
    assert captions(collection)["val"] == [("one", "two")]
    # Only the bad caption goes, not the image that has another.
    assert len(collection.splits["train"]) == (2 if "empty caption" in message else 1)


def test_all_problems_come_at_once(folder):
    bad = [entry for entry, _ in BAD]
    with pytest.raises(UserError) as info:
        load(folder, [item("a.jpg"), item("gone.jpg"), item("b.jpg", texts=(" ",)), item("../x")])
    for part in (
        "4 problems",
        "missing image",
        "empty caption",
        "image without captions",
        "path outside",
        "on_bad skip",
    ):
        assert part in str(info.value)
    with pytest.raises(UserError, match="no usable record"):
        load(folder, [bad[0], bad[4]], on_bad="skip")


@pytest.mark.parametrize("data", [[], {}, {"images": {}}, "x", {"images": [], "annotations": []}])
@pytest.mark.parametrize("on_bad", ["fail", "skip"])
def test_another_kind_of_file_is_always_an_error(folder, data, on_bad):
    path = write_json(folder / "x.json", data)
    changes = {"annotations": path, "images": str(folder / "images"), "on_bad": on_bad}
    with pytest.raises(UserError, match=r"x\.json"):
        read_quietly(settings_for(folder, "karpathy", **changes))


def test_missing_settings_are_named(folder):
    with pytest.raises(UserError, match=r"--data\.annotations"):
        read_quietly(settings_for(folder, "karpathy"))
    with pytest.raises(UserError, match=r"--data\.images"):
        read_quietly(settings_for(folder, "karpathy", annotations="x.json"))


def test_verify_none_looks_at_no_image(folder):
    (folder / "images" / "a.jpg").write_text("not an image")
    assert problems(load(folder, [item("a.jpg"), item("b.jpg")], on_bad="skip")) == ["undecodable image"]
    assert problems(load(folder, [item("a.jpg"), item("b.jpg")], verify="none")) == []


JUNK = st.sampled_from([None, True, 0, -1.5, "", "x", [], {}, ["x"], {"raw": 1}, "\ud800", 10**400])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.randoms(use_true_random=False), JUNK, st.sampled_from(["fail", "skip"]))
def test_any_value_anywhere_gives_records_or_a_clear_error(folder, rng: random.Random, junk, on_bad):
    data = {"images": [item("a.jpg", imgid=3), item("a.jpg", "val", filepath="val2014")]}
    place: object = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))  # type: ignore[arg-type]
        key = rng.choice(keys)
        inner = place[key]  # type: ignore[index]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.2:
            place[key] = junk  # type: ignore[index]
            break
        place = inner
    path = write_json(folder / "mutated.json", data)
    changes = {"annotations": path, "images": str(folder / "images"), "on_bad": on_bad}
    try:
        collection = read_quietly(settings_for(folder, "karpathy", **changes))
    except UserError as error:
        str(error).encode()
    else:
        assert all(record.captions for split in collection.splits.values() for record in split.records)
        json.dumps([str(problem) for problem in collection.skipped]).encode()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.integers(0, 400), st.integers(0, 30), st.binary(max_size=6))
def test_any_damage_to_the_bytes_gives_records_or_a_clear_error(folder, start, length, insert):
    path = folder / "damaged.json"
    undamaged = json.dumps({"images": [item("a.jpg"), item("b.jpg", "val")]}).encode()
    path.write_bytes(undamaged[:start] + insert + undamaged[start + length :])
    try:
        read_quietly(
            settings_for(folder, "karpathy", annotations=str(path), images=str(folder / "images"), verify="none")
        )
    except UserError as error:
        assert str(error)
