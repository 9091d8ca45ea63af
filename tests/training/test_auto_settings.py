"""What `auto` stands for: decided once, stored in config.yaml, and kept when a run is continued."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import tensorflow as tf

from tests.reliability.runs import argv_of
from tests.tiny import rows_of
from vse_tf import train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import DataSettings, Settings, TrainSettings
from vse_tf.data.records import Collection
from vse_tf.settings_parser import save_settings
from vse_tf.training import auto_settings
from vse_tf.training.auto_settings import choose, keep_choices, patience

Usage = namedtuple("Usage", "total used free")
FREE = 10**9


class Cache:
    """Features that take a number of bytes per view."""

    def __init__(self, folder, size):
        self.folder = folder / "features" / "key"
        self.size = size
        self.cache = self

    def available(self):
        return 10 * FREE

    def bytes_of(self, split, views=()):
        return (self.size * max(1, len(views)),) * 2


def chosen(monkeypatch, tmp_path, size, text=None, **data):
    monkeypatch.setattr(auto_settings.shutil, "disk_usage", lambda path: Usage(FREE, 0, FREE))
    settings = Settings(data=DataSettings(**data))
    collection = Collection("table", {"train": None, "val": None})
    caches = {"features": size and Cache(tmp_path, size), "text_features": text and Cache(tmp_path, text)}
    return choose(settings, collection, caches, tf.distribute.get_strategy())


def test_features_are_cached_where_half_of_the_disk_holds_them(monkeypatch, tmp_path):
    # The centre view, its mirror image and two crops of each training image, and the centre view of the others.
    settings, notes = chosen(monkeypatch, tmp_path, FREE // 10)
    assert (settings.data.features, settings.data.feature_crops, settings.data.text_features) == (True, 2, False)
    assert notes == [f"features of the images, computed once and cached in {tmp_path}: 500.0 MB"]
    settings, notes = chosen(monkeypatch, tmp_path, FREE // 10 + 1)
    assert (settings.data.features, settings.data.feature_crops) == (False, "auto")
    assert "are not cached: they take 500.0 MB, and" in notes[0] and "has room for 500.0 MB" in notes[0]
    with monkeypatch.context() as patched:
        patched.setattr(Cache, "available", lambda self: FREE // 3)
        assert chosen(monkeypatch, tmp_path, FREE // 10)[0].data.features is False
    # Fewer views take less, and a user's word stands.
    assert chosen(monkeypatch, tmp_path, FREE // 10 + 1, feature_crops=1)[0].data.features is True
    settings, notes = chosen(monkeypatch, tmp_path, FREE, features=True)
    assert settings.data.features is True and "5.0 GB" in notes[0]


def test_captions_take_what_images_leave(monkeypatch, tmp_path):
    settings, notes = chosen(monkeypatch, tmp_path, FREE // 20, FREE // 10)
    assert settings.data.text_features is True and len(notes) == 2
    settings, notes = chosen(monkeypatch, tmp_path, FREE // 20, FREE // 7)
    assert settings.data.text_features is False and "frozen text backbone" in notes[1]
    assert chosen(monkeypatch, tmp_path, FREE, FREE, features=False, text_features=False)[1] == []


def test_nothing_to_cache_and_nothing_missing_are_silent(monkeypatch, tmp_path):
    settings, notes = chosen(monkeypatch, tmp_path, None)
    assert settings.data.features is False and notes == []
    monkeypatch.setattr(Cache, "bytes_of", lambda *_: (FREE, 0))
    settings, notes = chosen(monkeypatch, tmp_path, 1)
    assert settings.data.features is True and notes == []


@pytest.mark.parametrize(("schedule", "epochs"), [("step", 10), ("constant", 10), ("cosine", 0)])
def test_patience_waits_for_the_end_of_a_cosine(schedule, epochs):
    assert patience(Settings(train=TrainSettings(schedule=schedule))) == epochs


def test_a_continued_run_keeps_what_it_had(tmp_path):
    run, settings = RunFolder(tmp_path), Settings()
    assert keep_choices(settings, run) == settings
    before = replace(
        settings,
        data=DataSettings(features=False, feature_crops=0, text_features=True),
        train=TrainSettings(patience=0, epochs=9),
    )
    save_settings(before, run.config)
    kept = keep_choices(settings, run)
    assert kept == replace(before, train=replace(before.train, epochs=settings.train.epochs))
    typed = replace(settings, data=DataSettings(features=True, feature_crops=1))
    assert keep_choices(typed, run).data == replace(before.data, features=True, feature_crops=1)


def test_a_run_stores_its_choices_and_keeps_them(tmp_path, monkeypatch, capsys):
    argv = argv_of("cached features", tmp_path, tmp_path / "run", train__epochs=1, train__schedule="constant")
    for option in ("--data.features", "--data.feature_crops", "--data.source"):
        at = argv.index(option)
        del argv[at : at + 2]
    train.main(argv)
    assert "features of the images, computed once and cached in" in capsys.readouterr().out
    stored = RunFolder(tmp_path / "run").settings()
    assert stored.data.source == "table"
    assert (stored.data.features, stored.data.feature_crops, stored.data.text_features) == (True, 2, False)
    assert stored.train.patience == 10
    views = {path.name.split("-")[0] for path in (tmp_path / "cache").rglob("*.npy")}
    assert views == {"centre", "flip", "crop0", "crop1"}
    # The disk is full now: the run goes on as it began, a new one does without.
    monkeypatch.setattr(auto_settings.shutil, "disk_usage", lambda path: Usage(FREE, FREE, 0))
    train.main([*argv, "--train.epochs", "2"])
    assert RunFolder(tmp_path / "run").settings() == replace(stored, train=replace(stored.train, epochs=2))
    assert len(rows_of(tmp_path / "run")) == 2
    assert "not cached" not in capsys.readouterr().out
    train.main([*argv, "--train.run_dir", str(tmp_path / "other"), "--data.cache_dir", str(tmp_path / "full")])
    assert "features of the images are not cached" in capsys.readouterr().out
    assert RunFolder(tmp_path / "other").settings().data.features is False
    assert not Path(tmp_path / "full" / "features").exists()
