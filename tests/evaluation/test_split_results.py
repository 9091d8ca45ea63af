"""`evaluate` end to end: what it prints and writes about a split."""

from __future__ import annotations

import json

import pytest

from vse_tf import evaluate
from vse_tf.evaluation.metrics import METRICS


@pytest.fixture(scope="module", autouse=True)
def _loaded_once(loaded_once):
    """The model is loaded once for all tests."""


def test_the_interval_of_every_metric_is_printed_and_written(tiny_run, tmp_path, capsys):
    evaluate.main(["--run", str(tiny_run), "--split", "val", "--output", str(tmp_path / "x.json")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[0].split()[0] for line in lines[2:6]] == ["val", "95%", "to", "chance"]
    assert lines[6].startswith("20 images, 100 captions; 95% intervals: bootstrap over images")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["gallery"] == {"images": 20, "captions": 100, "folds": 1}
    assert tuple(found["intervals"]) == METRICS
    for name, (low, high) in found["intervals"].items():
        assert low <= found["metrics"][name] <= high
    assert found["chance"]["t2i_r1"] == pytest.approx(5)


def test_a_corrected_run_has_intervals_of_both(corrected_run, tmp_path):
    evaluate.main(["--run", str(corrected_run), "--split", "val", "--folds", "2", "--output", str(tmp_path / "x.json")])
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["intervals"] != found["intervals_corrected"]
    assert found["gallery"]["folds"] == 2
