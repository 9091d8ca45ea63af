"""Ranks by counting, in blocks: exact, whatever the block size and the BLAS; see `similarity`. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vse_tf.evaluation.similarity import (
    BLOCK_BYTES,
    UNIT,
    Doubles,
    Floats,
    Ints,
    above,
    as_embeddings,
    below,
    block_memory,
    block_slices,
    check_overflow,
    check_width,
    norms,
    own_threads,
    pair_dots,
    product,
    product_into,
    proven_error,
    slices,
)

_STRIP = 128 * 1024  # scores compared at a time: they stay in the processor's cache
_NO_QUERY = -1
_NONE = np.zeros(0, np.int64)


class Ranks(NamedTuple):
    """0-based ranks: how many wrong items score at least as high as the right one.

    Attributes:
        i2t: `(N,)` int64, rank of each image's best-ranked own caption; -1 for an image without captions (no query).
        t2i: `(M,)` int64, rank of each caption's image.
    """

    i2t: Ints
    t2i: Ints


def ranks(image: ArrayLike, text: ArrayLike, image_id: ArrayLike, block_bytes: int = BLOCK_BYTES) -> Ranks:
    """Rank every image's captions and every caption's image by counting, in blocks.

    An image's rank is the number of *other images'* captions that score at least as high as the best of its own; its
    other own captions never count against it. A caption's rank is the number of other images that score at least as
    high as its own. Ties count against the model, so a collapsed one (all scores equal) scores nothing. An image
    without captions is no query (its `i2t` is -1) but stays in the gallery for every caption.

    Both directions come from one matrix product per block; blocks are computed in parallel, one on each of the threads
    that the BLAS would use. Memory beyond the two matrices is about twice `block_bytes` per thread. The cost is that
    of the product plus about a fifth. Scores that are nearly all equal cost another product in float64, and three times
    the memory.

    Args:
        image: image embeddings `(N, d)`, float32.
        text: caption embeddings `(M, d)`, float32.
        image_id: the row in `image` of each caption's image `(M,)`, in any order; any number of captions per image.
        block_bytes: size of a block of scores in bytes. It changes speed and memory, not the result.

    Returns:
        The ranks of both directions.

    Raises:
        NonFiniteError: an embedding is not finite; raised before any score is computed.
        ValueError: shapes do not fit, or a caption names an image that is not there.

    Example:
        >>> image = np.eye(3, dtype="float32")
        >>> ranks(image, image[[0, 2, 1]], [0, 2, 2])
        Ranks(i2t=array([ 0, -1,  0]), t2i=array([0, 0, 2]))
    """
    image, text = as_embeddings(image, "image"), as_embeddings(text, "text")
    rows = _checked_rows(image, text, image_id)
    image_norm, text_norm = norms("image", image), norms("text", text)
    check_overflow("image", image_norm, text_norm)
    n, m = len(image), len(text)
    right = pair_dots(image, text, rows, np.arange(m))
    best = np.full(n, -np.inf)
    np.maximum.at(best, rows, right)
    error = _product_error(image, text, rows, right, image_norm, text_norm)
    i2t = _Side.from_scores(best, error * image_norm * text_norm.max(initial=0.0), image.shape[1])
    t2i = _Side.from_scores(right, error * text_norm * image_norm.max(initial=0.0), image.shape[1])
    with own_threads() as threads, ThreadPoolExecutor(threads) as pool:
        memory = [block_memory(block_bytes) for _ in range(threads)]

        def count(block: tuple[slice, slice]) -> Ranks:
            scratch = memory.pop()
            r, c = block
            scores = product_into(scratch, image[r], text[c])
            own = np.flatnonzero((rows[c] >= r.start) & (rows[c] < r.stop))
            scores[rows[c][own] - r.start, own] = -np.inf  # neither direction counts a right pair
            found = _counts(scores, _Exact(image[r], text[c]), i2t.of(r), t2i.of(c))
            memory.append(scratch)
            return found

        counts = Ranks(np.zeros(n, np.int64), np.zeros(m, np.int64))
        parts = block_slices(n, m, block_bytes)
        for (r, c), found in zip(parts, pool.map(count, parts), strict=True):
            counts.i2t[r] += found.i2t
            counts.t2i[c] += found.t2i
    counts.i2t[np.isneginf(best)] = _NO_QUERY
    return counts


def _counts(scores: Floats, exact: _Exact, i2t: _Side, t2i: _Side) -> Ranks:
    """Number of scores of a block that reach the right one of its images (rows) and of its captions (columns)."""
    height, width = scores.shape
    of_images, of_texts = np.zeros(height, np.int64), np.zeros(width, np.int64)
    near_images, near_texts = [_NONE], [_NONE]

    def correct_close() -> None:
        near = np.concatenate(near_images)
        i2t.correct(of_images, near, near // width, exact)
        near = np.concatenate(near_texts)
        t2i.correct(of_texts, near, near % width, exact)
        near_images[1:], near_texts[1:] = [], []

    for part in slices(height, _STRIP // width):
        first = part.start * width
        of_images[part], near = i2t.of(part).reached(scores[part], axis=1)
        near_images.append(first + near)
        reached, near = t2i.reached(scores[part], axis=0)
        of_texts += reached
        near_texts.append(first + near)
        if sum(map(len, near_images + near_texts)) > _STRIP:  # usually there are few, and one call is enough
            correct_close()
    correct_close()
    return Ranks(of_images, of_texts)


class _Side(NamedTuple):
    """Thresholds of the queries of one direction.

    Args:
        right: float64 score of each query's right item (no query: infinite, which no score reaches).
        low: a score may reach the right one if its float32 product is at least this.
        high: a score reaches the right one if its float32 product is above this.
        slack64: largest difference of the float64 scores of equal pairs, from rounding.
    """

    right: Doubles
    low: Floats
    high: Floats
    slack64: Doubles

    @classmethod
    def from_scores(cls, right: Doubles, slack: Doubles, dim: int) -> _Side:
        """From the right scores (-inf: no query) and the largest distance of a product from its score, per query."""
        right = np.where(np.isneginf(right), np.inf, right)
        return cls(right, below(right - slack), above(right + slack), slack * (2.0**-28 * dim))

    def of(self, queries: slice) -> _Side:
        return _Side(self.right[queries], self.low[queries], self.high[queries], self.slack64[queries])

    def reached(self, strip: Floats, axis: int) -> tuple[Ints, Ints]:
        """Number of scores of a strip that may reach each query's right one, and flat positions of the uncertain ones.

        Queries are rows (axis 1) or columns (0).
        """
        line = np.s_[:, None] if axis else np.s_[None, :]
        reached = strip >= self.low[line]
        ones = reached.view(np.uint8)
        counts = _row_sums(ones) if axis else _column_sums(ones)
        return counts, np.flatnonzero(reached ^ (strip > self.high[line]))

    def correct(self, counts: Ints, near: Ints, query: Ints, exact: Callable[[Ints], Doubles]) -> None:
        """Remove from the counts the close scores that do not reach the right one."""
        if near.size:
            score, right = exact(near), self.right[query]
            lost = (score.astype(np.float32) < right.astype(np.float32)) & (score < right - self.slack64[query])
            np.subtract.at(counts, query[lost], 1)


class _Exact:
    """float64 scores of chosen pairs of a block.

    Args:
        image: the block's image embeddings.
        text: the block's caption embeddings.
    """

    def __init__(self, image: Floats, text: Floats) -> None:
        self.image, self.text = image, text
        self.full: Doubles | None = None

    def __call__(self, flat: Ints) -> Doubles:
        """The scores at these flat positions of the block."""
        height, width = len(self.image), len(self.text)
        # A single pair costs about as much as forty in a float64 product: if many are needed, compute the product.
        if self.full is None and flat.size * 40 > height * width:
            self.full = np.empty((height, width))
            image = self.image.astype(np.float64)
            for part in slices(width, 2**18 // max(1, self.text.shape[1])):
                self.full[:, part] = image @ self.text[part].astype(np.float64).T
        if self.full is not None:
            return self.full.reshape(-1)[flat]
        return pair_dots(self.image, self.text, flat // width, flat % width)


def _checked_rows(image: Floats, text: Floats, image_id: ArrayLike) -> Ints:
    check_width(image, text)
    rows = np.asarray(image_id)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"image_id is {rows.dtype}; expected integers")
    if rows.shape != (len(text),):
        raise ValueError(f"image_id has shape {rows.shape}; expected one image row for each of {len(text)} captions")
    wrong = np.flatnonzero((rows < 0) | (rows >= len(image)))
    if wrong.size:
        raise ValueError(f"caption {wrong[0]} names image row {rows[wrong[0]]}; there are {len(image)} images")
    return rows.astype(np.int64)


def _product_error(
    image: Floats, text: Floats, rows: Ints, right: Doubles, image_norm: Doubles, text_norm: Doubles
) -> float:
    """Bound on the relative error of the product, as tight as this BLAS and these embeddings allow.

    Rounding errors that do not conspire grow with the root of the dimensions (Higham and Mary 2019, SIAM J. Sci.
    Comput. 41(5), equation 3.1 with lambda = 4). They do conspire if the values are alike, as in a collapsed model;
    then the error on a sample of right pairs shows it, and the proven bound is used.
    """
    dim = image.shape[1]
    proven, likely = proven_error(dim), (4 * math.sqrt(dim) + 2) * UNIT
    if likely >= proven or not len(text):
        return proven
    sample = np.linspace(0, len(text) - 1, min(len(text), 512)).astype(np.int64)
    seen = np.diagonal(product(image[rows[sample]], text[sample]))
    lengths = np.maximum(image_norm[rows[sample]] * text_norm[sample], np.finfo(np.float32).tiny)
    worst = float(np.max(np.abs(seen - right[sample]) / lengths))
    return likely if 4 * worst <= likely else proven


def _row_sums(ones: NDArray[np.uint8]) -> Ints:
    # In bytes, as `_column_sums`.
    parts = np.add.reduceat(ones, np.arange(0, ones.shape[1], 255), axis=1, dtype=np.uint8)
    sums: Ints = parts.sum(axis=1, dtype=np.int64)
    return sums


def _column_sums(ones: NDArray[np.uint8]) -> Ints:
    sums = np.zeros(ones.shape[1], np.int64)
    for part in slices(len(ones), 255):  # the largest number of ones that fits a byte: adding bytes is fast
        sums += np.add.reduce(ones[part], axis=0, dtype=np.uint8)
    return sums
