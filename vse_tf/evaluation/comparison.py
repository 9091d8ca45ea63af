"""Two models over one gallery: is one better, and on which queries? NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from vse_tf.evaluation.bootstrap import DRAWS, Intervals, bootstrap, intervals
from vse_tf.evaluation.metrics import METRICS, RECALL_METRICS, RECALLS_AT, fold_size, rank_metrics
from vse_tf.evaluation.ranking import Ranks
from vse_tf.evaluation.similarity import Doubles, Ints

_CELLS = 2**21
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Comparison:
    """The differences between two models, first minus second.

    Args:
        difference: of each of `METRICS`.
        intervals: paired bootstrap intervals of the differences.
        p: p-values of a permutation test: the share of exchanges of the two models, image by image, with a difference
            as large as theirs.
    """

    difference: dict[str, float]
    intervals: Intervals
    p: dict[str, float]


def compare(
    first: Ranks, second: Ranks, image_id: ArrayLike, folds: int = 1, draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compare two models by their ranks of the same queries.

    The interval is that of a paired bootstrap: both models get the same draws of images. The p-value is that of a
    permutation test: were the models the same, exchanging their ranks for an image, with all its captions, would change
    nothing but chance. Each exchange is drawn with probability 1/2 per image, and the observed one counts as one more,
    so that p is never 0 (Good, Permutation Tests, 2000; Smucker, Allan and Carterette, CIKM 2007, for retrieval).

    Args:
        first: ranks of the first model, within each fold.
        second: ranks of the second model for the same queries.
        image_id: the image of each caption `(M,)`.
        folds: number of parts of the gallery.
        draws: number of bootstrap draws, and of exchanges.
        seed: seed of both.

    Raises:
        ValueError: the ranks are not of the same queries.

    Example:
        >>> found = Ranks(i2t=np.array([0, 7]), t2i=np.array([0, 0, 3, 12]))
        >>> compare(found, found, [0, 0, 1, 1]).p["rsum"]
        1.0
    """
    for mine, other in zip(first, second, strict=True):
        if mine.shape != other.shape or np.any((mine < 0) != (other < 0)):
            raise ValueError("the ranks of the two models are not of the same queries")
    values = [rank_metrics(found, image_id, folds) for found in (first, second)]
    difference = {name: values[0][name] - values[1][name] for name in METRICS}
    drawn = [bootstrap(found, image_id, folds, draws, seed) for found in (first, second)]
    differences = {name: drawn[0][name] - drawn[1][name] for name in METRICS}
    exchanged = _exchanged(first, second, np.asarray(image_id, np.int64), folds, draws, seed)
    p = {
        name: (1 + int(np.count_nonzero(np.abs(exchanged[name]) >= abs(difference[name]) - _ROUNDING))) / (1 + draws)
        for name in METRICS
    }
    return Comparison(difference, intervals(differences), p)


def most_changed(first: Ints, second: Ints, count: int) -> Ints:
    """The queries whose ranks differ most between two models, on a logarithmic scale: 1 to 10 weighs as 10 to 100.

    Args:
        first: 0-based ranks of the first model `(q,)`, -1 where there is no query.
        second: those of the second model.
        count: maximum number of queries; those of equal ranks are never among them.

    Returns:
        Positions of the queries, the largest change first; of equal changes the lower position first.

    Example:
        >>> most_changed(np.array([0, 5, 90]), np.array([9, 5, 99]), count=2)
        array([0, 2])
    """
    change = np.abs(np.log((first + 1.0).clip(1)) - np.log((second + 1.0).clip(1)))
    order = np.argsort(-change, kind="stable")[:count]
    changed: Ints = order[change[order] > 0]
    return changed


def _exchanged(first: Ranks, second: Ranks, rows: Ints, folds: int, draws: int, seed: int) -> dict[str, Doubles]:
    """Differences of the metrics where random images have exchanged their ranks."""
    random = np.random.default_rng([seed, 1])
    size = fold_size(len(first.i2t), folds)
    sums = {name: np.zeros(draws) for name in METRICS[:-1]}
    for fold in range(folds):
        own = np.flatnonzero(rows // size == fold)
        images = np.arange(fold * size, (fold + 1) * size)
        directions = {
            "i2t": (first.i2t[images], second.i2t[images], np.arange(size)),
            "t2i": (first.t2i[own], second.t2i[own], rows[own] - fold * size),
        }
        block = max(1, _CELLS // max(size, len(own), 1))
        for start in range(0, draws, block):
            part = slice(start, min(start + block, draws))
            exchange = random.random((part.stop - start, size)) < 0.5
            for direction, (mine, other, image) in directions.items():
                for name, values in _differences(mine, other, exchange, image).items():
                    sums[f"{direction}_{name}"][part] += values / folds
    return {**sums, "rsum": np.sum([sums[name] for name in RECALL_METRICS], axis=0)}


def _differences(mine: Ints, other: Ints, exchange: np.ndarray, image: Ints) -> dict[str, Doubles]:
    """Differences of one direction's metrics, `(draws,)`.

    Args:
        mine: ranks of the first model `(q,)`, -1 where there is no query.
        other: those of the second model.
        exchange: which images exchange their ranks `(draws, images)`.
        image: the image of each query `(q,)`.
    """
    there = mine >= 0
    mine, other, image = mine[there], other[there], image[there]
    sign = 1.0 - 2.0 * exchange

    def mean(values: Doubles) -> Doubles:
        """Mean difference where each image's own one has the image's sign."""
        per_image = np.bincount(image, values, minlength=exchange.shape[1])
        means: Doubles = sign @ per_image / len(mine)
        return means

    found = {f"r{k}": 100 * mean(np.subtract(mine < k, other < k, dtype=np.float64)) for k in RECALLS_AT}
    swapped = exchange[:, image]
    medians = [np.median(np.where(swapped, a, b), axis=1) for a, b in ((other, mine), (mine, other))]
    return {
        **found,
        "medr": np.floor(medians[0]) - np.floor(medians[1]),
        "meanr": mean((mine - other).astype(np.float64)),
    }
