"""The benchmarks run, and say what they measured; their figures are no test's business."""

import json
import subprocess
import sys

import pytest

from benchmarks import objectives
from benchmarks.objectives import MASK_OFF, PLUS_PLUS, TABLES, Variant, slug
from tests.tiny import TINY

SHAPES = {**TINY, "data.source": "shapes", "data.features": "false", "train.batch_size": "16"}


def test_the_table_of_objectives_is_made_and_continued(tmp_path, monkeypatch, capsys):
    variants = {"ConVSE++, both": Variant(PLUS_PLUS, warm_up=0.5, base=0.5)}
    monkeypatch.setattr(objectives, "TABLES", {"objectives": variants})
    output = tmp_path / "results" / "objectives"
    given = [part for key, value in SHAPES.items() for part in (f"--{key}", value)]
    argv = ["--runs", str(tmp_path / "runs"), "--tables", "objectives", "--output", str(output), *given]
    objectives.main([*argv, "--seeds", "0"])
    first = json.loads(output.with_suffix(".json").read_text())
    variants["ConVSE"] = Variant(MASK_OFF)
    objectives.main([*argv, "--seeds", "0"])
    told = capsys.readouterr().out
    found = json.loads(output.with_suffix(".json").read_text())
    assert found["runs"]["objectives"]["ConVSE++, both"] == first["runs"]["objectives"]["ConVSE++, both"]
    for name, runs in found["runs"]["objectives"].items():
        expected = {"mean": runs["0"]["metrics"]["rsum"], "sd": 0.0}
        assert found["summary"]["objectives"][name]["rsum"] == expected
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"objectives-convse-0", "objectives-convsepp-both-0", "objectives-convsepp-both-0-base"}
    config = (tmp_path / "runs" / "objectives-convsepp-both-0" / "config.yaml").read_text()
    assert "name: convse++" in config and "hardness_epochs: 1.0" in config and "epochs: 1\n" in config
    assert "2/2" in told and "| ConVSE++, both | 1 |" in output.with_suffix(".md").read_text()


def test_spread_over_seeds():
    assert objectives.spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(7**0.5)}


def test_every_variant_is_a_run_that_the_settings_allow(tmp_path):
    for table, variants in TABLES.items():
        assert len({slug(name) for name in variants}) == len(variants), table
        for name, variant in variants.items():
            stages = objectives.stages(variant, tmp_path / slug(name), 1, 6, ["--data.source", "karpathy"])
            assert sum(settings.train.epochs for settings in stages) == 6


def test_the_losses_are_measured(tmp_path):
    command = ["-m", "benchmarks.losses", "--losses", "convse++", "--batches", "8", "--dim", "4", "--large", "0"]
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    (found,) = json.loads(done.stdout)["results"]
    assert (found["loss"], found["batch"], found["form"]) == ("convse++", 8, "dense")
    assert found["ratio"] > 0
