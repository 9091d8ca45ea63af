import io
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from source_files import captions, image_bytes, read_quietly, settings_for

from vse_tf.config import TfdsSettings
from vse_tf.data.sources import tfds as module
from vse_tf.errors import UserError

pytestmark = pytest.mark.lowest

IMAGES = [image_bytes("jpeg", seed=0), image_bytes("png", seed=1), image_bytes("jpeg", seed=2)]
DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
TEXTS = [["one", "zwei 😀", "一只猫"], ["same", "same"], ["last"]]


class VseTinyCaptions(tfds.core.GeneratorBasedBuilder):
    """Three images, prepared for real and offline."""

    VERSION = tfds.core.Version("1.2.3")

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "pixels": tfds.features.Tensor(shape=(3, 4, 3), dtype=np.uint8),
            "image/name": tfds.features.Text(),
            "captions": tfds.features.Sequence({"text": tfds.features.Text(), "id": np.int64}),
            "tags": tfds.features.Sequence(tfds.features.Text()),
            "inner": {"title": tfds.features.Text(), "raw": tfds.features.Text()},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._examples([0, 1]), "validation": self._examples([2]), "restval": self._examples([2])}

    def _generate_examples(self):
        raise NotImplementedError

    def _examples(self, numbers):
        for number in numbers:
            texts = TEXTS[number]
            yield (
                number,
                {
                    "image": io.BytesIO(IMAGES[number]),
                    "pixels": np.full((3, 4, 3), number, np.uint8),
                    "image/name": f"image {number}",
                    "captions": [{"text": text, "id": place} for place, text in enumerate(texts)],
                    "tags": texts[:-1],
                    "inner": {"title": f"title {number}", "raw": b"gr\xfcn" if number else b"good"},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    tfds.builder("vse_tiny_captions", data_dir=folder).download_and_prepare()
    return folder


def load(folder: Path, data_dir: str | None, changes: dict | None = None, **more):
    options = {"name": "vse_tiny_captions", "data_dir": data_dir, "download": False} | more
    return read_quietly(settings_for(folder, "tfds", tfds=TfdsSettings(**options), **(changes or {})))


def by_image(collection, split: str) -> dict[bytes, tuple[str, ...]]:
    return {Path(record.image).read_bytes(): record.captions for record in collection.splits[split].records}


def test_images_become_the_files_they_were(tmp_path, data_dir):
    collection = load(tmp_path, data_dir)
    assert {name: len(split) for name, split in collection.splits.items()} == {"train": 3, "val": 1}
    # restval holds a copy of the last one; tfds shuffles while it prepares.
    assert by_image(collection, "train") == dict(zip(IMAGES, map(tuple, TEXTS), strict=True))
    assert by_image(collection, "val") == {IMAGES[2]: ("last",)}
    files = [Path(path) for split in collection.splits.values() for path in split.images.paths]
    root = tmp_path / "cache" / "tfds" / "vse_tiny_captions" / "1.2.3"
    assert {file.parent for file in files} == {root / "train", root / "validation", root / "restval"}
    assert sorted(file.suffix for file in files) == [".jpg", ".jpg", ".jpg", ".png"]
    assert not list(root.glob(".*.part"))
    assert list(load(tmp_path, data_dir, {"restval_as_train": False}).splits) == ["train", "val", "restval"]


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("inner/title", {"title 0", "title 1", "title 2"}),
        ("image/name", {"image 0", "image 1", "image 2"}),
        ("tags", {"one", "zwei 😀", "same"}),
    ],
)
def test_captions_may_be_a_string_or_a_sequence(tmp_path, data_dir, caption, wanted):
    collection = load(tmp_path, data_dir, {"on_bad": "skip"}, caption_feature=caption)
    assert set(collection.splits["train"].captions) == wanted


def test_an_image_stored_as_an_array_becomes_a_png(tmp_path, data_dir):
    collection = load(tmp_path, data_dir, image_feature="pixels")
    values = {np.asarray(Image.open(path)).max() for path in collection.splits["train"].images.paths}
    assert values == {0, 1, 2}


def test_bad_captions_follow_the_ordinary_rule(tmp_path, data_dir):
    message = r"vse_tiny_captions/1\.2\.3: train\[\d\]: caption unreadable: not UTF-8: byte 0xfc"
    with pytest.raises(UserError, match=message):
        load(tmp_path, data_dir, caption_feature="inner/raw")
    collection = load(tmp_path, data_dir, {"on_bad": "skip"}, caption_feature="inner/raw")
    assert captions(collection) == {"train": [("good",)]}


