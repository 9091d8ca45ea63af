"""The guide "Data in a bucket": its commands, run as they stand but for the name of the bucket."""

import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.tiny import TINY
from vse_tf.settings_parser import parse_settings

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "bucket.md").read_text(encoding="utf-8")
SMALL = {key: value for key, value in TINY.items() if not key.startswith("data.shapes")} | {
    "image.encoder": "cnn",
    "image.size": "16",
    "text.min_count": "1",
    "train.epochs": "1",
}


def lines(language):
    blocks = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.extras
def test_the_commands_run(bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    rows = ["image,caption"]
    for number in range(64):
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        rows.append(f"{number}.png,the photo number {number}")
    (tmp_path / "captions.csv").write_text("\n".join(rows) + "\n")
    done = []
    for line in lines("sh"):
        words = shlex.split(line.replace("s3://BUCKET", "s3://photos"))
        if words[:3] == ["aws", "s3", "cp"]:
            bucket.put_folder(tmp_path / words[-2], words[-1].removeprefix("s3://photos/"))
        elif words[0] == "vse-tf":
            left = [f"--{key}={value}" for key, value in SMALL.items()] if words[1] == "train" else []
            importlib.import_module(f"vse_tf.{words[1]}").main([*words[2:], *left])
            done.append(words[1])
    assert done == ["pack", "train", "train", "evaluate", "embed", "search", "export"]
    assert "already finished" in capsys.readouterr().out
    names = bucket.names()
    for name in ("runs/first/results.json", "photos.index/manifest.json", "models/text_tower/1/saved_model.pb"):
        assert name in names
    assert not [name for name in names if ".vse_tf-" in name or "/.embed/" in name]


def test_the_commands_of_workers_are_valid():
    (command,) = [line for line in lines("text") if line.startswith("vse-tf")]
    assert shlex.split(command)[-1].startswith("--runner_options=--dask_client_address=tcp://")
    job, service = yaml.safe_load_all("\n".join(lines("yaml")))
    (argument,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    argv = shlex.split(argument.partition("exec vse-tf train ")[2])
    assert parse_settings([*argv, "--data.source", "webdataset"], "train", "").train.sync_to == "s3://BUCKET/runs/first"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"] == "train"
    environment = argument.partition("export ")[2].partition(";")[0]
    cluster = shlex.split(environment)[0].removeprefix("TF_CONFIG=").replace("$JOB_COMPLETION_INDEX", "1")
    assert yaml.safe_load(cluster)["task"] == {"type": "worker", "index": 1}
