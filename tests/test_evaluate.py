"""What evaluate opens for a run that came from somebody else."""

import json
import os

import pytest

from tests.tiny import tiny_settings
from vse_tf import evaluate, export
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
    refused(folder, "is an address; name a local file or folder")


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
