"""A bucket of moto's server; tests with it are skipped where the extra or moto is missing."""

import contextlib

import pytest

from vse_tf import addresses
from vse_tf.remote import filesystem


@pytest.fixture(scope="session")
def server():
    for name in ("s3fs", "moto", "flask", "flask_cors"):
        pytest.importorskip(name)
    from tests.remote.bucket import Bucket  # noqa: PLC0415

    with contextlib.closing(Bucket()) as bucket:
        yield bucket


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """An empty bucket, cache, and list of typed addresses; the environment of whoever uses it."""
    server.empty()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(addresses, "_typed", {})
    monkeypatch.setattr(filesystem, "FIRST_WAIT", 0.01)
    return server


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """Shards of a few scenes; none changes them."""
    from vse_tf import pack  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("packed")
    scenes = ["--data.shapes.train_scenes", "64", "--data.shapes.gallery_scenes", "20", "--data.shapes.size", "16"]
    pack.main([*scenes, "--output", str(folder), "--shard_mb", "1"])
    return folder
