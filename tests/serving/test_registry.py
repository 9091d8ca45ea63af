"""The registry with a loader that fails and waits as it is told."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.servers import until
from vse_tf.errors import UserError
from vse_tf.serving.model_config import ModelConfig
from vse_tf.serving.registry import Registry
from vse_tf.serving.request_error import RequestError


@dataclass
class Loaded:
    version: int
    folder: Path


class Rig:
    """A registry on one model `m`, and what happened to it."""

    def __init__(self, root):
        self.base = root / "m"
        self.base.mkdir()
        self.config = {}
        self.loads, self.told = [], []
        self.registry = Registry(self.models, self.load, self.told.append)

    def models(self):
        return [ModelConfig("m", self.base, **self.config)]

    def load(self, version, folder):
        self.loads.append(version)
        text = (folder / "model").read_text()
        if text == "wrong":
            raise UserError(f"{folder}: it is wrong")
        if text == "crash":
            raise RuntimeError("a bug")
        return Loaded(version, folder)

    def put(self, version, text="good"):
        folder = self.base / str(version)
        folder.mkdir(exist_ok=True)
        (folder / "model").write_text(text)

    def look(self):
        self.registry.look()
        return self.registry.serving()["m"]

    def states(self):
        return {each["version"]: each["state"] for each in self.registry.status("m")}


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path)


def test_the_newest_is_served_and_the_one_before_dropped(rig):
    rig.put(1)
    assert rig.look() == [1]
    rig.put(2)
    assert rig.look() == [2]
    assert rig.registry.find("m").version == 2
    assert rig.states() == {"2": "AVAILABLE", "1": "END"}
    assert rig.look() == [2]
    assert rig.loads == [1, 2]


def test_one_model_may_be_looked_at_first(rig):
    rig.put(1)
    rig.registry.look("another")
    assert rig.loads == []
    rig.registry.look("m")
    assert rig.loads == [1]


def test_a_request_for_a_model_left_for_later_waits_for_it(rig):
    rig.put(1)
    rig.registry.look("another")
    found = []
    waiting = threading.Thread(target=lambda: found.append(rig.registry.find("m").version))
    waiting.start()
    waiting.join(0.2)
    assert not found
    rig.look()
    waiting.join(30)
    assert found == [1]


def test_labels_keep_their_versions(rig):
    rig.config = {"labels": {"stable": 1}}
    rig.put(1)
    rig.put(2)
    rig.put(3)
    assert rig.look() == [1, 3]
    assert rig.registry.find("m", label="stable").version == 1
    with pytest.raises(RequestError, match="Unrecognized servable version label: new") as caught:
        rig.registry.find("m", label="new")
    assert caught.value.status == 400
    rig.config = {"labels": {"stable": 9}}
    assert rig.look() == [3]
    with pytest.raises(RequestError, match=r"Specific\(m, 9\)") as caught:
        rig.registry.find("m", label="stable")
    assert caught.value.status == 404


@pytest.mark.parametrize("fault", ["wrong", "crash"])
def test_a_broken_version_is_tried_again_when_it_changes(rig, fault):
    rig.put(1)
    rig.look()
    rig.put(2, fault)
    for _ in range(3):
        assert rig.look() == [1]
    assert rig.loads == [1, 2]
    (status,) = rig.registry.status("m", 2)
    assert status["state"] == "END"
    assert status["status"]["error_code"] != "OK"
    assert {"wrong": "it is wrong", "crash": "a bug"}[fault] in status["status"]["error_message"]
    rig.put(2, "repaired")
    assert rig.look() == [2]
    assert rig.registry.problems() == []


def test_from_the_start_the_newest_that_loads_is_served(rig):
    rig.put(1)
    rig.put(2, "wrong")
    rig.put(3, "wrong")
    assert rig.look() == [1]
    assert len(rig.registry.problems()) == 2
    assert rig.loads == [3, 2, 1]


def test_only_an_emptied_folder_unloads_no_version(rig):
    rig.config = {"newest": 0}
    rig.put(1)
    rig.put(2)
    rig.look()
    shutil.rmtree(rig.base / "2")
    assert rig.look() == [1]
    shutil.rmtree(rig.base)
    assert rig.look() == [1]


def test_a_version_being_loaded_is_told_and_the_old_one_answers(rig):
    rig.put(1)
    rig.look()
    begun, go = threading.Event(), threading.Event()
    load = rig.load

    def slow(version, folder):
        begun.set()
        assert go.wait(20)
        return load(version, folder)

    rig.registry._load = slow
    rig.put(2)
    rig.registry.watch(0.01)
    assert begun.wait(20)
    assert rig.states() == {"2": "LOADING", "1": "AVAILABLE"}
    assert rig.registry.find("m").version == 1
    held = rig.registry.find("m")
    go.set()
    until(lambda: rig.registry.find("m").version == 2)
    rig.registry.close()
    assert held.version == 1


def test_watching_survives_what_goes_wrong(rig):
    rig.put(1)
    rig.look()
    models, failures = rig.registry._sources, iter([OSError("gone"), UserError("no folder")])

    def failing():
        for error in failures:
            raise error
        return models()

    rig.registry._sources = failing
    rig.put(2)
    rig.registry.watch(0.01)
    until(lambda: rig.registry.find("m").version == 2)
    rig.registry.close()
    assert sum("failed" in message for message in rig.told) == 2


def test_what_is_not_there(rig):
    rig.put(1)
    rig.look()
    for asked, told in (
        (lambda: rig.registry.find("x"), r"Latest\(x\)"),
        (lambda: rig.registry.find("m", 2), r"Specific\(m, 2\)"),
        (lambda: rig.registry.status("x"), "any versions of model x"),
        (lambda: rig.registry.status("m", 2), "version 2 of model m"),
    ):
        with pytest.raises(RequestError, match=told) as caught:
            asked()
        assert caught.value.status == 404
