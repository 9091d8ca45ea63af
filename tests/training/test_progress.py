"""The epoch that is the best one, by `train.monitor`."""

from __future__ import annotations

from typing import get_args

import pytest

from tests.tiny import arguments, rows_of
from vse_tf import train
from vse_tf.artifacts.checkpoint_files import Position
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Monitor
from vse_tf.evaluation.metrics import METRICS
from vse_tf.training.progress import RunProgress

ROWS = [
    {"epoch": 1, "metrics": {"rsum": 10.0, "t2i_r1": 3.0, "i2t_medr": 9.0}},
    {"epoch": 2, "metrics": {"rsum": 30.0, "t2i_r1": 2.0, "i2t_medr": 7.0}},
    {"epoch": 3, "metrics": {"rsum": 20.0, "t2i_r1": 3.0, "i2t_medr": 6.0}},
]


@pytest.mark.parametrize(("monitor", "epoch"), [("rsum", 2), ("t2i_r1", 1), ("i2t_medr", 3)])
def test_the_best_epoch_by_each_kind_of_metric(monitor, epoch):
    assert RunProgress(Position(3, 9), {}, monitor, rows=ROWS).best["epoch"] == epoch


def test_every_metric_can_be_monitored():
    assert set(get_args(Monitor)) == set(METRICS)


def test_a_run_keeps_the_best_by_its_monitor(tmp_path, capsys):
    argv = arguments(tmp_path / "run", train__epochs=4, train__monitor="i2t_meanr")
    train.main(argv)
    metrics = [row["metrics"]["i2t_meanr"] for row in rows_of(tmp_path / "run")]
    results = RunFolder(tmp_path / "run").read_results()
    assert results["best"]["epoch"] == metrics.index(min(metrics)) + 1
    assert "by i2t_meanr on the validation split" in capsys.readouterr().out
    assert "the best by i2t_meanr on the validation split" in RunFolder(tmp_path / "run").read_card()
