"""How sure a recall is: bootstrap intervals over images with all their captions, from ranks alone. NumPy only.

A draw takes as many images as the gallery has, with replacement, each with all its captions as queries. The gallery in
which they were ranked stays as it is, so no similarity is computed again. The interval of a metric goes from the 2.5 %
to the 97.5 % quantile of all draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Captions
of one image are drawn together because they succeed and fail together; drawing them one by one would give intervals
that are too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from vse_tf.evaluation.metrics import METRICS, RECALL_METRICS, RECALLS_AT, Measured, fold_size
from vse_tf.evaluation.ranking import Ranks
from vse_tf.evaluation.similarity import Doubles, Ints

DRAWS = 1000
LEVEL = 0.95
"""Share of the draws that an interval holds."""
Samples = dict[str, Doubles]
"""The values of each metric over draws, `(draws,)`."""
Intervals = dict[str, tuple[float, float]]
_CELLS = 2**21  # numbers of queries, in all draws that are computed at a time


def bootstrap(found: Ranks, image_id: ArrayLike, folds: int = 1, draws: int = DRAWS, seed: int = 0) -> Samples:
    """The metrics of random draws of the images, each with all its captions.

    The draws depend on the number of images, `folds`, `draws` and `seed` alone: two models over one gallery get the
    same draws, and the differences of their samples are those of a paired bootstrap.

    Args:
        found: ranks of each query within its own fold, see `vse_tf.evaluation.metrics.fold_ranks`.
        image_id: the image of each caption `(M,)`.
        folds: number of parts of the gallery; images are drawn within each part.
        draws: number of draws.
        seed: seed of the draws.

    Returns:
        Each of `METRICS` of every draw; NaN where a draw has no query.

    Example:
        >>> found = Ranks(i2t=np.array([0, 7]), t2i=np.array([0, 0, 3, 12]))
        >>> bootstrap(found, [0, 0, 1, 1], draws=4)["i2t_r1"].shape
        (4,)
    """
    random = np.random.default_rng(seed)
    size = fold_size(len(found.i2t), folds)
    rows = np.asarray(image_id, np.int64)
    sums = {name: np.zeros(draws) for name in METRICS[:-1]}
    for fold in range(folds):
        own = np.flatnonzero(rows // size == fold)
        i2t = _Queries(found.i2t[fold * size : (fold + 1) * size], np.arange(size))
        t2i = _Queries(found.t2i[own], rows[own] - fold * size)
        for part, times in _weights(random, size, len(own), draws):
            for direction, queries in (("i2t", i2t), ("t2i", t2i)):
                for name, values in queries.metrics(times).items():
                    sums[f"{direction}_{name}"][part] += values / folds
    return {**sums, "rsum": np.sum([sums[name] for name in RECALL_METRICS], axis=0)}


def intervals(samples: Samples, level: float = LEVEL) -> Intervals:
    """The interval of each metric: its lower and upper quantile.

    Args:
        samples: see `bootstrap`.
        level: share of the draws between them.

    Example:
        >>> intervals({"rsum": np.full(9, 284.5)})
        {'rsum': (284.5, 284.5)}
    """
    ends = (0.5 - level / 2, 0.5 + level / 2)
    quantiles = {name: np.nanquantile(values, ends) for name, values in samples.items()}
    return {name: (float(low), float(high)) for name, (low, high) in quantiles.items()}


def intervals_of(measured: Measured) -> Intervals:
    """The interval of each metric of a split.

    Args:
        measured: its ranks.
    """
    return intervals(bootstrap(measured.ranks, measured.encoded.image_id, measured.folds))


def _weights(random: np.random.Generator, images: int, queries: int, draws: int) -> Iterator[tuple[slice, Ints]]:
    """How often each draw takes each image, `(some draws, images)`, block by block; the block size changes nothing."""
    block = max(1, _CELLS // max(images, queries, 1))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        chosen = random.integers(images, size=(count, images)) + images * np.arange(count)[:, None]
        times = np.bincount(chosen.reshape(-1), minlength=count * images)
        yield slice(start, start + count), times.reshape(count, images)


class _Queries:
    """The queries of one direction.

    Args:
        rank: `(q,)`, -1 where there is no query.
        image: the image of each query `(q,)`.
    """

    def __init__(self, rank: Ints, image: Ints) -> None:
        there = np.flatnonzero(rank >= 0)
        order = there[np.argsort(rank[there], kind="stable")]
        self.rank, self.image = rank[order], image[order]
        columns = [np.ones(len(order)), *(self.rank < k for k in RECALLS_AT), self.rank + 1.0]
        images = int(image.max(initial=-1)) + 1
        # Sums over each image's queries: a draw's metrics are products with them.
        self.sums = np.stack([np.bincount(self.image, column, minlength=images) for column in columns], axis=1)

    def metrics(self, times: Ints) -> dict[str, Doubles]:
        """The metrics where each image counts `times`, `(draws, images)`."""
        found = times[:, : len(self.sums)].astype(np.float64) @ self.sums
        with np.errstate(invalid="ignore", divide="ignore"):
            means = found[:, 1:] / found[:, :1]
        named = {f"r{k}": 100 * means[:, number] for number, k in enumerate(RECALLS_AT)}
        return {**named, "medr": self._medians(times), "meanr": means[:, -1]}

    def _medians(self, times: Ints) -> Doubles:
        """`floor(median(rank)) + 1`, as `recall_metrics` has it."""
        reached = np.cumsum(times[:, self.image], axis=1)
        if not reached.size:
            return np.full(len(times), np.nan)
        total = reached[:, -1]
        # The two values in the middle; of an odd number both are the same.
        low, high = (self.rank[_first_above(reached, place)] for place in ((total - 1) // 2, total // 2))
        medians: Doubles = np.where(total > 0, (low + high) // 2 + 1.0, np.nan)
        return medians


def _first_above(rising: Ints, limit: Ints) -> Ints:
    """The first column of each row whose value is above its limit."""
    columns: Ints = np.count_nonzero(rising <= limit[:, None], axis=1).clip(max=rising.shape[1] - 1)
    return columns


def mean_interval(
    values: ArrayLike, image_id: ArrayLike, draws: int = DRAWS, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """The mean of values, and its interval by a bootstrap over the images that they belong to.

    Args:
        values: `(n,)`.
        image_id: the image of each value `(n,)`; any integers.
        draws: number of draws.
        seed: seed of the draws.

    Example:
        >>> mean_interval([100, 0, 100, 100], [7, 7, 9, 9])[0]
        75.0
    """
    values = np.asarray(values, np.float64)
    images, image = np.unique(image_id, return_inverse=True)
    sums = np.stack([np.bincount(image, values), np.bincount(image)], axis=1)
    random = np.random.default_rng(seed)
    drawn = np.concatenate([times @ sums for _, times in _weights(random, len(images), len(values), draws)])
    return float(values.mean()), intervals({"mean": drawn[:, 0] / drawn[:, 1]})["mean"]
