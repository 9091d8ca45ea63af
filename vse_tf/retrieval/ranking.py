"""Ranks and nearest neighbours by blockwise products. Pure NumPy.

The score of a pair is the dot product of its two float32 embeddings, correctly rounded to float32. A BLAS product is
not that number: OpenBLAS' Haswell and Zen kernels give identical pairs different float32 values within one matrix
product, depending on where they stand in it, so comparing raw products breaks true ties and lets a collapsed model
score. The product is therefore only a filter. Pairs that lie further from the threshold than its rounding error are
decided by it; the few others are computed in float64. Results do not depend on the block size or the BLAS.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_BYTES = 16 * 2**20
_UNIT = 2.0**-24  # relative error of one float32 rounding
_STRIP = 512 * 1024  # scores compared at a time
_PAIRS = 32  # pairs multiplied in float64 at a time: what stays in the processor's cache
_THREADS = 2  # that compare scores; the product brings its own
_NO_QUERY = -1


class NonFiniteError(ValueError):
    """An embedding is NaN or infinite, or so large that scores overflow float32.

    Args:
        side: which matrix: `image`, `text`, `query` or `gallery`.
        row: its first bad row.
        what: what is wrong with that row.
    """

    def __init__(self, side: str, row: int, what: str = "is not finite") -> None:
        super().__init__(f"{side} embedding in row {row} {what}: no score was computed")
        self.side = side
        self.row = row
        self.what = what

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, int, str]]:
        return type(self), (self.side, self.row, self.what)


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
    twice `block_bytes` plus 10 MB. The cost is that of the product plus about a third; scores that are nearly all equal
    cost another product in float64.

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
    image, text = _embeddings(image, "image"), _embeddings(text, "text")
    rows = _checked_rows(image, text, text_rows)
    image_norm, text_norm = _norms("image", image), _norms("text", text)
    _check_overflow("image", image_norm, text_norm)
    n, m = len(image), len(text)
    right = _pair_dots(image, text, rows, np.arange(m))
    best = np.full(n, -np.inf)
    np.maximum.at(best, rows, right)

    error = _product_error(image, text, rows, right, image_norm, text_norm)
    i2t = _Side(best, error * image_norm * text_norm.max(initial=0.0), image.shape[1])
    t2i = _Side(right, error * text_norm * image_norm.max(initial=0.0), image.shape[1])
    counts = Ranks(np.zeros(n, np.int64), np.zeros(m, np.int64))

    def count(scores: Floats, r: slice, c: slice) -> tuple[slice, slice, Ints, Ints]:
        exact = _Exact(image[r], text[c])
        return r, c, i2t.count(scores, r, exact, axis=1), t2i.count(scores, c, exact, axis=0)

    def add(found: Iterable[tuple[slice, slice, Ints, Ints]]) -> None:
        for r, c, of_images, of_texts in found:
            counts.i2t[r] += of_images
            counts.t2i[c] += of_texts

    with ThreadPoolExecutor(_THREADS) as pool:
        # One block is counted while the next one is multiplied: the threads of a BLAS go on spinning behind a product,
        # and would take a core each from threads that only count.
        counting: Iterable[tuple[slice, slice, Ints, Ints]] = ()
        for r, c, scores in _blocks(image, text, block_bytes, buffers=2):
            own = np.flatnonzero((rows[c] >= r.start) & (rows[c] < r.stop))
            scores[rows[c][own] - r.start, own] = -np.inf  # neither direction counts a right pair
            add(counting)
            parts = list(_slices(len(scores), _STRIP // scores.shape[1]))
            strips = [slice(r.start + part.start, r.start + part.stop) for part in parts]
            counting = pool.map(count, [scores[part] for part in parts], strips, [c] * len(parts))
        add(counting)
    counts.i2t[np.isneginf(best)] = _NO_QUERY
    return counts


def nearest(query: ArrayLike, gallery: ArrayLike, k: int, block_bytes: int = BLOCK_BYTES) -> tuple[Ints, Floats]:
    """The k best-scoring gallery items of every query, best first.

    Scores that are equal in float32 keep the gallery's order (the lower index first). The gallery may be a memory map.

    Args:
        query: embeddings `(q, d)`, float32.
        gallery: embeddings `(N, d)`, float32.
        k: number of items; more than `N` gives all `N`.
        block_bytes: size of a block of scores in bytes. It changes speed and memory, not the result.

    Returns:
        Gallery indices `(q, min(k, N))` int64 and their scores, float32 of the same shape.

    Raises:
        NonFiniteError: an embedding is not finite.
        ValueError: shapes do not fit, or `k` is negative.

    Example:
        >>> nearest(np.float32([[1, 0]]), np.float32([[0, 1], [1, 0], [0.5, 0]]), k=2)
        (array([[1, 2]]), array([[1. , 0.5]], dtype=float32))
    """
    found = Nearest(query, min(k, len(np.asarray(gallery))), block_bytes)
    found.add(gallery)
    return found.result()


class Nearest:
    """The k best-scoring items of every query, over a gallery that comes in parts; `nearest` is its short form.

    Args:
        query: embeddings `(q, d)`, float32.
        k: number of items.
        block_bytes: see `nearest`.

    Raises:
        NonFiniteError: a query is not finite.
        ValueError: `query` has another shape, or `k` is negative.

    Example:
        >>> found = Nearest(query, k=10)
        >>> for shard in shards:
        ...     found.add(shard)
        >>> rows, scores = found.result()
    """

    def __init__(self, query: ArrayLike, k: int, block_bytes: int = BLOCK_BYTES) -> None:
        if k < 0:
            raise ValueError(f"k is {k}; it must not be negative")
        self.query = _embeddings(query, "query")
        self.k = k
        self.block_bytes = block_bytes
        self.count = 0
        self._norm = _norms("query", self.query)
        self._index = np.zeros((len(self.query), k), np.int64)
        self._score = np.full((len(self.query), k), -np.inf, np.float32)

    def add(self, gallery: ArrayLike, unit: bool = False) -> None:
        """Compare with the next part of the gallery; its rows are numbered on from the last part's.

        Args:
            gallery: embeddings `(n, d)`, float32, perhaps a memory map.
            unit: they are known to be of unit length, so their lengths need not be computed.

        Raises:
            NonFiniteError: an embedding is not finite; not noticed where `unit`.
            ValueError: shapes do not fit.
        """
        gallery = _embeddings(gallery, "gallery")
        _check_width(self.query, gallery)
        gallery_norm = np.array([1.01]) if unit else _norms("gallery", gallery)
        _check_overflow("query", self._norm, gallery_norm)
        first, self.count = self.count, self.count + len(gallery)
        if not self.k:
            return
        # No sample of right pairs exists here to show a better error than the proven one; the price is a few more
        # candidates a query.
        slack = _proven_error(gallery.shape[1]) * self._norm * gallery_norm.max(initial=0.0)
        for q, g, block in _blocks(self.query, gallery, self.block_bytes):
            floor = _below(self._score[q, -1].astype(np.float64) - slack[q])
            # Finding a block's k-th best costs as much as its product: a quarter of it gives a floor as well, and only
            # where that one leaves many the whole is looked at.
            for share in (4, 1):
                above = np.count_nonzero(block >= floor[:, None], axis=1)
                many = np.flatnonzero(above > max(128, 8 * self.k))
                if not many.size:
                    break
                part = max(block.shape[1] // share, self.k)
                kth = np.partition(block[many, :part], part - self.k, axis=1)[:, -self.k]
                floor[many] = np.maximum(floor[many], _below(kth - 2 * slack[q][many]))
            for i in np.flatnonzero(block.max(axis=1) >= floor):
                row = q.start + int(i)
                near = g.start + np.flatnonzero(block[i] >= floor[i])
                dots = _pair_dots(self.query, gallery, np.full(len(near), row), near)
                indices = np.concatenate([self._index[row], first + near])
                scores = np.concatenate([self._score[row], dots.astype(np.float32)])
                order = np.lexsort((indices, -scores))[: self.k]  # unfilled places hold -inf: they sort last
                self._index[row], self._score[row] = indices[order], scores[order]

    def result(self) -> tuple[Ints, Floats]:
        """Gallery indices `(q, min(k, count))` int64 and their scores, float32 of the same shape, best first."""
        k = min(self.k, self.count)
        return self._index[:, :k].copy(), self._score[:, :k].copy()


def check_finite(side: str, embeddings: ArrayLike) -> None:
    """Stop on the first row that is NaN or infinite.

    Args:
        side: what the message calls the embeddings, for example `image`.
        embeddings: `(rows, d)`, float32.

    Raises:
        NonFiniteError: there is such a row.

    Example:
        >>> check_finite("text", np.float32([[1, 0], [np.nan, 1]]))
        Traceback (most recent call last):
        vse_tf.retrieval.ranking.NonFiniteError: text embedding in row 1 is not finite: no score was computed
    """
    _norms(side, _embeddings(embeddings, side))


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
        self.low = _below(right - slack)
        self.high = _above(right + slack)
        # Two float64 dot products of equal pairs may differ by their own rounding and be rounded apart.
        self.slack64 = slack * (2.0**-28 * dim)

    def count(self, strip: Floats, queries: slice, exact: _Exact, axis: int) -> Ints:
        """How many scores of a strip reach each query's right one; queries are its rows (axis 1) or columns (0)."""
        line = np.s_[:, None] if axis else np.s_[None, :]
        above = strip >= self.low[queries][line]
        ones = above.view(np.uint8)
        counts = _row_sums(ones) if axis else _column_sums(ones)
        near = np.flatnonzero(above ^ (strip > self.high[queries][line]))
        if near.size:
            query = near // strip.shape[1] if axis else near % strip.shape[1]
            score, right = exact(near), self.right[queries][query]
            lost = (score.astype(np.float32) < right.astype(np.float32)) & (
                score < right - self.slack64[queries][query]
            )
            np.subtract.at(counts, query[lost], 1)
        return counts


