"""The guides that are programs: their code, run as it stands."""

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from tests.dual_presets import DIM
from tests.warm_python import warm_python
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.settings_parser import parse_settings

GUIDES = Path(__file__).parent.parent / "docs" / "guides"


def blocks(page, kind):
    return re.findall(rf"^```{kind}\n(.*?)^```", (GUIDES / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_a_model_of_ones_own_learns_and_is_saved(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for body in blocks("own_keras_model.md", "python"):
        exec(compile(body, "own_keras_model.md", "exec"), scope)
    assert scope["found"]["rsum"] == 600
    losses = scope["history"].history["loss"]
    assert losses[-1] < losses[0] / 4
    assert type(scope["again"].loss).__name__ == "ConVSE"
    assert scope["again"].loss.temperature == 0.1
    assert all(gradient is not None for gradient in scope["gradients"])
    assert "R@1 100 / 100, rsum 600" in capsys.readouterr().out
    # As the page says, in a new process.
    code = (
        "import keras; from vse_tf import ConVSE; print(type(keras.models.load_model('colours.keras').loss).__name__)"
    )
    found = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split()[-1] == "ConVSE"


def test_the_commands_for_working_offline_are_valid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a dog\n")
    (tmp_path / "photos").mkdir()
    lines = [line for body in blocks("offline.md", "sh") for line in body.splitlines()]
    assert len(lines) == 2
    for line in lines:
        program, argv = shlex.split(line)[:3], shlex.split(line)[3:]
        assert program == ["python", "-m", "vse_tf.train"]
        parse_settings(argv, "train", "")
    assert len((GUIDES / "offline.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_fine_tuning_clip_as_the_page_says(dual_presets, tmp_path, monkeypatch, capsys):
    """With a tiny CLIP, whose encoders have four blocks each."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    for folder in ("photos", "other_photos/cats", "other_photos/dogs"):
        (tmp_path / folder).mkdir(parents=True)
        for i in range(24):
            Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(tmp_path / folder / f"{i}.jpg")
    lines += [f"{i}.jpg,the photo number {i}" for i in range(24)]
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.txt").write_text("cats\ndogs\n")
    (tmp_path / "configs").symlink_to(GUIDES.parent.parent / "configs")
    small = {"image.encoder": f"hub:{dual_presets['clip']}", "text.encoder": f"hub:{dual_presets['clip']}"}
    small |= {"model.dim": DIM, "image.trainable": 2, "text.trainable": 2, "train.epochs": 1, "train.batch_size": 4}
    small |= {"data.val_fraction": 0.4, "train.examples": 0, "train.projector": 0, "data.cache_dir": "cache"}
    for line in [line for kind in ("sh", "text") for body in blocks("clip.md", kind) for line in body.splitlines()]:
        name, argv = shlex.split(line)[2].removeprefix("vse_tf."), shlex.split(line)[3:]
        left = {key: value for key, value in small.items() if f"--{key}" not in argv} if name == "train" else {}
        importlib.import_module(f"vse_tf.{name}").main(argv + [f"--{key}={value}" for key, value in left.items()])
    assert "top-1" in capsys.readouterr().out.lower()
    for body in blocks("clip.md", "python"):
        exec(compile(body, "clip.md", "exec"), {})
    runs = {path.name: RunFolder(path).read_results() for path in sorted((tmp_path / "runs").iterdir())}
    assert list(runs) == ["clip", "clip_0.25", "clip_0.5", "clip_0.75", "clip_heads", "clip_start"]
    assert all(results["finished"] for results in runs.values())
