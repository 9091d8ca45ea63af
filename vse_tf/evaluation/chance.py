"""What a ranking at random would reach: the level that every recall is to be compared with. NumPy only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vse_tf.evaluation.metrics import RECALL_METRICS, RECALLS_AT, fold_size


def chance_metrics(image_id: ArrayLike, images: int, folds: int = 1) -> dict[str, float]:
    """Expected recalls and median ranks of a gallery that is ranked at random.

    Args:
        image_id: the image of each caption `(M,)`, from 0 to `images` - 1.
        images: number of images.
        folds: mean over this number of equal, consecutive parts of the gallery.

    Returns:
        A value for each of `RECALL_METRICS`, `i2t_medr`, `t2i_medr` and `rsum`.

    Example:
        >>> chance = chance_metrics(np.repeat(np.arange(100), 5), 100)
        >>> [round(chance[name], 1) for name in ("i2t_r10", "t2i_r10", "i2t_medr", "t2i_medr")]
        [9.6, 10.0, 65.0, 50.0]
    """
    size, rows = fold_size(images, folds), np.asarray(image_id)
    captions = np.bincount(rows, minlength=images).reshape(folds, size)
    every = [_of_gallery(part.tolist()) for part in captions]
    metrics = {name: math.fsum(one[name] for one in every) / folds for name in every[0]}
    return {**metrics, "rsum": math.fsum(metrics[name] for name in RECALL_METRICS)}


def _of_gallery(captions: list[int]) -> dict[str, float]:
    """The metrics for one gallery, from the number of captions of each of its images."""
    metrics: dict[str, float] = {}
    # An image looks for any of its captions among all, a caption for its image among all images.
    own = Counter(count for count in captions if count)
    for direction, items, right_items in (("i2t", sum(captions), own), ("t2i", len(captions), Counter([1]))):
        found = _found(items, right_items)
        for k in RECALLS_AT:
            metrics[f"{direction}_r{k}"] = 100.0 * float(found[min(k, items) - 1])
        metrics[f"{direction}_medr"] = float(np.argmax(found > 0.5 - 1e-9)) + 1
    return metrics


def _found(items: int, right_items: Mapping[int, int]) -> NDArray[np.float64]:
    """Share of queries with a right item among the first 1, 2, … of `items`; given the queries by their right items."""
    queries = sum(right_items.values())
    missed = np.zeros(items)
    for right, count in right_items.items():
        share = np.clip(1 - right / np.arange(items, 0, -1), 0, None)
        missed += count / queries * np.cumprod(share)
    return 1 - missed
