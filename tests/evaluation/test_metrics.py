"""Recalls, medians and folds."""

from __future__ import annotations

import numpy as np
import pytest

from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import METRICS, fold_metrics, recall_metrics, recalls
from vse_tf.evaluation.ranking import Ranks, ranks
from vse_tf.evaluation.similarity import NonFiniteError


def gallery(n=30, each=3, dim=8, seed=0):
    random = np.random.default_rng(seed)
    image = random.standard_normal((n, dim)).astype(np.float32)
    rows = random.permutation(np.repeat(np.arange(n), each))
    text = (image[rows] + 0.8 * random.standard_normal((n * each, dim))).astype(np.float32)
    return image, text, rows


def test_metrics_by_hand():
    found = Ranks(i2t=np.array([0, -1, 4, 5, 10]), t2i=np.array([0, 0, 1, 9, 20]))
    metrics = recall_metrics(found)
    assert metrics == {
        "i2t_r1": 25.0,
        "i2t_r5": 50.0,
        "i2t_r10": 75.0,
        "i2t_medr": 5.0,  # floor of the median 4.5, from 1
        "i2t_meanr": 5.75,
        "t2i_r1": 40.0,
        "t2i_r5": 60.0,
        "t2i_r10": 80.0,
        "t2i_medr": 2.0,
        "t2i_meanr": 7.0,
        "rsum": 330.0,
    }
    assert tuple(metrics) == METRICS
    assert all(type(value) is float for value in metrics.values())


def test_no_query_is_an_error():
    with pytest.raises(ValueError, match="i2t: no query"):
        recall_metrics(Ranks(np.array([-1, -1]), np.array([], int)))


def test_evaluate_measures_the_whole_gallery():
    image, text, rows = gallery()
    assert recalls(image, text, rows) == recall_metrics(ranks(image, text, rows))
    assert 0 < recalls(image, text, rows)["i2t_r1"] < 100


def test_folds_are_the_mean_of_consecutive_parts():
    image, text, rows = gallery()
    parts = []
    for start in (0, 10, 20):
        own = (rows >= start) & (rows < start + 10)
        parts.append(recalls(image[start : start + 10], text[own], rows[own] - start))
    found = fold_metrics(image, text, rows, folds=3)
    assert tuple(found) == METRICS
    for name in METRICS:
        assert found[name] == pytest.approx(np.mean([part[name] for part in parts]), rel=1e-12)
    assert found == recalls(image, text, rows, folds=3, block_bytes=100)
    assert found["rsum"] != recalls(image, text, rows)["rsum"]


def test_an_image_without_captions_keeps_its_place_in_its_fold():
    image, text, rows = gallery()
    some = rows != 10
    found = fold_metrics(image, text[some], rows[some], folds=3)
    parts = [
        recalls(image[at : at + 10], text[some & (rows // 10 == at // 10)], rows[some & (rows // 10 == at // 10)] - at)
        for at in (0, 10, 20)
    ]
    assert found["rsum"] == pytest.approx(np.mean([part["rsum"] for part in parts]), rel=1e-12)


def test_the_order_of_captions_does_not_matter():
    image, text, rows = gallery()
    order = np.argsort(rows, kind="stable")
    assert recalls(image, text, rows, folds=5) == recalls(image, text[order], rows[order], folds=5)


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (4, "30 images cannot be cut into 4 equal folds: .* a gallery of 28 or 32 images"),
        (31, "30 images cannot be cut into 31 equal folds: .* a gallery of 31 images"),
        (0, "folds is 0"),
    ],
)
def test_folds_that_do_not_divide_the_gallery_are_an_error(folds, message):
    with pytest.raises(UserError, match=message):
        recalls(*gallery(), folds=folds)


def test_a_fold_without_captions_is_an_error():
    image, text, rows = gallery()
    with pytest.raises(UserError, match="images 10 to 19 have no caption"):
        recalls(image, text[rows < 10], rows[rows < 10], folds=3)


def test_a_bad_row_is_named_in_the_whole_gallery():
    image, text, rows = gallery()
    image[25, 3] = np.nan
    with pytest.raises(NonFiniteError, match="image embedding in row 25"):
        recalls(image, text, rows, folds=3)


@pytest.mark.parametrize("rows", [[0, 99], [-1, 0], [0]])
def test_rows_that_do_not_fit_are_an_error(rows):
    with pytest.raises(ValueError, match="image_id"):
        fold_metrics(np.ones((4, 2)), np.ones((2, 2)), rows, folds=2)
