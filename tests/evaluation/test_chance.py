"""The level of chance against rankings at random, and against counting."""

import numpy as np
import pytest

from vse_tf.evaluation.chance import chance_metrics
from vse_tf.evaluation.metrics import RECALL_METRICS, recalls
from vse_tf.evaluation.report import small_galleries, table


def test_chance_is_the_mean_of_random_rankings():
    captions = np.repeat(np.arange(30), [1, 2, 5] * 10)
    rng = np.random.default_rng(0)
    random = [
        recalls(rng.standard_normal((30, 16)), rng.standard_normal((len(captions), 16)), captions) for _ in range(300)
    ]
    chance = chance_metrics(captions, 30)
    for name in (*RECALL_METRICS, "rsum"):
        values = [metrics[name] for metrics in random]
        assert chance[name] == pytest.approx(np.mean(values), abs=5 * np.std(values) / 300**0.5), name
    for name in ("i2t_medr", "t2i_medr"):
        assert chance[name] == pytest.approx(np.mean([metrics[name] for metrics in random]), abs=2), name


def test_chance_in_galleries_that_can_be_counted():
    one_each = chance_metrics(np.arange(1000), 1000)
    assert [one_each[f"t2i_{key}"] for key in ("r1", "r5", "r10", "medr")] == pytest.approx([0.1, 0.5, 1.0, 500])
    assert [one_each[f"i2t_{key}"] for key in ("r1", "r5", "r10", "medr")] == pytest.approx([0.1, 0.5, 1.0, 500])
    tiny = chance_metrics([0, 1, 1], 3)
    assert tiny["i2t_r5"] == tiny["t2i_r10"] == 100
    assert tiny["i2t_r1"] == pytest.approx(50)  # one of three, or two of three
    assert chance_metrics(np.arange(1000), 1000, folds=10)["t2i_r1"] == pytest.approx(1)


def test_the_table_has_chance_below_its_gallery():
    chance = {"val": chance_metrics(np.repeat(np.arange(60), 5), 60)}
    lines = table({"val": {"t2i_r1": 30.0}, "test": {"t2i_r1": 40.0}}, chance).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["val", "chance", "test"]
    assert lines[3].startswith("  chance    1.7")


@pytest.mark.parametrize(("images", "lines"), [(60, 1), (199, 1), (200, 0), (5000, 0)])
def test_only_a_small_gallery_gets_a_warning(images, lines):
    found = small_galleries({"val": chance_metrics(np.arange(images), images)})
    assert len(found) == lines
    if images == 60:
        assert found == ["val has 60 images: one image is 1.7 points of R@1, so a difference of 13 points may be luck"]
