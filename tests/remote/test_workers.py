"""Two workers that train on shards in a bucket and share nothing else; one is killed and starts on a new machine."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import arguments, rows_of
from tests.training.test_workers import COMMON, as_two_workers
from vse_tf import train
from vse_tf.embedder import load

pytestmark = pytest.mark.extras


def settings(folder, **changed):
    """Arguments for the shards in the bucket, with a cache of the machine's own."""
    own = {"data__annotations": "s3://photos/shards", "data__source": "webdataset", "image__encoder": "cnn"}
    own |= {"image__size": 16, "image__resize": 16, "text__min_count": 1, "train__epochs": 3}
    own |= {"data__epoch_over": "images", "model__head": "false", "image__random_crop": "false", "image__flip": "false"}
    given = arguments(folder / "run", **{**COMMON, **own, "data__cache_dir": folder / "cache", **changed})
    pairs = zip(given[::2], given[1::2], strict=True)
    return [part for pair in pairs if not pair[0].startswith("--data.shapes") for part in pair]


def test_two_workers_train_what_one_does(bucket, packed, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")])))
    bucket.put_folder(packed, "shards")
    sync, folders = {"train__sync_to": "s3://photos/copy"}, [tmp_path / "chief", tmp_path / "other"]
    # 64 images in batches of 16: four steps.
    modules = (["vse_tf.train"], ["tests.reliability.runs", "step", "6"])
    killed = as_two_workers([[*how, *settings(each, **sync)] for how, each in zip(modules, folders, strict=True)])
    assert killed[1][0] == -9 and killed[0][0] == 2, killed
    assert "start all workers again" in killed[0][1]
    shutil.rmtree(folders[1])
    again = as_two_workers([["vse_tf.train", *settings(each, **sync)] for each in folders])
    assert [code for code, _ in again] == [0, 0], again
    assert "after epoch 1" in again[0][1] and "s3://photos/copy: the run is taken from there" in again[1][1]
    train.main(settings(tmp_path / "one"))
    both, one = tmp_path / "chief" / "run", tmp_path / "one" / "run"
    assert [row["metrics"] for row in rows_of(both)] == [row["metrics"] for row in rows_of(one)]
    for mine, other in zip(load(both, "last").model.weights, load(one, "last").model.weights, strict=True):
        assert np.linalg.norm(mine - other) <= 1e-5 * np.linalg.norm(other) + 1e-6, mine.path
    assert "copy/results.json" in bucket.names("copy/")
