"""Comparisons of two models against a slow oracle, and what chance makes of equal ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.test_bootstrap import queries
from vse_tf.evaluation import comparison as module
from vse_tf.evaluation.bootstrap import bootstrap, intervals
from vse_tf.evaluation.comparison import compare, most_changed
from vse_tf.evaluation.metrics import METRICS, rank_metrics, recall_metrics
from vse_tf.evaluation.ranking import Ranks


def other_ranks(found, seed):
    random = np.random.default_rng(seed)
    return Ranks(np.where(found.i2t < 0, -1, random.permutation(found.i2t).clip(0)), random.permutation(found.t2i))


def test_equal_models_have_p_one():
    found, image_id = queries(0, images=30)
    result = compare(found, found, image_id, draws=50)
    assert set(result.p.values()) == {1.0}
    assert set(result.difference.values()) == {0.0}
    assert set(result.intervals.values()) == {(0.0, 0.0)}


@pytest.mark.parametrize("folds", [1, 3])
def test_the_test_exchanges_whole_images(folds):
    first, image_id = queries(1, images=12, most=4)
    second = other_ranks(first, 2)
    draws = 60
    result = compare(first, second, image_id, folds, draws, seed=5)
    wanted = {
        name: a - b
        for (name, a), b in zip(
            rank_metrics(first, image_id, folds).items(), rank_metrics(second, image_id, folds).values(), strict=True
        )
    }
    assert result.difference == pytest.approx(wanted, abs=1e-12)
    random, exchanges = np.random.default_rng([5, 1]), np.zeros((draws, 12), bool)
    for part in np.split(np.arange(12), folds):
        exchanges[:, part] = random.random((draws, len(part))) < 0.5
    reached = dict.fromkeys(METRICS, 1)
    for exchange in exchanges:
        pair = []
        for a, b in ((first, second), (second, first)):
            mixed = Ranks(np.where(exchange, b.i2t, a.i2t), np.where(exchange[image_id], b.t2i, a.t2i))
            pair.append(rank_metrics(mixed, image_id, folds))
        for name in METRICS:
            reached[name] += abs(pair[0][name] - pair[1][name]) >= abs(wanted[name]) - 1e-9
    assert result.p == {name: count / (draws + 1) for name, count in reached.items()}


def test_the_interval_is_that_of_paired_draws():
    first, image_id = queries(4, images=25)
    second = other_ranks(first, 3)
    drawn = [bootstrap(found, image_id, draws=80, seed=2) for found in (first, second)]
    wanted = intervals({name: drawn[0][name] - drawn[1][name] for name in METRICS})
    assert compare(first, second, image_id, draws=80, seed=2).intervals == wanted


def test_blocks_change_nothing(monkeypatch):
    first, image_id = queries(6, images=30)
    second = other_ranks(first, 1)
    found = compare(first, second, image_id, draws=40)
    monkeypatch.setattr(module, "_CELLS", 200)
    assert compare(first, second, image_id, draws=40) == found


def test_chance_alone_is_rarely_called_different():
    """Two models whose ranks are drawn alike differ with p < 0.05 in about 5 of 100 pairs."""
    random = np.random.default_rng(0)
    image_id, called = np.repeat(np.arange(60), 2), 0
    for seed in range(100):
        pair = []
        for _ in range(2):
            of_images = random.integers(0, 12, 60)
            pair.append(Ranks(of_images, (of_images[image_id] + random.integers(0, 3, 120))))
        called += compare(*pair, image_id, draws=99, seed=seed).p["rsum"] <= 0.05
    assert called <= 12


def test_a_better_model_is_found():
    image_id = np.repeat(np.arange(100), 3)
    worse = Ranks(np.arange(100), np.arange(300))
    better = Ranks(np.arange(100) // 2, np.arange(300) // 2)
    result = compare(better, worse, image_id, draws=199)
    assert result.p["rsum"] == 1 / 200
    assert result.intervals["rsum"][0] > 0
    assert recall_metrics(better)["rsum"] - recall_metrics(worse)["rsum"] == pytest.approx(result.difference["rsum"])


def test_other_queries_cannot_be_compared():
    with pytest.raises(ValueError, match="not of the same queries"):
        compare(Ranks(np.array([0, -1]), np.array([0])), Ranks(np.array([0, 0]), np.array([0])), [0])


def test_the_queries_that_changed_most():
    first, second = np.array([0, 0, 50, 7, -1, 3]), np.array([0, 20, 500, 0, -1, 2])
    assert most_changed(first, second, 9).tolist() == [1, 2, 3, 5]
    assert most_changed(first, second, 1).tolist() == [1]
