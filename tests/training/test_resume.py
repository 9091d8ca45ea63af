"""Which settings resume a run. The run folders are written by hand: nothing is trained here."""

import json

import pytest

from tests.tiny import tiny_settings
from vse_tf.artifacts.checkpoint_files import Checkpoint, Position
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.errors import UserError
from vse_tf.settings_parser import save_settings
from vse_tf.training.resume import check_conditions, finished_results, resume_conditions

STEPS = 10
BEFORE = {"train__schedule": "step", "train__decay_epochs": "[5]", "train__warmup_epochs": 1, "train__epochs": 8}


def settings_of(path, **changed):
    """Settings of the run, some changed."""
    values = {**BEFORE, **changed}
    # Other schedules have no epochs after which the rate drops.
    return tiny_settings(
        path, **{k: v for k, v in values.items() if k != "train__decay_epochs" or values["train__schedule"] == "step"}
    )


def begun(path, epoch, **changed):
    """A run of ten steps an epoch that stands at an epoch's end."""
    settings = settings_of(path, **changed)
    run = RunFolder(path)
    folder = run.checkpoints / f"step-{epoch * STEPS:09d}"
    folder.mkdir(parents=True)
    save_settings(settings, run.config)
    position = {"epoch": epoch, "step": epoch * STEPS, "sha256": "", "progress": {"steps_per_epoch": STEPS}}
    (folder / "position.json").write_text(json.dumps(position))
    (run.checkpoints / "pointer.json").write_text(json.dumps({"last": folder.name, "best": folder.name}))
    return run


@pytest.mark.parametrize(
    ("epoch", "changed"),
    [
        (3, {"train__decay_epochs": "[5,7]"}),
        (3, {"train__decay_epochs": "[4]"}),
        (3, {"train__decay_factor": 0.5}),
        (3, {"train__schedule": "constant"}),
        (3, {"train__epochs": 80, "train__decay_epochs": "[40]"}),
        (6, {"train__decay_epochs": "[5,7]"}),
        (3, {"train__checkpoint_steps": 7, "train__checkpoint_minutes": 0, "train__keep_checkpoints": 5}),
    ],
)
def test_the_rest_of_the_learning_rates_may_change(tmp_path, epoch, changed):
    run = begun(tmp_path, epoch)
    assert finished_results(run, settings_of(tmp_path, **changed)) is None


@pytest.mark.parametrize(
    ("epoch", "changed", "named"),
    [
        (6, {"train__decay_epochs": "[4]"}, r"train\.decay_epochs \(was \[5\], is \[4\]\)"),
        (6, {"train__decay_factor": 0.5}, r"train\.decay_factor"),
        (6, {"train__schedule": "constant"}, r"train\.schedule"),
        (3, {"train__learning_rate": 1e-5}, r"train\.learning_rate"),
        (3, {"train__warmup_epochs": 2}, r"train\.warmup_epochs"),
        (3, {"train__decay_epochs": "[6]", "train__clip_norm": 9}, r"train\.clip_norm \(was 1\.0, is 9\.0\)"),
        (3, {"model__dim": 4, "loss__temperature": 0.5}, r"model\.dim .*loss\.temperature"),
    ],
)
def test_finished_steps_with_other_settings_are_refused(tmp_path, epoch, changed, named):
    run = begun(tmp_path, epoch)
    with pytest.raises(UserError, match=rf"other settings: .*{named}.*--train\.resume force"):
        finished_results(run, settings_of(tmp_path, **changed))
    finished_results(run, settings_of(tmp_path, **changed, train__resume="force"))


def test_without_a_readable_checkpoint_rates_may_not_change(tmp_path):
    run = begun(tmp_path, 3)
    (run.checkpoints / "step-000000030" / "position.json").write_text("{")
    with pytest.raises(UserError, match=r"train\.decay_epochs"):
        finished_results(run, settings_of(tmp_path, train__decay_epochs="[6]"))


def test_other_data_and_a_checkpoint_from_elsewhere_are_refused(tmp_path):
    known = resume_conditions(tiny_settings(tmp_path), "data", STEPS)
    checkpoint = Checkpoint(tmp_path, Position(1, STEPS), None, "", known)
    check_conditions(
        checkpoint,
        resume_conditions(tiny_settings(tmp_path, train__epochs=9, train__warmup_epochs=2), "data", STEPS),
    )
    with pytest.raises(UserError, match=r"data.*have changed"):
        check_conditions(checkpoint, resume_conditions(tiny_settings(tmp_path), "other data", STEPS))
    with pytest.raises(UserError, match="other settings than config"):
        check_conditions(checkpoint, resume_conditions(tiny_settings(tmp_path, loss__temperature=0.5), "data", STEPS))


@pytest.mark.parametrize("contents", ["[]", "{", '{"finished": true}', "7"])
def test_results_that_are_none_are_one_line(tmp_path, contents):
    run = begun(tmp_path, 3)
    run.results.write_text(contents)
    with pytest.raises(UserError, match=r"results\.json"):
        finished_results(run, settings_of(tmp_path))
