"""Recalls from ranks: the field's numbers, under the field's names. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from vse_tf.errors import UserError
from vse_tf.evaluation.ranking import Ranks, ranks
from vse_tf.evaluation.similarity import BLOCK_BYTES, NonFiniteError, check_finite

if TYPE_CHECKING:
    from vse_tf.embedder import Embedder
    from vse_tf.plain_embedder import EncodedSplit

RECALLS_AT = (1, 5, 10)
I2T_METRICS = ("i2t_r1", "i2t_r5", "i2t_r10", "i2t_medr", "i2t_meanr")
T2I_METRICS = ("t2i_r1", "t2i_r5", "t2i_r10", "t2i_medr", "t2i_meanr")
RECALL_METRICS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10")
METRICS = (*I2T_METRICS, *T2I_METRICS, "rsum")


def recall_metrics(found: Ranks) -> dict[str, float]:
    """Recalls and ranks of both directions.

    `r1`, `r5` and `r10` are the percentage of queries whose right item is among the first 1, 5, 10. `medr` and `meanr`
    count from 1 as VSE++'s evaluation code does: `floor(median(rank)) + 1` and `mean(rank) + 1`. `rsum` is the
    sum of the six recalls.

    Args:
        found: 0-based ranks; an `i2t` of -1 (an image without captions) is no query.

    Returns:
        A value for each of `METRICS`, in that order.

    Raises:
        ValueError: a direction has no query.

    Example:
        >>> recall_metrics(Ranks(i2t=np.array([0, 7]), t2i=np.array([0, 0, 3, 12])))["t2i_r5"]
        75.0
    """
    metrics: dict[str, float] = {}
    for direction, rank in (("i2t", np.asarray(found.i2t)), ("t2i", np.asarray(found.t2i))):
        queries = rank[rank >= 0]
        if not queries.size:
            raise ValueError(f"{direction}: no query to measure: no image has a caption")
        for k in RECALLS_AT:
            metrics[f"{direction}_r{k}"] = 100.0 * int(np.count_nonzero(queries < k)) / queries.size
        metrics[f"{direction}_medr"] = float(math.floor(np.median(queries)) + 1)
        metrics[f"{direction}_meanr"] = int(queries.sum()) / queries.size + 1.0
    return with_rsum(metrics)


def fold_ranks(
    image: ArrayLike, text: ArrayLike, image_id: ArrayLike, folds: int = 1, block_bytes: int = BLOCK_BYTES
) -> Ranks:
    """The ranks of each query within its own part of the gallery.

    Args:
        image: image embeddings `(N, d)`, float32.
        text: caption embeddings `(M, d)`, float32.
        image_id: the row in `image` of each caption's image `(M,)`, in any order.
        folds: number of equal, consecutive parts; 1 is the complete gallery.
        block_bytes: see `vse_tf.evaluation.ranking.ranks`.

    Raises:
        UserError: the gallery cannot be cut into equal parts of this number.
        NonFiniteError: an embedding is not finite; the row is that of the complete gallery.
        ValueError: shapes do not fit.

    Example:
        >>> image = np.eye(4, dtype="float32")
        >>> fold_ranks(image, image[[0, 1, 3, 2]], range(4), folds=2)
        Ranks(i2t=array([0, 0, 1, 1]), t2i=array([0, 0, 1, 1]))
    """
    if folds == 1:
        return ranks(image, text, image_id, block_bytes)
    image, text = np.asarray(image, dtype=np.float32), np.asarray(text, dtype=np.float32)
    rows = np.asarray(image_id)
    size = fold_size(len(image), folds)
    if rows.shape != (len(text),):
        raise ValueError(f"image_id has shape {rows.shape}; expected one image row for each of {len(text)} captions")
    if rows.size and not 0 <= rows.min() <= rows.max() < len(image):
        raise ValueError(f"image_id spans {rows.min()} to {rows.max()}; there are {len(image)} images")
    check_finite("image", image)
    check_finite("text", text)
    every = Ranks(np.zeros(len(image), np.int64), np.zeros(len(text), np.int64))
    for start in range(0, len(image), size):
        own = np.flatnonzero((rows >= start) & (rows < start + size))
        if not own.size:
            raise UserError(f"images {start} to {start + size - 1} have no caption: use fewer folds than {folds}")
        found = ranks(image[start : start + size], text[own], rows[own] - start, block_bytes)
        every.i2t[start : start + size], every.t2i[own] = found
    return every


def rank_metrics(found: Ranks, image_id: ArrayLike, folds: int = 1) -> dict[str, float]:
    """Mean of the metrics over equal, consecutive parts of the gallery.

    Args:
        found: the ranks of each query within its own part, see `fold_ranks`.
        image_id: the image of each caption `(M,)`.
        folds: number of parts.

    Returns:
        A value for each of `METRICS`, the medians averaged like the rest.

    Raises:
        ValueError: no image has a caption.

    Example:
        >>> rank_metrics(Ranks(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])), range(4), folds=2)["t2i_r1"]
        50.0
    """
    fold = np.asarray(image_id) // fold_size(len(found.i2t), folds)
    parts = np.split(found.i2t, folds)
    every = [recall_metrics(Ranks(part, found.t2i[fold == number])) for number, part in enumerate(parts)]
    return with_rsum({name: math.fsum(one[name] for one in every) / folds for name in METRICS[:-1]})


def fold_metrics(
    image: ArrayLike, text: ArrayLike, image_id: ArrayLike, folds: int, block_bytes: int = BLOCK_BYTES
) -> dict[str, float]:
    """Mean of the metrics over equal, consecutive parts of the gallery (COCO 1K: five folds of 1,000 test images).

    Args:
        image: image embeddings `(N, d)`, float32.
        text: caption embeddings `(M, d)`, float32.
        image_id: the row in `image` of each caption's image `(M,)`, in any order.
        folds: number of parts; it divides `N`.
        block_bytes: see `vse_tf.evaluation.ranking.ranks`.

    Returns:
        A value for each of `METRICS`, the medians averaged like the rest.

    Raises:
        UserError: the gallery cannot be cut into equal parts of this number.
        NonFiniteError: an embedding is not finite; the row is that of the complete gallery.
        ValueError: shapes do not fit.

    Example:
        >>> image = np.eye(4, dtype="float32")
        >>> fold_metrics(image, image[[0, 1, 3, 2]], range(4), folds=2)["t2i_r1"]
        50.0
    """
    return rank_metrics(fold_ranks(image, text, image_id, folds, block_bytes), image_id, folds)


def recalls(
    image: ArrayLike, text: ArrayLike, image_id: ArrayLike, folds: int = 1, block_bytes: int = BLOCK_BYTES
) -> dict[str, float]:
    """Recalls and ranks of a gallery's embeddings, in both directions.

    Args:
        image: image embeddings `(N, d)`, float32.
        text: caption embeddings `(M, d)`, float32.
        image_id: the row in `image` of each caption's image `(M,)`, in any order; any number of captions per image.
        folds: 1 measures the complete gallery; more take the mean over this number of parts (see `fold_metrics`).
        block_bytes: see `vse_tf.evaluation.ranking.ranks`.

    Returns:
        A value for each of `METRICS`.

    Raises:
        UserError: the gallery cannot be cut into equal parts of this number.
        NonFiniteError: an embedding is not finite; no score is computed.
        ValueError: shapes do not fit, or no image has a caption.

    Example:
        >>> image = np.eye(3, dtype="float32")
        >>> recalls(image, image[[0, 2, 1]], [0, 2, 2])["t2i_r1"]
        66.66666666666667
    """
    return fold_metrics(image, text, image_id, folds, block_bytes)


@dataclass(frozen=True)
class Measured:
    """A split's embeddings, and how they rank.

    Args:
        encoded: the embeddings.
        ranks: of each query, within its own fold.
        folds: number of parts of the gallery.
    """

    encoded: EncodedSplit
    ranks: Ranks
    folds: int = 1

    @cached_property
    def metrics(self) -> dict[str, float]:
        """A value for each of `METRICS`."""
        return rank_metrics(self.ranks, self.encoded.image_id, self.folds)


def measure(encoded: EncodedSplit, folds: int = 1) -> Measured:
    """Rank an encoded split, with an error that says what a diverged model needs.

    Args:
        encoded: the embeddings.
        folds: see `recalls`; 5 for COCO 1K.

    Raises:
        UserError: an embedding is not finite, or the gallery cannot be cut into equal folds.

    Example:
        measure(embedder.encode_split(split, bad)).metrics["rsum"]
    """
    try:
        found = fold_ranks(encoded.image, encoded.text, encoded.image_id, folds)
    except NonFiniteError as error:
        raise UserError(f"{error}; the model has diverged: train with a lower --train.learning_rate") from None
    return Measured(encoded, found, folds)


def measure_both(embedder: Embedder, encoded: EncodedSplit, folds: int = 1) -> dict[str, Measured]:
    """`measure` of a split without and, where the model has it, with the hubness correction.

    Args:
        embedder: the model.
        encoded: the plain embeddings.
        folds: see `recalls`.

    Returns:
        Under `metrics`, and under `metrics_corrected` where there is a correction.

    Raises:
        UserError: see `measure`.

    Example:
        measure_both(embedder, embedder.encode_split(split, bad))["metrics"].metrics["rsum"]
    """
    every = {"metrics": encoded} | ({"metrics_corrected": embedder.corrected(encoded)} if embedder.corrections else {})
    return {name: measure(each, folds) for name, each in every.items()}


def fold_size(images: int, folds: int) -> int:
    """Number of images in each of equal folds.

    Raises:
        UserError: `folds` is below 1 or does not divide the number of images; the message names the nearest sizes.
    """
    if folds < 1:
        raise UserError(f"folds is {folds}; it must be 1 or more")
    size, rest = divmod(images, folds)
    if rest or not size:
        nearest = [str(n) for n in (size * folds, (size + 1) * folds) if n]
        raise UserError(
            f"{images} images cannot be cut into {folds} equal folds: use another number of folds, or a gallery of "
            f"{' or '.join(nearest)} images"
        )
    return size


def with_rsum(metrics: dict[str, float]) -> dict[str, float]:
    """Metrics, and the sum of their six recalls."""
    return {**metrics, "rsum": math.fsum(metrics[name] for name in RECALL_METRICS)}