class _Exact:
    """float64 scores of chosen pairs of a strip.

    Args:
        image: the strip's image embeddings.
        text: the strip's caption embeddings.
    """

    def __init__(self, image: Floats, text: Floats) -> None:
        self.image, self.text = image, text
        self.full: Doubles | None = None

    def __call__(self, flat: Ints) -> Doubles:
        """The scores at these flat positions of the strip."""
        height, width = len(self.image), len(self.text)
        # A pair alone costs as much as about forty in a float64 product: where most are needed, take the product.
        if self.full is None and flat.size * 40 > height * width:
            self.full = np.empty((height, width))
            image = self.image.astype(np.float64)
            for part in _slices(width, 2**18 // max(1, self.text.shape[1])):
                self.full[:, part] = image @ self.text[part].astype(np.float64).T
        if self.full is not None:
            return self.full.reshape(-1)[flat]
        return _pair_dots(self.image, self.text, flat // width, flat % width)


def _embeddings(values: ArrayLike, side: str) -> Floats:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"{side} embeddings have shape {array.shape}; expected (rows, dimensions)")
    return array


def _check_width(first: Floats, second: Floats) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"embeddings of {first.shape[1]} and {second.shape[1]} dimensions do not share a space")


def _checked_rows(image: Floats, text: Floats, text_rows: ArrayLike) -> Ints:
    _check_width(image, text)
    rows = np.asarray(text_rows)
    if rows.size and not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"text_rows are {rows.dtype}; expected integers")
    if rows.shape != (len(text),):
        raise ValueError(f"text_rows have shape {rows.shape}; expected one image row for each of {len(text)} captions")
    wrong = np.flatnonzero((rows < 0) | (rows >= len(image)))
    if wrong.size:
        raise ValueError(f"caption {wrong[0]} names image row {rows[wrong[0]]}; there are {len(image)} images")
    return rows.astype(np.int64)


