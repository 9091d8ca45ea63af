"""Relative paths of a run's settings become absolute; names that are no paths stay."""

from dataclasses import replace

import pytest

from vse_tf.config import DataSettings, ImageSettings, Settings, TextSettings, TfdsSettings, TrainSettings
from vse_tf.setting_types import absolute_paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "bert").mkdir()
    (tmp_path / "weights.h5").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def test_paths_become_absolute(here):
    data = DataSettings(
        annotations=["a.json", "/b.json"],
        images="~/images",
        split_ids={"train": ["ids.npy"]},
        cache_dir="cache",
        tfds=TfdsSettings(data_dir="sets"),
    )
    image, text = ImageSettings(encoder="hub:bert", weights="weights.h5"), TextSettings(encoder="hub:bert")
    found = absolute_paths(Settings(data=data, image=image, text=text, train=TrainSettings(init_from="base")))
    assert found.data.annotations == [f"{here}/a.json", "/b.json"]
    assert found.data.images == f"{here}/home/images"
    assert found.data.split_ids == {"train": [f"{here}/ids.npy"]}
    assert (found.data.cache_dir, found.data.tfds.data_dir) == (f"{here}/cache", f"{here}/sets")
    assert found.image == replace(image, encoder=f"hub:{here}/bert", weights=f"{here}/weights.h5")
    assert found.text.encoder == f"hub:{here}/bert"
    assert found.train.init_from == f"{here}/base"
    assert absolute_paths(found) == found


def test_names_that_are_no_paths_stay(here):
    image = ImageSettings(encoder="applications:MobileNet", weights="imagenet")
    settings = Settings(image=image, text=TextSettings(encoder="hub:bert_tiny_en_uncased"))
    assert absolute_paths(settings) == settings
