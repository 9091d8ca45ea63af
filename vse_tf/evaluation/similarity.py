"""Blockwise float32 products of embeddings, and what makes their scores exact. NumPy only.

The score of a pair is the dot product of its two float32 embeddings, correctly rounded to float32. A BLAS product is
not that number: OpenBLAS' Haswell and Zen kernels give identical pairs different float32 values within one matrix
product, depending on their position in it, so comparing raw products breaks true ties and gives a collapsed model
recalls above zero. The product is therefore only a filter. It decides pairs that are further from the threshold than
its rounding error; the few others are computed in float64. Results do not depend on the block size or the BLAS.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

BLOCK_BYTES = 8 * 2**20
UNIT = 2.0**-24
"""Relative error of one float32 rounding."""

_MOST_THREADS = 16  # more threads would wait for one another in Python, and each needs a block
_ONE_LIMIT = threading.Lock()
_PAIRS = 32  # pairs multiplied in float64 at a time: they stay in the processor's cache


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
        vse_tf.evaluation.similarity.NonFiniteError: text embedding in row 1 is not finite: no score was computed
    """
    norms(side, as_embeddings(embeddings, side))


def as_embeddings(values: ArrayLike, side: str) -> Floats:
    array = np.asarray(values, dtype=np.float32)
    if array.ndim != 2:
        raise ValueError(f"{side} embeddings have shape {array.shape}; expected (rows, dimensions)")
    return array


def check_width(first: Floats, second: Floats) -> None:
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"embeddings of {first.shape[1]} and {second.shape[1]} dimensions do not share a space")


def norms(side: str, values: Floats) -> Doubles:
    """Length of every row, a little rounded up. A row that is not finite is an error."""
    squares = np.einsum("ij,ij->i", values, values).astype(np.float64)
    # Squares outside this range may have left float32; in float64 no finite float32 row does.
    for row in np.flatnonzero(~((squares > 1e-30) & (squares < 1e30))):
        squares[row] = np.sum(values[row].astype(np.float64) ** 2)
        if not np.isfinite(squares[row]):
            raise NonFiniteError(side, int(row))
    lengths: Doubles = np.sqrt(squares) * (1 + 2 * values.shape[1] * UNIT)
    return lengths


def check_overflow(side: str, first: Doubles, second: Doubles) -> None:
    # By Cauchy-Schwarz no partial sum of a dot product exceeds the product of the lengths.
    bad = np.flatnonzero(first * second.max(initial=0.0) > float(np.finfo(np.float32).max) / 4)
    if bad.size:
        raise NonFiniteError(side, int(bad[0]), f"is too large ({first[bad[0]]:.3g} long) to score in float32")


def pair_dots(first: Floats, second: Floats, rows: Ints, columns: Ints) -> Doubles:
    """float64 dot products of chosen pairs; each depends on its two vectors only, not on their positions."""
    dots = np.empty(len(rows))
    for part in slices(len(rows), _PAIRS):
        product = first[rows[part]].astype(np.float64)
        product *= second[columns[part]]
        dots[part] = product.sum(axis=1)
    return dots


def proven_error(dim: int) -> float:
    """Bound on |float32 dot product - exact| / (product of lengths), any order of summation, final rounding included.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
    """
    return (dim + 2) * UNIT / max(0.5, 1 - dim * UNIT)


def below(values: Doubles) -> Floats:
    """float32 numbers that are certainly below these."""
    lower: Floats = np.nextafter(values.astype(np.float32) - np.finfo(np.float32).tiny, np.float32(-np.inf))
    return lower


def above(values: Doubles) -> Floats:
    """float32 numbers that are certainly above these."""
    upper: Floats = np.nextafter(values.astype(np.float32) + np.finfo(np.float32).tiny, np.float32(np.inf))
    return upper


def product(first: Floats, second: Floats, out: Floats | None = None) -> Floats:
    return np.matmul(first, second.T, out=out)


def product_into(memory: Floats, first: Floats, second: Floats) -> Floats:
    shape = (len(first), len(second))
    return product(first, second, memory[: math.prod(shape)].reshape(shape))


@contextmanager
def own_threads() -> Iterator[int]:
    """Limit the BLAS to one thread per product; yields the number of threads that it would have used.

    This number of products can then run in parallel, and each thread uses its scores while they are in the cache. The
    threads of a BLAS would all wait for the slowest one, and keep spinning after a product.
    """
    blas = ThreadpoolController().select(user_api="blas")
    # The limit is process-wide: a second caller would find, and restore, the limit of the first.
    with _ONE_LIMIT:
        threads = max((library["num_threads"] for library in blas.info()), default=2)
        with blas.limit(limits=1):
            yield min(_MOST_THREADS, threads)


def block_slices(n: int, m: int, block_bytes: int) -> list[tuple[slice, slice]]:
    """Row range and column range of every block of an `(n, m)` product, none above `block_bytes`."""
    if not n or not m:
        return []
    cells = _cells(block_bytes)
    height = _even(n, max(math.isqrt(cells), cells // m))
    width = _even(m, cells // height)
    return [(rows, columns) for columns, rows in itertools.product(slices(m, width), list(slices(n, height)))]


def block_memory(block_bytes: int) -> Floats:
    return np.empty(_cells(block_bytes), np.float32)


def blocks(first: Floats, second: Floats, block_bytes: int) -> Iterator[tuple[slice, slice, Floats]]:
    """Row range, column range and float32 product of every block; each is valid until the next one is made."""
    # No more than is needed: the system zeroes a large allocation in huge pages, at its first use.
    memory = block_memory(min(block_bytes, 4 * len(first) * len(second)))
    for rows, columns in block_slices(len(first), len(second), block_bytes):
        yield rows, columns, product_into(memory, first[rows], second[columns])


def slices(total: int, size: int) -> Iterator[slice]:
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _cells(block_bytes: int) -> int:
    return max(1, block_bytes // 4)


def _even(total: int, most: int) -> int:
    """Size of the parts when `total` is cut into the fewest parts of nearly equal size, none above `most`."""
    most = max(1, min(most, total))
    return -(-total // -(-total // most))
