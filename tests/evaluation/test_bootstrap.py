"""The bootstrap against drawing the queries themselves, one draw after the other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.evaluation import bootstrap as module
from vse_tf.evaluation.bootstrap import bootstrap, intervals
from vse_tf.evaluation.metrics import METRICS, fold_ranks, rank_metrics, recall_metrics
from vse_tf.evaluation.ranking import Ranks
from vse_tf.evaluation.report import table


def queries(seed, images=12, most=3):
    """Random ranks of images with up to `most` captions, some without any."""
    random = np.random.default_rng(seed)
    image_id = random.permutation(np.repeat(np.arange(images), random.integers(0, most + 1, images)))
    i2t = np.where(np.bincount(image_id, minlength=images), random.integers(0, 20, images), -1)
    return Ranks(i2t, random.integers(0, images, len(image_id))), image_id


def drawn_one_by_one(found, image_id, draws, seed):
    """Every draw is a gallery of its own: the images that were chosen, each with all its captions."""
    images = len(found.i2t)
    for chosen in np.random.default_rng(seed).integers(images, size=(draws, images)):
        captions = np.concatenate([np.flatnonzero(image_id == image) for image in chosen])
        yield recall_metrics(Ranks(found.i2t[chosen], found.t2i[captions]))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_draws_are_those_of_whole_images(seed):
    found, image_id = queries(seed)
    if not len(image_id):
        return
    samples = bootstrap(found, image_id, draws=7, seed=seed)
    try:
        wanted = list(drawn_one_by_one(found, image_id, 7, seed))
    except ValueError:  # a draw without captions
        assert np.isnan(samples["rsum"]).any()
        return
    assert tuple(samples) == METRICS
    for name in METRICS:
        np.testing.assert_allclose(samples[name], [one[name] for one in wanted], rtol=1e-12, err_msg=name)


def test_blocks_of_draws_change_nothing(monkeypatch):
    found, image_id = queries(3, images=40)
    samples = bootstrap(found, image_id, draws=50)
    monkeypatch.setattr(module, "_CELLS", 300)
    for name, values in bootstrap(found, image_id, draws=50).items():
        np.testing.assert_array_equal(values, samples[name])


def test_folds_are_drawn_apart():
    random = np.random.default_rng(0)
    image = random.standard_normal((20, 6)).astype(np.float32)
    image_id = random.permutation(np.repeat(np.arange(20), 2))
    text = (image[image_id] + random.standard_normal((40, 6))).astype(np.float32)
    # In one fold everything is right, in the other nothing: draws across folds would vary, draws within do not.
    found = fold_ranks(image, text, image_id, 2)
    found.i2t[:10], found.i2t[10:] = 0, 99
    samples = bootstrap(found, image_id, folds=2, draws=20)
    assert set(samples["i2t_r1"]) == {50.0}
    assert set(samples["i2t_medr"]) == {50.5}
    assert (
        intervals(samples)["t2i_r5"][0] < rank_metrics(found, image_id, 2)["t2i_r5"] < intervals(samples)["t2i_r5"][1]
    )


def test_intervals_hold_the_true_value_as_often_as_they_say():
    """Galleries of which half of the images are found: of 200 intervals about 190 hold 50 %."""
    random = np.random.default_rng(1)
    image_id, held = np.repeat(np.arange(80), 3), 0
    for seed in range(200):
        # All captions of an image succeed or fail together: single captions would give intervals that are too narrow.
        hit = random.random(80) < 0.5
        found = Ranks(np.where(hit, 0, 9), np.where(hit, 0, 9)[image_id])
        low, high = intervals(bootstrap(found, image_id, draws=300, seed=seed))["t2i_r1"]
        held += low <= 50 <= high
    assert 180 <= held <= 199


def test_the_same_seed_gives_the_same_interval():
    found, image_id = queries(5, images=30)
    first, again, other = (intervals(bootstrap(found, image_id, draws=100, seed=seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_the_table_has_the_interval_below_its_line():
    ends = {"val": {"t2i_r1": (20.0, 41.0)}}
    lines = table({"val": {"t2i_r1": 30.0}}, {"val": {"t2i_r1": 1.0}}, ends).splitlines()
    assert [" ".join(line.split()[:2]) for line in lines[3:]] == ["95% from", "to -", "chance -"]
    assert [line.split("|")[1].split()[0] for line in lines[2:]] == ["30.0", "20.0", "41.0", "1.0"]


def test_a_draw_without_queries_is_left_out():
    found, image_id = Ranks(np.array([0, -1, -1]), np.array([0])), np.array([0])
    samples = bootstrap(found, image_id, draws=40)
    assert np.isnan(samples["t2i_r1"]).any()
    assert intervals(samples)["t2i_r1"] == (100.0, 100.0)


@pytest.mark.parametrize("folds", [1, 4])
def test_the_metrics_are_those_of_a_draw_of_everything(folds, monkeypatch):
    found, image_id = queries(11, images=40, most=5)
    monkeypatch.setattr(module, "_weights", lambda *_: [(slice(0, 1), np.ones((1, 40 // folds), np.int64))])
    samples = bootstrap(found, image_id, folds, draws=1)
    for name, value in rank_metrics(found, image_id, folds).items():
        assert samples[name][0] == pytest.approx(value, rel=1e-12), name
