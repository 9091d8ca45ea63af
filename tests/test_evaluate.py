"""What evaluate opens for a run that came from somebody else."""

import json
import os

import numpy as np
import pytest

import vse_tf
from tests.tiny import arguments, tiny_settings
from vse_tf import evaluate, export, train
from vse_tf.config import DataSettings, TfdsSettings
from vse_tf.data.sources import named_paths
from vse_tf.errors import UserError
from vse_tf.settings_parser import save_settings


@pytest.fixture
def run(tmp_path):
    """A run folder whose settings alone are there: the data are read first."""
    folder = tmp_path / "run"
    folder.mkdir()

    def write(**changed):
        save_settings(tiny_settings(folder, **changed), folder / "config.yaml")
        return folder

    return write


def refused(folder, wanted):
    with pytest.raises(UserError, match=wanted):
        evaluate.main(["--run", str(folder)])


def test_the_paths_are_printed_before_they_are_read(run, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(run(data__source="table", data__annotations=tmp_path / "pipe.csv"), "not a regular file but a pipe")
    assert f"reading data.annotations {tmp_path / 'pipe.csv'}\n" in capsys.readouterr().err


def test_a_data_set_in_the_run_imports_nothing(run, tmp_path, monkeypatch, capsys):
    place = tmp_path / "run" / "data" / "evil" / "1.0.0"
    place.mkdir(parents=True)
    (place / "features.json").write_text(json.dumps({"pythonClassName": "vse_evil.Feature", "featuresDict": {}}))
    (place / "dataset_info.json").write_text(json.dumps({"name": "evil", "version": "1.0.0"}))
    (tmp_path / "vse_evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"data__tfds__name": "evil", "data__tfds__data_dir": tmp_path / "run" / "data"}
    refused(run(data__source="tfds", **options), "vse_evil.Feature")
    assert not (tmp_path / "mark").exists()
    assert f"reading data.tfds.data_dir {tmp_path / 'run' / 'data'}\n" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["gs://bucket/x.csv", "http://127.0.0.1:1/x", "s3://bucket/x"])
def test_addresses_in_a_run_are_refused(run, path):
    folder = run(data__source="table", data__annotations="placeholder")
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("placeholder", path))
    refused(folder, "not opened, since it was not typed")


@pytest.mark.parametrize("name", ["r" * 300, "a\0b", "a/" * 3000])
def test_a_run_that_no_path_can_name_is_one_line(name):
    for command in (evaluate.main, export.main):
        with pytest.raises(UserError, match="no run here"):
            command(["--run", name])


def test_named_paths():
    assert named_paths(DataSettings()) == []
    coco = DataSettings(source="coco", annotations=["a", "b"], images="c", split_ids={"val": ["d"]}, cache_dir="e")
    assert named_paths(coco) == [
        "data.annotations a",
        "data.annotations b",
        "data.images c",
        "data.split_ids.val d",
        "data.cache_dir e",
    ]
    assert named_paths(DataSettings(source="tfds", tfds=TfdsSettings("n", "f"))) == [
        "data.tfds.name n",
        "data.tfds.data_dir f",
    ]


def write_features(folder, *shape):
    folder.mkdir()
    for split, count in (("train", 16), ("dev", 8)):
        np.save(folder / f"{split}_ims.npy", np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32))
        (folder / f"{split}_caps.txt").write_text("".join(f"caption {i}\n" for i in range(count)))
    return folder


def without_shapes(run_dir, **changed):
    argv = arguments(run_dir, text__min_count=1, train__epochs=1, **changed)
    pairs = zip(argv[::2], argv[1::2], strict=True)
    return [part for pair in pairs if not pair[0].startswith("--data.shapes") for part in pair]


def test_other_features_than_the_runs_name_both_shapes(tmp_path, monkeypatch):
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    own = write_features(tmp_path / "own", 6)
    options = {"data__source": "precomp", "data__annotations": own, "image__encoder": "features"}
    train.main(without_shapes(tmp_path / "run", **options))
    asked = ["--run", str(tmp_path / "run"), "--data.annotations"]
    for shape in ((5,), (3, 6)):
        other = write_features(tmp_path / f"other{len(shape)}", *shape)
        with pytest.raises(UserError, match=rf"features \(6,\) per image, the data hold features \({shape[0]}, ?6?\)$"):
            evaluate.main([*asked, str(other)])
    with pytest.raises(UserError, match=r"features \(6,\) per image, the data hold images \(48, 48, 3\)"):
        evaluate.main([*asked[:2], "--data.source", "shapes"])
    with pytest.raises(ValueError, match=r"shape \(7,\); this model takes features \(6,\) per image"):
        vse_tf.load(tmp_path / "run").encode_images([np.ones(7, np.float32)])
    evaluate.main([*asked, str(own)])


def test_features_for_a_run_of_images_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    train.main(arguments(tmp_path / "run", image__encoder="cnn", train__epochs=1))
    own = write_features(tmp_path / "own", 6)
    with pytest.raises(UserError, match=r"sees \(16, 16, 3\), the data hold precomputed features \(6,\) per image"):
        evaluate.main(["--run", str(tmp_path / "run"), "--data.source", "precomp", "--data.annotations", str(own)])


def test_other_annotations_tell_their_source(run, tmp_path):
    folder, table = run(), tmp_path / "captions.csv"
    table.write_text("image,caption\na.jpg,a dog\n")
    data = evaluate._parse(["--run", str(folder), "--data.annotations", str(table)])[1]
    assert data.source == "table"
    with pytest.raises(UserError, match=r"data\.images: only used with .* but data\.source is shapes"):
        evaluate.main(["--run", str(folder), "--data.images", "photos"])
    # A run of others may name any file: it is printed before it is opened.
    paths = named_paths(DataSettings(annotations="a", tfds=TfdsSettings(name="b"), split_ids={"val": ["c"]}))
    assert paths == ["data.tfds.name b", "data.annotations a", "data.split_ids.val c"]
    config = folder / "config.yaml"
    config.write_text(
        config.read_text()
        .replace("source: shapes", "source: auto")
        .replace("annotations: null", "annotations: nowhere")
    )
    assert evaluate._parse(["--run", str(folder)])[1].source == "auto"