def _norms(side: str, values: Floats) -> Doubles:
    """Length of every row, a little rounded up. A row that is not finite is an error."""
    squares = np.einsum("ij,ij->i", values, values).astype(np.float64)
    # Squares outside this range may have left float32; in float64 no finite float32 row does.
    for row in np.flatnonzero(~((squares > 1e-30) & (squares < 1e30))):
        squares[row] = np.sum(values[row].astype(np.float64) ** 2)
        if not np.isfinite(squares[row]):
            raise NonFiniteError(side, int(row))
    return np.sqrt(squares) * (1 + 2 * values.shape[1] * _UNIT)


def _check_overflow(side: str, first: Doubles, second: Doubles) -> None:
    # By Cauchy-Schwarz no partial sum of a dot product exceeds the product of the lengths.
    bad = np.flatnonzero(first * second.max(initial=0.0) > float(np.finfo(np.float32).max) / 4)
    if bad.size:
        raise NonFiniteError(side, int(bad[0]), f"is too large ({first[bad[0]]:.3g} long) to score in float32")


def _pair_dots(first: Floats, second: Floats, rows: Ints, columns: Ints) -> Doubles:
    """float64 dot products of chosen pairs; each depends on its two vectors only, not on where they stand."""
    dots = np.empty(len(rows))
    for part in _slices(len(rows), _PAIRS):
        product = first[rows[part]].astype(np.float64)
        product *= second[columns[part]]
        dots[part] = product.sum(axis=1)
    return dots


