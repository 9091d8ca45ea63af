"""Removed settings: dropped from old runs at their defaults, otherwise no run is continued; an error in new ones."""

import dataclasses

import pytest
import yaml

from tests.tiny import arguments, tiny_settings
from vse_tf import evaluate, train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings, to_dict
from vse_tf.errors import UserError
from vse_tf.removed_settings import REMOVED, split_removed
from vse_tf.settings_parser import load_settings, parse_settings, save_settings
from vse_tf.training.resume import finished_results

CHANGED = {
    "data.group_batches": False,
    "loss.hardness": 0.5,
    "loss.hardness_steps": 100,
    "train.optimizer_epsilon": 1e-8,
    "train.steps_per_execution": 8,
}


def old_run(path, **values):
    """A run folder whose settings hold removed ones; keys are written with `__` for the dot."""
    settings = tiny_settings(path)
    path.mkdir()
    save_settings(settings, path / "config.yaml")
    written = yaml.safe_load((path / "config.yaml").read_text())
    for key, value in values.items():
        section, name = key.split("__")
        written[section][name] = value
    (path / "config.yaml").write_text(yaml.safe_dump(written))
    return settings


def as_arguments(values):
    return {key.replace(".", "__"): value for key, value in values.items()}


def test_removed_settings_are_all_tried_and_gone():
    assert CHANGED.keys() == REMOVED.keys()
    for key, value in CHANGED.items():
        section, name = key.split(".")
        assert value != REMOVED[key].default
        assert name not in {field.name for field in dataclasses.fields(getattr(Settings(), section))}


def test_at_their_defaults_they_are_dropped_and_the_run_goes_on(tmp_path):
    defaults = as_arguments({key: removed.default for key, removed in REMOVED.items()})
    settings = old_run(tmp_path / "run", **defaults)
    assert load_settings(tmp_path / "run" / "config.yaml") == settings
    assert finished_results(RunFolder(tmp_path / "run"), settings) is None


@pytest.mark.parametrize("key", REMOVED)
@pytest.mark.parametrize("resume", ["auto", "force"])
def test_a_run_with_another_value_loads_but_is_not_continued(tmp_path, key, resume):
    settings = old_run(tmp_path / "run", **as_arguments({key: CHANGED[key]}))
    assert RunFolder(tmp_path / "run").settings() == settings
    with pytest.raises(UserError, match=rf"holds a run with {key} .*cannot be continued; choose another"):
        train.main(arguments(tmp_path / "run", train__resume=resume))


@pytest.mark.parametrize("key", REMOVED)
def test_in_a_file_or_on_the_command_line_they_are_an_error(tmp_path, key):
    section, name = key.split(".")
    file = tmp_path / "mine.yaml"
    for value in (REMOVED[key].default, CHANGED[key]):
        file.write_text(yaml.safe_dump({section: {name: value}}))
        with pytest.raises(UserError) as found:
            parse_settings(["--config", str(file)], "train", "")
        assert str(found.value) == f"{file}: {key}: this setting was removed: {REMOVED[key].replacement}"
        for argv in ([f"--{key}", str(value)], [f"--{key}={value}"]):
            with pytest.raises(UserError, match=f"^{key}: this setting was removed: "):
                parse_settings(argv, "train", "")


def test_evaluate_refuses_them_on_the_command_line(tmp_path):
    old_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"^data\.group_batches: this setting was removed"):
        evaluate.main(["--run", str(tmp_path / "run"), "--data.group_batches", "false"])


def test_splitting_leaves_what_is_no_section_to_the_parser():
    values = {"train": None, "data": {"workers": 2, "group_batches": False}, "loss": ["hardness"]}
    assert split_removed(values) == ({**values, "data": {"workers": 2}}, {"data.group_batches": False})
    assert split_removed(to_dict(Settings())) == (to_dict(Settings()), {})