@pytest.fixture
def read_splits(monkeypatch) -> list[str]:
    names: list[str] = []
    original = module._examples

    def spy(builder, split, features):
        names.append(split)
        return original(builder, split, features)

    monkeypatch.setattr(module, "_examples", spy)
    return names


def test_images_are_written_once_and_anew_for_other_features(tmp_path, data_dir, read_splits):
    first = captions(load(tmp_path, data_dir))
    assert sorted(read_splits) == ["restval", "train", "validation"]
    assert captions(load(tmp_path, data_dir)) == first
    assert len(read_splits) == 3
    load(tmp_path, data_dir, caption_feature="image/name")
    assert len(read_splits) == 6
    # What has been written serves without the prepared set, too.
    assert captions(load(tmp_path, str(tmp_path / "gone"), caption_feature="image/name"))["val"] == [("image 2",)]
    assert len(read_splits) == 6


def test_a_killed_run_leaves_nothing_that_looks_whole(tmp_path, data_dir, read_splits, monkeypatch):
    complete = captions(load(tmp_path / "other", data_dir))
    read_splits.clear()
    spied = module._examples

    def killed(builder, split, features):
        for number, example in enumerate(spied(builder, split, features)):
            if number == 1:
                raise KeyboardInterrupt
            yield example

    monkeypatch.setattr(module, "_examples", killed)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, data_dir)
    root = tmp_path / "cache" / "tfds" / "vse_tiny_captions" / "1.2.3"
    written = {path.name for path in root.iterdir() if not path.name.startswith(".")}
    assert "train" not in written
    assert not (root / "done.json").exists()
    assert (root / ".train.part").exists()
    monkeypatch.setattr(module, "_examples", spied)
    read_splits.clear()
    assert captions(load(tmp_path, data_dir)) == complete
    assert set(read_splits) == {"train", "validation", "restval"} - written
    assert not (root / ".train.part").exists()


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"examples": 7}'])
def test_a_damaged_marker_means_not_done(tmp_path, data_dir, read_splits, damage):
    first = captions(load(tmp_path, data_dir))
    root = tmp_path / "cache" / "tfds" / "vse_tiny_captions" / "1.2.3"
    for marker, again in ((root / "train" / "done.json", ["train"]), (root / "done.json", [])):
        marker.write_text(damage)
        read_splits.clear()
        assert captions(load(tmp_path, data_dir)) == first
        assert read_splits == again


def test_a_set_that_has_grown_is_written_anew(tmp_path, data_dir, read_splits):
    load(tmp_path, data_dir)
    marker = tmp_path / "cache" / "tfds" / "vse_tiny_captions" / "1.2.3" / "train" / "done.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"examples": 1}))
    read_splits.clear()
    load(tmp_path, data_dir)
    assert read_splits == ["train"]