def _proven_error(dim: int) -> float:
    """Bound on |float32 dot product - exact| / (product of lengths), any order of summation, final rounding included.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    return (dim + 2) * _UNIT / max(0.5, 1 - dim * _UNIT)


def _product_error(
    image: Floats, text: Floats, rows: Ints, right: Doubles, image_norm: Doubles, text_norm: Doubles
) -> float:
    """Bound on the relative error of the product, as tight as this BLAS and these embeddings allow.

    Rounding errors that do not conspire grow with the root of the dimensions (Higham and Mary 2019, SIAM J. Sci.
    Comput. 41(5), equation 3.1 with lambda = 4). They do conspire where the values are alike, as in a collapsed model;
    the error seen on a sample of right pairs shows that, and the proven bound is used instead.
    """
    dim = image.shape[1]
    proven, likely = _proven_error(dim), (4 * math.sqrt(dim) + 2) * _UNIT
    if likely >= proven or not len(text):
        return proven
    sample = np.linspace(0, len(text) - 1, min(len(text), 512)).astype(np.int64)
    seen = np.diagonal(_product(image[rows[sample]], text[sample]))
    lengths = np.maximum(image_norm[rows[sample]] * text_norm[sample], np.finfo(np.float32).tiny)
    worst = float(np.max(np.abs(seen - right[sample]) / lengths))
    return likely if 4 * worst <= likely else proven


def _below(values: Doubles) -> Floats:
    return np.nextafter(values.astype(np.float32) - np.finfo(np.float32).tiny, np.float32(-np.inf))


def _above(values: Doubles) -> Floats:
    return np.nextafter(values.astype(np.float32) + np.finfo(np.float32).tiny, np.float32(np.inf))


def _row_sums(ones: NDArray[np.uint8]) -> Ints:
    # As below.
    parts = np.add.reduceat(ones, np.arange(0, ones.shape[1], 255), axis=1, dtype=np.uint8)
    return parts.sum(axis=1, dtype=np.int64)


def _column_sums(ones: NDArray[np.uint8]) -> Ints:
    sums = np.zeros(ones.shape[1], np.int64)
    for part in _slices(len(ones), 255):  # as many as a byte holds: adding bytes is quick
        sums += np.add.reduce(ones[part], axis=0, dtype=np.uint8)
    return sums


def _product(first: Floats, second: Floats, out: Floats | None = None) -> Floats:
    return np.matmul(first, second.T, out=out)


def _blocks(first: Floats, second: Floats, block_bytes: int, buffers: int = 1) -> Iterator[tuple[slice, slice, Floats]]:
    """Row range, column range and float32 product of every block; each stays until `buffers` more have been made."""
    n, m = len(first), len(second)
    if not n or not m:
        return
    cells = max(1, block_bytes // 4)
    height = _even(n, max(math.isqrt(cells), cells // m))
    width = _even(m, cells // height)
    memory = np.empty((buffers, height * width), np.float32)
    blocks = itertools.product(_slices(m, width), list(_slices(n, height)))
    for number, (columns, rows) in enumerate(blocks):
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = memory[number % buffers, : shape[0] * shape[1]].reshape(shape)
        yield rows, columns, _product(first[rows], second[columns], out)


def _slices(total: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _even(total: int, most: int) -> int:
    """Size of the parts when `total` is cut into the fewest parts of nearly equal size, none above `most`."""
    most = max(1, min(most, total))
    return -(-total // -(-total // most))
