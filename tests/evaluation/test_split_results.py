"""`evaluate` end to end: what it prints and writes about a split."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vse_tf import evaluate
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import METRICS, measure
from vse_tf.evaluation.split_results import Compared
from vse_tf.plain_embedder import EncodedSplit


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


def test_a_run_against_itself_and_its_export(tiny_run, tiny_models, tmp_path, capsys):
    for other in (tiny_run, tiny_models):
        path = tmp_path / "x.json"
        evaluate.main(["--run", str(tiny_run), "--split", "val", "--compare", str(other), "--output", str(path)])
        found = json.loads(path.read_text())["comparison"]
        assert set(found["p"].values()) == {1.0}
        assert set(found["difference"].values()) == {0.0}
        assert found["images"] == 20
        printed = capsys.readouterr()
        assert "the difference is not significant: difference +0.0" in printed.out
        assert "trained on other data" not in printed.err


def test_the_comparison_is_the_difference_of_two_evaluations(tiny_run, corrected_run, tmp_path):
    path = tmp_path / "x.json"
    argv = ["--split", "hard", "--output", str(path)]
    evaluate.main(["--run", str(corrected_run), "--compare", str(tiny_run), "--metrics", "hubness", "order", *argv])
    found = json.loads(path.read_text())
    assert found["comparison"]["metrics"] == found["metrics"]
    for name, value in found["comparison"]["difference"].items():
        assert value == pytest.approx(found["metrics_corrected"][name] - found["metrics"][name], abs=1e-9)
    # Both galleries, with the correction and without.
    assert {key: set(each) for key, each in found["hubness"].items()} == {
        key: {"i2t", "t2i"} for key in ("metrics", "metrics_corrected")
    }
    assert {"adjectives", "nouns", "left_right", "all"} == set(found["order"])
    # Half of the scenes lie side by side.
    assert 0 < found["order"]["left_right"]["pairs"] <= 50
    assert found["hubness"]["metrics"] != found["hubness"]["metrics_corrected"]
    assert sum(count for _, count in found["hubness"]["metrics"]["t2i"]["most"]) <= 10 * 100


def test_a_place_without_a_model_is_one_line(tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"--compare: .*: no run and no exported models here"):
        evaluate.main(["--run", str(tiny_run), "--split", "val", "--compare", str(tmp_path)])


def test_only_images_that_both_could_read_are_compared():
    random = np.random.default_rng(0)
    image, text = (random.standard_normal((n, 4)).astype(np.float32) for n in (6, 12))
    every = EncodedSplit(image, text, np.repeat(np.arange(6), 2), np.arange(6))
    fewer = every.of_rows(np.array([0, 2, 5]))
    assert fewer.image_id.tolist() == [0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(fewer.text, text[[0, 1, 4, 5, 10, 11]])
    compared = Compared.of(("a", "b"), measure(every), fewer)
    assert compared.comparison.p["rsum"] == 1.0
    assert compared.first.metrics == measure(fewer).metrics != measure(every).metrics
    with pytest.raises(UserError, match="no image that both"):
        Compared.of(("a", "b"), measure(fewer), every.of_rows(np.array([1])))