def test_two_readers_at_once_write_once(tmp_path, data_dir, read_splits):
    found: list = []
    threads = [threading.Thread(target=lambda: found.append(captions(load(tmp_path, data_dir)))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(found[0]["train"]) == 3
    assert len(read_splits) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": None}, r"--data\.tfds\.name"),
        ({"name": "vse_no_such_set"}, r"--data\.tfds\.name vse_no_such_set: TensorFlow Datasets has no such set"),
        ({"name": "not a name"}, r"--data\.tfds\.name 'not a name': give a data set"),
        ({"name": "vse_tiny_captions:9.9.9"}, r"--data\.tfds\.name vse_tiny_captions:9\.9\.9: "),
        ({"caption_feature": "text"}, r"--data\.tfds\.caption_feature text: .* there are: image, .*captions/text"),
        ({"caption_feature": "captions"}, r"--data\.tfds\.caption_feature captions: not text"),
        ({"caption_feature": "captions/id"}, r"--data\.tfds\.caption_feature captions/id: not text"),
        ({"image_feature": "tags"}, r"--data\.tfds\.image_feature tags: not an image"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path, data_dir, options, message):
    with pytest.raises(UserError, match=message) as info:
        load(tmp_path, data_dir, **options)
    assert "\n" not in str(info.value)


@pytest.fixture
def prepared(tmp_path, data_dir):
    """A copy that may be changed, next to a module that leaves a mark when it is imported."""
    shutil.copytree(data_dir, tmp_path / "data")
    return next((tmp_path / "data").rglob("features.json")).parent


IMAGE = "tensorflow_datasets.core.features.image_feature.Image"


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace(IMAGE, "vse_marker.Feature"),
        lambda text: text.replace(f'"pythonClassName": "{IMAGE}"', '"python_class_name": "vse_marker.Feature"'),
        lambda text: '{"type": "vse_marker.Feature", "content": {}}',
        lambda text: json.dumps({"type": DICT, "content": {"image": {"type": "vse_marker.X", "content": {}}}}),
        lambda text: json.dumps(
            {"pythonClassName": DICT, "jsonFeature": {"json": json.dumps({"x": {"type": "vse_marker.X"}})}}
        ),
        lambda text: text.replace('"pixels":', '"../../pixels":'),
        lambda text: text.replace(IMAGE, "tensorflow_datasets.core.features.vse_marker.Feature"),
        lambda text: "[" * 100_000,
    ],
    ids=["class", "snake", "legacy", "nested legacy", "json in json", "path", "own package", "deep"],
)
@pytest.mark.parametrize("name", ["vse_tiny_captions", "VseTinyCaptions", "vse_tiny_captions:1.2.3", "vse_other"])
def test_a_prepared_set_imports_nothing(tmp_path, prepared, monkeypatch, edit, name):
    (tmp_path / "vse_marker.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = prepared / "features.json"
    path.write_text(edit(path.read_text()))
    if name == "vse_other":
        prepared.parent.rename(tmp_path / "data" / name)
    with pytest.raises(UserError, match=r"features\.json: .*not read"):
        load(tmp_path, str(tmp_path / "data"), name=name)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("template", ["../../{SPLIT}", "/dev/zero", "gs://bucket/x"])
def test_a_prepared_set_names_files_of_its_own(tmp_path, prepared, template):
    path = prepared / "dataset_info.json"
    description = json.loads(path.read_text())
    description["splits"][0]["filepathTemplate"] = template
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"dataset_info\.json: .*leads out"):
        load(tmp_path, str(tmp_path / "data"))


def test_a_split_is_no_path(tmp_path, prepared):
    path = prepared / "dataset_info.json"
    path.write_text(path.read_text().replace('"name": "train"', '"name": "../train"'))
    with pytest.raises(UserError, match="not a plain name"):
        load(tmp_path, str(tmp_path / "data"))


def test_a_prepared_set_holds_regular_files(tmp_path, prepared):
    shard = next(prepared.glob("*train.tfrecord*"))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(UserError, match="not a regular file"):
        load(tmp_path, str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"name": "huggingface:glue"}, "give a data set"),
        ({"name": "kaggle:x/y"}, "give a data set"),
        ({"name": "coco_captions/2014:1.1.0/file_format=x"}, "give a data set"),
        ({"name": "../vse_tiny_captions"}, "give a data set"),
        ({"data_dir": "gs://bucket"}, "not opened, since it was not typed"),
        ({"data_dir": __file__}, "not a folder"),
    ],
)
def test_names_and_folders_are_local_and_plain(tmp_path, data_dir, options, wanted):
    with pytest.raises(UserError, match=wanted):
        load(tmp_path, **({"data_dir": data_dir} | options))


@pytest.mark.parametrize("line", ['["../../../secret.jpg", "x"]', '["/etc/passwd"]', "[]", "5", "[", '[["a"]]'])
def test_a_cache_of_somebody_else_names_no_other_files(tmp_path, data_dir, line):
    load(tmp_path, data_dir)
    path = tmp_path / "cache" / "tfds" / "vse_tiny_captions" / "1.2.3" / "validation" / "captions.jsonl"
    path.write_text(line)
    with pytest.raises(UserError, match="delete the folder"):
        load(tmp_path, data_dir)


def test_not_prepared_and_not_to_be_downloaded(tmp_path):
    with pytest.raises(UserError, match=r"not prepared in .*--data\.tfds\.download true"):
        load(tmp_path, str(tmp_path / "empty"))


