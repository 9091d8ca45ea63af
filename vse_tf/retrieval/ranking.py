"""Ranks by counting, in blocks: exact, whatever the block size and the BLAS; see `products`. Pure NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vse_tf.retrieval.products import (
    BLOCK_BYTES,
    UNIT,
    Doubles,
    Floats,
    Ints,
    above,
    as_embeddings,
    below,
    blocks,
    check_overflow,
    check_width,
    norms,
    pair_dots,
    product,
    proven_error,
    slices,
)

_STRIP = 128 * 1024  # scores compared at a time: what stays in the processor's cache
_THREADS = 2  # that compare scores; the product brings its own
_TASKS = 4  # of a block
_NO_QUERY = -1


class Ranks(NamedTuple):
    """0-based ranks: how many wrong items score at least as high as the right one.

    Args:
        i2t: `(N,)` int64, rank of each image's best-ranked own caption; -1 for an image without captions (no query).
        t2i: `(M,)` int64, rank of each caption's image.
    """

    i2t: Ints
    t2i: Ints


def ranks(image: ArrayLike, text: ArrayLike, text_rows: ArrayLike, block_bytes: int = BLOCK_BYTES) -> Ranks:
    """Rank every image's captions and every caption's image by counting, in blocks.

    An image's rank is the number of *other images'* captions that score at least as high as the best of its own; its
    other own captions never count against it. A caption's rank is the number of other images that score at least as
    high as its own. Ties count against the model, so a collapsed one (all scores equal) scores nothing. An image
    without captions asks no question (its `i2t` is -1) but stays in the gallery for every caption.

    Both directions come from one matrix product per block. The memory in use beyond the two matrices is about
    twice `block_bytes` plus 10 MB. The cost is that of the product plus at most about a third; scores that are nearly
    all equal cost another product in float64.

    Args:
        image: image embeddings `(N, d)`, float32.
        text: caption embeddings `(M, d)`, float32.
        text_rows: the image row of each caption `(M,)`, in any order; any number of captions an image.
        block_bytes: size of a block of scores in bytes. It changes speed and memory, not the result.

    Returns:
        The ranks of both directions.

    Raises:
        NonFiniteError: an embedding is not finite; raised before any score is computed.
        ValueError: shapes do not fit, or a caption names an image that is not there.

    Example:
        >>> image = np.eye(3, dtype="float32")
        >>> ranks(image, image[[0, 2, 1]], [0, 2, 2])
        Ranks(i2t=array([0, -1, 0]), t2i=array([0, 0, 2]))
    """
    image, text = as_embeddings(image, "image"), as_embeddings(text, "text")
    rows = _checked_rows(image, text, text_rows)
    image_norm, text_norm = norms("image", image), norms("text", text)
    check_overflow("image", image_norm, text_norm)
    n, m = len(image), len(text)
    right = pair_dots(image, text, rows, np.arange(m))
    best = np.full(n, -np.inf)
    np.maximum.at(best, rows, right)

    error = _product_error(image, text, rows, right, image_norm, text_norm)
    i2t = _Side(best, error * image_norm * text_norm.max(initial=0.0), image.shape[1])
    t2i = _Side(right, error * text_norm * image_norm.max(initial=0.0), image.shape[1])
    counts = Ranks(np.zeros(n, np.int64), np.zeros(m, np.int64))

    def count(scores: Floats, r: slice, c: slice) -> tuple[slice, slice, Ints, Ints]:
        width = scores.shape[1]
        of_images, of_texts = np.zeros(len(scores), np.int64), np.zeros(width, np.int64)
        near_images, near_texts = [], []
        for part in slices(len(scores), _STRIP // width):
            strip, first = scores[part], part.start * width
            of_images[part], near = i2t.reached(strip, slice(r.start + part.start, r.start + part.stop), axis=1)
            near_images.append(first + near)
            reached, near = t2i.reached(strip, c, axis=0)
            of_texts += reached
            near_texts.append(first + near)
        exact = _Exact(image[r], text[c])
        near = np.concatenate(near_images)
        i2t.correct(of_images, near, near // width, r, exact)
        near = np.concatenate(near_texts)
        t2i.correct(of_texts, near, near % width, c, exact)
        return r, c, of_images, of_texts

    def add(found: Iterable[tuple[slice, slice, Ints, Ints]]) -> None:
        for r, c, of_images, of_texts in found:
            counts.i2t[r] += of_images
            counts.t2i[c] += of_texts

    with ThreadPoolExecutor(_THREADS) as pool:
        # One block is counted while the next one is multiplied: the threads of a BLAS go on spinning behind a product,
        # and would take a core each from threads that only count.
        counting: Iterable[tuple[slice, slice, Ints, Ints]] = ()
        for r, c, scores in blocks(image, text, block_bytes, buffers=2):
            own = np.flatnonzero((rows[c] >= r.start) & (rows[c] < r.stop))
            scores[rows[c][own] - r.start, own] = -np.inf  # neither direction counts a right pair
            add(counting)
            parts = list(slices(len(scores), -(-len(scores) // _TASKS)))
            images = [slice(r.start + part.start, r.start + part.stop) for part in parts]
            counting = pool.map(count, [scores[part] for part in parts], images, [c] * len(parts))
        add(counting)
    counts.i2t[np.isneginf(best)] = _NO_QUERY
    return counts


class _Side:
    """The counts of one direction.

    Args:
        right: float64 score of each query's right item (-inf: no query).
        slack: largest distance of a product from its score, per query.
        dim: width of the embeddings.
    """

    def __init__(self, right: Doubles, slack: Doubles, dim: int) -> None:
        right = np.where(np.isneginf(right), np.inf, right)  # no score reaches that of no query
        self.right = right
        self.low = below(right - slack)
        self.high = above(right + slack)
        # Two float64 dot products of equal pairs may differ by their own rounding and be rounded apart.
        self.slack64 = slack * (2.0**-28 * dim)

    def reached(self, strip: Floats, queries: slice, axis: int) -> tuple[Ints, Ints]:
        """How many scores of a strip may reach each query's right one, and the flat positions of those too near to say.

        Queries are its rows (axis 1) or columns (0).
        """
        line = np.s_[:, None] if axis else np.s_[None, :]
        reached = strip >= self.low[queries][line]
        ones = reached.view(np.uint8)
        counts = _row_sums(ones) if axis else _column_sums(ones)
        return counts, np.flatnonzero(reached ^ (strip > self.high[queries][line]))

    def correct(self, counts: Ints, near: Ints, query: Ints, queries: slice, exact: Callable[[Ints], Doubles]) -> None:
        """Take those of the near scores out of the counts that do not reach the right one."""
        if near.size:
            score, right = exact(near), self.right[queries][query]
            lost = (score.astype(np.float32) < right.astype(np.float32)) & (
                score < right - self.slack64[queries][query]
            )
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
        # A pair alone costs as much as about forty in a float64 product: where most are needed, take the product.
        if self.full is None and flat.size * 40 > height * width:
            self.full = np.empty((height, width))
            image = self.image.astype(np.float64)
            for part in slices(width, 2**18 // max(1, self.text.shape[1])):
                self.full[:, part] = image @ self.text[part].astype(np.float64).T
        if self.full is not None:
            return self.full.reshape(-1)[flat]
        return pair_dots(self.image, self.text, flat // width, flat % width)


def _checked_rows(image: Floats, text: Floats, text_rows: ArrayLike) -> Ints:
    check_width(image, text)
    rows = np.asarray(text_rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"text_rows are {rows.dtype}; expected integers")
    if rows.shape != (len(text),):
        raise ValueError(f"text_rows have shape {rows.shape}; expected one image row for each of {len(text)} captions")
    wrong = np.flatnonzero((rows < 0) | (rows >= len(image)))
    if wrong.size:
        raise ValueError(f"caption {wrong[0]} names image row {rows[wrong[0]]}; there are {len(image)} images")
    return rows.astype(np.int64)


def _product_error(
    image: Floats, text: Floats, rows: Ints, right: Doubles, image_norm: Doubles, text_norm: Doubles
) -> float:
    """Bound on the relative error of the product, as tight as this BLAS and these embeddings allow.

    Rounding errors that do not conspire grow with the root of the dimensions (Higham and Mary 2019, SIAM J. Sci.
    Comput. 41(5), equation 3.1 with lambda = 4). They do conspire where the values are alike, as in a collapsed model;
    the error seen on a sample of right pairs shows that, and the proven bound is used instead.
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
    # As below.
    parts = np.add.reduceat(ones, np.arange(0, ones.shape[1], 255), axis=1, dtype=np.uint8)
    return parts.sum(axis=1, dtype=np.int64)


def _column_sums(ones: NDArray[np.uint8]) -> Ints:
    sums = np.zeros(ones.shape[1], np.int64)
    for part in slices(len(ones), 255):  # as many as a byte holds: adding bytes is quick
        sums += np.add.reduce(ones[part], axis=0, dtype=np.uint8)
    return sums
