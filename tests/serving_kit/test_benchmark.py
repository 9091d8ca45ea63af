"""The serving benchmark runs on an export and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving import serving


@pytest.mark.evidence
def test_serving_is_measured(export_folder):
    command = [sys.executable, "-m", "benchmarks.serving", "--models", str(export_folder), "--seconds", "0.2"]
    done = subprocess.run([*command, "--clients", "1", "2"], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    for tower in ("text_tower", "image_tower"):
        assert found[tower]["one"].keys() == {"1", "2"}
        assert found[tower]["many"].keys() == {"1"}
        for measured in found[tower]["one"].values():
            assert measured["ratio"] == pytest.approx(
                measured["http"]["per_s"] / measured["in_process"]["per_s"], abs=1e-3
            )
        assert all(row["per_s"] > 0 for row in found[tower]["scheduler"])


@pytest.mark.evidence
def test_a_server_that_runs_already_is_measured_over_http_alone(export_folder):
    with serving(Path(export_folder)) as (address, _):
        command = [sys.executable, "-m", "benchmarks.serving", "--url", address, "--seconds", "0.2", "--clients", "1"]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for tower in ("text_tower", "image_tower"):
        assert found[tower].keys() == {"one", "many"}
        (figures,) = found[tower]["one"].values()
        assert figures.keys() == {"http"} and figures["http"]["per_s"] > 0
