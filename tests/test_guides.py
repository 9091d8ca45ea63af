"""The guides that are programs: their code, run as it stands."""

import re
import shlex
import subprocess
from pathlib import Path

from tests.warm_python import warm_python
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
