"""Faults of a run, through the command: a line that says what to do, and nothing lost."""

import errno
import os
import time

import pytest

from tests.reliability.runs import assert_same, shapes_arguments
from tests.tiny import rows_of
from vse_tf import train
from vse_tf.artifacts.checkpoints import Checkpoints
from vse_tf.errors import UserError

# Two epochs of six steps.
SMALL = {"train__epochs": 2, "train__checkpoint_steps": 4}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train.main(shapes_arguments(folder.parent, folder, **SMALL))
    return folder


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_and_a_damaged_checkpoint_lose_nothing(tmp_path, monkeypatch, undisturbed, capsys):
    argv = shapes_arguments(tmp_path, tmp_path / "run", **SMALL)
    save = Checkpoints.save

    def save_until_full(self, model, position, best, progress=None):
        with monkeypatch.context() as patch:
            if position.step >= 8:
                patch.setattr("pathlib.Path.write_bytes", full)
            save(self, model, position, best, progress)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_until_full)
        full_disk = r"step-0+8: cannot be written: No space left on device; free some space and repeat"
        with pytest.raises(UserError, match=full_disk) as error:
            train.main(argv)
    assert "\n" not in str(error.value)
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(p.name for p in checkpoints.iterdir()) == ["pointer.json", "step-000000004", "step-000000006"]
    state = checkpoints / "step-000000006" / "state.h5"
    state.write_bytes(state.read_bytes()[:-1])
    train.main(argv)
    output = capsys.readouterr().out
    assert "step-000000006/state.h5: damaged checkpoint" in output
    assert "4 steps into the next" in output
    assert_same(tmp_path / "run", undisturbed)


@pytest.mark.parametrize("name", ["metrics.jsonl", "results.json", "model.json"])
def test_a_run_file_that_cannot_be_written_is_one_line(tmp_path, name):
    run = tmp_path / "run"
    (run / name / "in the way").mkdir(parents=True)
    (run / "config.yaml").write_text("train: {run_dir: unused}\n")
    (run / name / "in the way").rmdir()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        train.main(shapes_arguments(tmp_path, run, train__epochs=1, train__resume="force"))


def test_a_clock_that_goes_backwards_breaks_nothing(tmp_path, monkeypatch, undisturbed):
    now = [time.time()]

    def backwards():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    train.main(shapes_arguments(tmp_path, tmp_path / "run", **SMALL, train__checkpoint_minutes=1e-6))
    monkeypatch.undo()
    assert rows_of(tmp_path / "run") == rows_of(undisturbed)


def test_changed_data_are_refused_unless_forced(tmp_path):
    argv = shapes_arguments(tmp_path, tmp_path / "run", train__epochs=1)
    train.main(argv)
    again = shapes_arguments(tmp_path, tmp_path / "run", train__epochs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vse_tf.artifacts.provenance.fingerprint", lambda _: "another")
        with pytest.raises(UserError, match=r"data \(images or captions\) have changed.*--train\.resume force"):
            train.main(again)
        train.main([*again, "--train.resume", "force"])
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [1, 2]
