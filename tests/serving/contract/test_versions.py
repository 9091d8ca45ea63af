"""New versions while clients ask: the newest is served, a broken one takes nothing away."""

from __future__ import annotations

import shutil
import threading

import pytest

from tests.serving import models
from tests.serving.servers import start, until

CONFIG = 'model_config_list {{ config {{ name: "m" base_path: "{base}" model_platform: "tensorflow" }} }}\n'


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "m"
    models.save(models.Dual(1), folder / "1", "serving_default")
    (tmp_path / "models.config").write_text(CONFIG.format(base=folder))
    return folder


def first(server):
    return server.predict("m", {"instances": ["a"]}).json["predictions"][0][0]


def states(server):
    return {each["version"]: each["state"] for each in server.get("/v1/models/m").json["model_version_status"]}


def publish(base, version, number=None):
    """Write a version beside and rename it, as the exporter does."""
    models.save(models.Dual(version), base / ".beside", "serving_default")
    (base / ".beside").rename(base / str(number or version))


def test_a_new_version_is_served_without_a_gap(kind, base, tmp_path):
    with start(kind, tmp_path / "models.config", tmp_path) as server:
        assert first(server) == pytest.approx(3.6)
        wrong, done = [], threading.Event()

        def ask():
            while not done.is_set():
                reply = server.predict("m", {"instances": ["a"]})
                if reply.status != 200 or round(reply.json["predictions"][0][0], 3) not in (3.6, 7.2):
                    wrong.append(reply)

        clients = [threading.Thread(target=ask) for _ in range(4)]
        for client in clients:
            client.start()
        publish(base, 2)
        until(lambda: first(server) == pytest.approx(7.2))
        done.set()
        for client in clients:
            client.join()
        assert wrong == []
        until(lambda: states(server) == {"1": "END", "2": "AVAILABLE"})
        assert server.predict("m/versions/1", {"instances": ["a"]}).status == 404


def test_a_broken_version_leaves_the_old_one_serving(kind, base, tmp_path):
    with start(kind, tmp_path / "models.config", tmp_path) as server:
        shutil.copytree(base / "1", tmp_path / "broken")
        (tmp_path / "broken" / "saved_model.pb").write_bytes(b"\x00 no protobuf at all")
        (tmp_path / "broken").rename(base / "2")
        until(lambda: states(server).get("2") == "END")
        assert first(server) == pytest.approx(3.6)
        assert states(server)["1"] == "AVAILABLE"
        (status,) = server.get("/v1/models/m/versions/2").json["model_version_status"]
        assert status["status"]["error_code"] != "OK"
        assert status["status"]["error_message"]
        publish(base, 3)
        until(lambda: first(server) == pytest.approx(10.8))


def test_names_that_are_no_numbers_are_no_versions(kind, base, tmp_path):
    for name in ("tmp", "2.old", ".3", "v4", "-5"):
        shutil.copytree(base / "1", base / name)
    with start(kind, tmp_path / "models.config", tmp_path) as server:
        assert states(server) == {"1": "AVAILABLE"}
        publish(base, 2)
        until(lambda: first(server) == pytest.approx(7.2))
