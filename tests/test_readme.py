"""The README's commands and code, run as they stand but for reduced settings."""

import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import TINY

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# What makes the README's training commands small; the built-in set's own keys fit no other source.
ENCODER = {"image.encoder": "cnn", "image.size": "16"}
PHOTOS = {key: value for key, value in TINY.items() if not key.startswith("data.shapes")} | ENCODER
PHOTOS |= {"data.features": "false", "text.min_count": "1", "data.val_fraction": "0.4"}
REDUCED = {"shapes": TINY, "table": PHOTOS}


def commands():
    """Program and arguments of every `python -m vse_tf.…` in the README's shell blocks, in their order."""
    shell = "\n".join(body for kind, body in BLOCKS if kind == "sh").replace("\\\n", " ")
    return [(name, shlex.split(rest)) for name, rest in re.findall(r"python -m vse_tf\.(\w+)(.*)", shell)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with what a reader of the README has: photos, a caption table, the recipes."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    (folder / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(folder / "photos" / f"{i}.jpg")
        lines += [f"{i}.jpg,{word} number {i}" for word in ("a photo", "the picture")]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    for name in ("beach.jpg", "other.png"):
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(folder / name)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def run(name, argv):
    """Run a command to its end; a server until it says where it listens."""
    if name != "serve":
        importlib.import_module(f"vse_tf.{name}").main(argv)
        return
    command = [sys.executable, "-m", "vse_tf.serve", *argv, "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            address = next(found for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
            with urllib.request.urlopen(address[0] + "/v1/models/text_tower", timeout=60) as answer:
                assert answer.status == 200
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("full", [False, pytest.param(True, marks=pytest.mark.evidence)], ids=["reduced", "full"])
def test_the_commands_run_one_after_the_other(place, monkeypatch, capsys, full):
    monkeypatch.chdir(place)
    monkeypatch.setenv("VSE_TF_CACHE", str(place / "cache"))
    for left in ("runs", "models", "photos.index"):
        shutil.rmtree(place / left, ignore_errors=True)
    found = commands()
    assert [name for name, _ in found][:2] == ["train", "train"]
    for name, argv in found:
        if name == "train":
            source = "table" if "--data.annotations" in argv else "shapes"
            # A folder of forty photos is small as it is, and a pretrained backbone would have to be downloaded.
            reduced = {} if full and source == "shapes" else REDUCED[source]
            argv += [part for key, value in reduced.items() for part in (f"--{key}", value)]
        run(name, argv)
    told = capsys.readouterr().out
    assert "runs/shapes-convse-0" in told
    assert "runs/table-convse-0" in told


def test_the_python_blocks_run(place, monkeypatch):
    monkeypatch.chdir(place)
    if not Path("runs/shapes-convse-0").exists():
        importlib.import_module("vse_tf.train").main(
            [part for key, value in TINY.items() for part in (f"--{key}", value)]
        )
    scope: dict = {}
    blocks = [body for kind, body in BLOCKS if kind == "python"]
    assert blocks
    for body in blocks:
        exec(compile(body, "README.md", "exec"), scope)
    assert scope["scores"].shape == (1, 2)


def test_what_the_readme_names_exists():
    for name in re.findall(r"^\| `(\w+\.yaml)`", README, re.MULTILINE):
        assert (ROOT / "configs" / name).exists(), name
    for name in re.findall(r"\bvse_tf/[\w/]+(?:\.py)?", README):
        assert (ROOT / name).exists(), name
