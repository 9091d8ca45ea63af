from pathlib import Path

import numpy as np
import pytest

from vse_tf.config import DataSettings
from vse_tf.data.records import Collection, FileImages, Record, Split
from vse_tf.data.sources.precomp import FeatureImages
from vse_tf.data.training_splits import training_splits

FIFTH = DataSettings(val_fraction=0.2, test_fraction=0.9)


def split(name: str, count: int = 10, folder: str = "/images", features: bool = False) -> Split:
    paths = [f"{folder}/{name}{i}.jpg" for i in range(count)]
    records = tuple(Record(path, (f"{name} {i}",), name, i) for i, path in enumerate(paths))
    array = np.arange(count, dtype=np.float32)[:, None]
    return Split(name, records, FeatureImages(array, np.arange(count)) if features else FileImages(tuple(paths)))


def collection(*splits: Split) -> Collection:
    return Collection("table", {part.name: part for part in splits})


def sizes(found: Collection) -> dict[str, int]:
    return {name: len(part) for name, part in found.splits.items()}


@pytest.mark.parametrize("names", [["train", "val"], ["train", "val", "test"], ["test"], ["test", "restval"]])
def test_splits_that_are_there_stay(names):
    before = collection(*map(split, names))
    assert training_splits(before, FIFTH) is before


@pytest.mark.parametrize("name", ["train", "val", "minival"])
def test_what_is_missing_is_taken_out_of_the_split_there_is(name):
    found = training_splits(collection(split(name)), FIFTH)
    assert sizes(found) == {"train": 8, "val": 2}
    records = [record for part in found.splits.values() for record in part.records]
    assert sorted(record.captions[0] for record in records) == [f"{name} {i}" for i in range(10)]
    for part in found.splits.values():
        assert [record.row for record in part.records] == list(range(len(part)))
        assert part.images.paths == tuple(record.image for record in part.records)
        assert {record.split for record in part.records} == {part.name}
    missing = " and no split ".join(part for part in ("train", "val") if part != name)
    assert found.notes == (
        f"the data have no split {missing}: of the 10 images of {name}, 2 are val and 8 train (data.val_fraction 0.2)",
    )


def test_test_images_stay_what_they_are():
    for name in ("train", "val"):
        found = training_splits(collection(split(name), split("test", 5)), FIFTH)
        assert sizes(found) == {"train": 8, "val": 2, "test": 5}
        assert found.splits["test"].records == split("test", 5).records


def test_rows_of_features_go_with_their_records():
    found = training_splits(collection(split("train", features=True)), FIFTH)
    for part in found.splits.values():
        loaded = part.images.load(np.arange(len(part)))[:, 0]
        assert [f"train {int(value)}" for value in loaded] == part.captions
        assert part.images.kind == "features"


def test_the_draw_is_the_same_on_every_machine():
    here, there = (training_splits(collection(split("train", folder=folder)), FIFTH) for folder in ("/a", "/b/c"))
    assert [Path(record.image).name for record in here.splits["val"].records] == [
        Path(record.image).name for record in there.splits["val"].records
    ]


def test_equal_names_in_many_folders_are_many_images():
    records = tuple(Record(f"/images/{i}/image.jpg", ("x",), "train", i) for i in range(10))
    images = FileImages(tuple(record.image for record in records))
    assert sizes(training_splits(collection(Split("train", records, images)), FIFTH)) == {"train": 8, "val": 2}


def test_nothing_can_be_drawn():
    for before, settings in ((split("train"), DataSettings(val_fraction=0)), (split("train", 1), FIFTH)):
        assert list(training_splits(collection(before), settings).splits) == ["train"]