def test_a_preparation_that_fails(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("no route to host\nat all")

    monkeypatch.setattr(VseTinyCaptions, "download_and_prepare", fail)
    with pytest.raises(
        UserError, match=r"the data set could not be downloaded: no route to host at all; .*--data\.tfds\.data_dir"
    ):
        load(tmp_path, str(tmp_path / "empty"), download=True)


def test_a_cache_folder_that_cannot_be_written(tmp_path, data_dir):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"data\.cache_dir: .*cache is not a folder"):
        load(tmp_path, data_dir)


def test_prepared_shards_that_are_damaged(tmp_path):
    folder = tmp_path / "tfds"
    tfds.builder("vse_tiny_captions", data_dir=str(folder)).download_and_prepare()
    for shard in folder.rglob("*-train.tfrecord*"):
        shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"split 'train'"):
        load(tmp_path, str(folder))


def test_the_mocked_coco_captions(tmp_path):
    with tfds.testing.mock_data(num_examples=3):
        collection = load(tmp_path, None, name="coco_captions", download=True)
    assert {name: len(split) for name, split in collection.splits.items()} == {"train": 3, "val": 3, "test": 3}
    assert all(record.captions for record in collection.splits["train"].records)
    assert (tmp_path / "cache" / "tfds" / "coco_captions" / "2014" / "1.1.0" / "train" / "00000002.png").is_file()


def test_mocked_data_that_can_hand_out_encoded_images(tmp_path):
    """A caption that is one string lets the mock skip decoding: its JPEG bytes arrive as they are."""
    with tfds.testing.mock_data(num_examples=2):
        collection = load(tmp_path, None, name="coco_captions", download=True, caption_feature="image/filename")
    assert {Path(path).suffix for path in collection.splits["train"].images.paths} == {".jpg"}


@pytest.fixture(scope="module")
def records_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("records"))
    builder = tfds.builder("vse_tiny_captions", data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder


def test_array_records_are_read_where_they_are(tmp_path, records_dir, monkeypatch):
    for _ in range(2):
        collection = load(tmp_path, records_dir)
        train, val = collection.splits["train"], collection.splits["val"]
        found = {train.images.read(row): record.captions for row, record in enumerate(train.records)}
        assert found == dict(zip(IMAGES, map(tuple, TEXTS), strict=True))
        assert [val.images.read(row) for row in range(len(val))] == [IMAGES[2]]
        assert val.images.read(0, -9) == IMAGES[2][-9:] and val.images.sizes().tolist() == [len(IMAGES[2])]
        # The second time from the cached index.
        monkeypatch.setattr("vse_tf.data.sources.tfds_records._add", None)
    assert not list((tmp_path / "cache").glob("tfds/**/*.jpg"))


def test_array_records_are_decoded_split_by_split(tmp_path, records_dir):
    found = load(tmp_path, records_dir, {"verify": "decode"})
    assert {name: len(split) for name, split in found.splits.items()} == {"train": 3, "val": 1}
    assert len(list((tmp_path / "cache" / "verify").glob("decoded-*"))) == 3


@pytest.mark.parametrize("caption", ["inner/title", "image/name", "tags"])
def test_captions_of_array_records_are_those_of_files(tmp_path, data_dir, records_dir, caption):
    both = [
        load(tmp_path / Path(f).name, f, {"on_bad": "skip"}, caption_feature=caption) for f in (data_dir, records_dir)
    ]
    assert {name: sorted(each) for name, each in captions(both[0]).items()} == {
        name: sorted(each) for name, each in captions(both[1]).items()
    }


def test_arrays_in_array_records_become_pngs(tmp_path, records_dir):
    images = load(tmp_path, records_dir, image_feature="pixels").splits["train"].images
    found = [np.asarray(Image.open(io.BytesIO(images.read(row)))) for row in range(3)]
    assert {each.shape for each in found} == {(3, 4, 3)} and {each.max() for each in found} == {0, 1, 2}
    with pytest.raises(UserError, match="undecodable image: not a JPEG"):
        load(tmp_path, records_dir, image_feature="image/name", caption_feature="tags")


def test_a_damaged_array_record_is_one_line(tmp_path, records_dir):
    shutil.copytree(records_dir, tmp_path / "broken")
    load(tmp_path, str(tmp_path / "broken"))
    for path in (tmp_path / "broken").rglob("*train*.array_record*"):
        path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError) as caught:
        load(tmp_path / "other", str(tmp_path / "broken"))
    assert "\n" not in str(caught.value)
