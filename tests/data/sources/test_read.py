import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from source_files import image_bytes, make_images, read_quietly, settings_for, write_json

from vse_tf.config import DataSettings, ShapesSettings
from vse_tf.data.sources import read
from vse_tf.errors import UserError


def test_shapes_go_to_their_own_room():
    shapes = ShapesSettings(train_scenes=4, gallery_scenes=4)
    collection = read_quietly(DataSettings(source="shapes", shapes=shapes))
    assert collection.source == "shapes"
    assert len(collection.splits["train"]) == 4


def test_an_unknown_source_names_those_there_are():
    with pytest.raises(
        UserError, match="choose one of shapes, karpathy, coco, table, precomp, webdataset, parquet, tfds"
    ):
        read_quietly(DataSettings(source="flickr"))  # type: ignore[arg-type]


def test_relative_paths_are_taken_from_the_working_directory(tmp_path, monkeypatch):
    make_images(tmp_path / "images", "a.jpg")
    (tmp_path / "images" / "c.csv").write_text("image,caption\na.jpg,x\n")
    monkeypatch.chdir(tmp_path)
    collection = read_quietly(settings_for(Path(), "table", annotations="images/c.csv"))
    monkeypatch.chdir("/")
    path = Path(collection.splits["train"].images.paths[0])
    assert path.is_absolute()
    assert path.is_file()


def test_reading_files_imports_no_tensorflow(tmp_path):
    make_images(tmp_path, "a.jpg")
    np.save(tmp_path / "train_ims.npy", np.ones([1, 2], np.float32))
    (tmp_path / "train_caps.txt").write_text("x\n")
    (tmp_path / "c.csv").write_text("image,caption\na.jpg,x\n")
    sentences = [{"raw": "x"}]
    write_json(tmp_path / "k.json", {"images": [{"filename": "a.jpg", "split": "train", "sentences": sentences}]})
    annotations = [{"id": 1, "image_id": 1, "caption": "x"}]
    write_json(tmp_path / "o.json", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations})
    code = """
import sys
from vse_tf.config import DataSettings
from vse_tf.data.sources import read
for source, file in (("table", "c.csv"), ("karpathy", "k.json"), ("coco", "o.json"), ("precomp", ".")):
    read(DataSettings(source=source, annotations=file, images=".", cache_dir="cache"))
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_equal_images_of_two_splits_are_counted_and_named(tmp_path, capsys):
    make_images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "c.csv").write_text("image,caption,split\na.jpg,x,train\nb.jpg,y,val\n")
    settings = settings_for(tmp_path, "table", annotations=str(tmp_path / "c.csv"))
    (note,) = read(settings).notes
    assert note.startswith("1 image is in more than one split, as equal files of different names; the first is ")
    assert f"{tmp_path}/a.jpg in train and {tmp_path}/b.jpg in val" in note
    assert f"{note}\n" in capsys.readouterr().err
    assert read(dataclasses.replace(settings, verify="none")).notes == ()
    (tmp_path / "b.jpg").write_bytes(image_bytes(seed=1))
    assert read(settings).notes == ()


@pytest.mark.skipif("VSE_TF_FLICKR8K" not in os.environ, reason="VSE_TF_FLICKR8K names no folder of Flickr8k")
def test_flickr8k(tmp_path):
    folder = Path(os.environ["VSE_TF_FLICKR8K"])
    annotations, images = str(folder / "dataset_flickr8k.json"), str(folder / "images")
    collection = read_quietly(settings_for(tmp_path, "karpathy", annotations=annotations, images=images))
    assert {name: len(split) for name, split in collection.splits.items()} == {"train": 6000, "val": 1000}
    assert all(len(record.captions) == 5 for split in collection.splits.values() for record in split.records)
