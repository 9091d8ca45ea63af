"""The files of a run folder, and its format."""

import json
from importlib import import_module

import pytest

from tests.tiny import arguments, tiny_settings
from vse_tf.artifacts.run_folder import FORMAT, RunFolder
from vse_tf.errors import UserError, run_command


def test_metrics_are_appended_but_not_through_a_link(tmp_path):
    run = RunFolder(tmp_path)
    run.append_metrics({"epoch": 1})
    run.append_metrics({"epoch": 2})
    assert run.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    (tmp_path / "diary.txt").write_text("mine")
    run.metrics.unlink()
    run.metrics.symlink_to(tmp_path / "diary.txt")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written"):
        run.append_metrics({"epoch": 3})
    assert (tmp_path / "diary.txt").read_text() == "mine"


@pytest.fixture
def created(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.create(tiny_settings(run.path), begun=False)
    run.unlock()
    return run


def test_a_new_run_has_its_format_and_one_without_is_read(created):
    assert json.loads(created.format.read_text()) == {"format": FORMAT}
    created.format.unlink()
    assert created.settings() == tiny_settings(created.path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "1"}', '{"format": true}', '{"format": 0}'])
def test_a_damaged_format_is_one_line(created, text):
    created.format.write_text(text)
    with pytest.raises(UserError, match=r"run\.json: ") as caught:
        created.settings()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["train", "evaluate", "embed", "export"])
def test_a_run_of_a_newer_version_is_refused_in_one_line(created, tmp_path, capsys, command):
    created.format.write_text(json.dumps({"format": FORMAT + 1}))
    # Settings that only the newer version has.
    created.config.write_text("later: {setting: 1}\n")
    (tmp_path / "captions.txt").write_text("two dogs in the snow\n")
    run, output = ["--run", str(created.path)], ["--output", str(tmp_path / "output")]
    argv = {
        "train": arguments(created.path),
        "evaluate": run,
        "embed": [*run, *output, "--captions", str(tmp_path / "captions.txt")],
        "export": [*run, *output],
    }
    main = import_module(f"vse_tf.{command}").main
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: main(argv[command]))
    assert stopped.value.code == 2
    expected = f"written by a newer version of vse_tf (format {FORMAT + 1}, this version reads up to {FORMAT}); upgrade"
    assert capsys.readouterr().err == f"error: {created.format}: {expected} vse_tf\n"
    assert not (tmp_path / "output").exists()
