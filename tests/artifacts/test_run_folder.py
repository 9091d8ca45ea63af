"""The run folder's own files."""

import pytest

from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.errors import UserError


def test_metrics_are_appended_but_not_through_a_link(tmp_path):
    run = RunFolder(tmp_path)
    run.append_metrics({"epoch": 1})
    run.append_metrics({"epoch": 2})
    assert run.metrics.read_text() == '{"epoch": 1}\n{"epoch": 2}\n'
    (tmp_path / "diary.txt").write_text("mine")
    run.metrics.unlink()
    run.metrics.symlink_to(tmp_path / "diary.txt")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot write the metrics"):
        run.append_metrics({"epoch": 3})
    assert (tmp_path / "diary.txt").read_text() == "mine"
