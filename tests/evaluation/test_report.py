"""The table that the commands print."""

from __future__ import annotations

from vse_tf.evaluation.metrics import METRICS
from vse_tf.evaluation.report import benchmarks_table, table


def test_table_is_aligned():
    low = dict.fromkeys(METRICS, 1.0) | {"i2t_r1": 3.14159, "i2t_medr": 1234.0, "rsum": 6.0}
    high = dict.fromkeys(METRICS, 100.0) | {"t2i_medr": 1.0, "rsum": 600.0}
    assert table({"test": low, "hard gallery": high}).splitlines() == [
        "                   image to text        |       text to image        |",
        "gallery         R@1   R@5  R@10    medr |    R@1   R@5  R@10    medr |   rsum",
        "test            3.1   1.0   1.0  1234.0 |    1.0   1.0   1.0     1.0 |    6.0",
        "hard gallery  100.0 100.0 100.0   100.0 |  100.0 100.0 100.0     1.0 |  600.0",
    ]


def test_table_is_ascii_and_shows_missing_metrics():
    text = table({"prüf\nteil": {"i2t_r1": 50.0}})
    assert text.isascii()
    line = text.splitlines()[2]
    assert line.startswith("pr\\xfc")
    assert line.split() == ["pr\\xfcf", "teil", "50.0", *["-"] * 3, "|", *["-"] * 4, "|", "-"]


def test_empty_table_is_its_head():
    assert len(table({}).splitlines()) == 2


def test_the_table_of_benchmarks_is_aligned():
    metrics = {"eccv_i2t_map_at_r": 23.99, "eccv_t2i_rprecision": 100.0, "cxc_i2t_r1": 58.04, "i2t_r1": 1.0}
    assert benchmarks_table(metrics).splitlines() == [
        "                  image to text          |         text to image",
        "benchmark  mAP@R   R-P   R@1   R@5  R@10 |  mAP@R   R-P   R@1   R@5  R@10",
        "ECCV        24.0     -     -     -     - |      - 100.0     -     -     -",
        "CxC            -     -  58.0     -     - |      -     -     -     -     -",
    ]
