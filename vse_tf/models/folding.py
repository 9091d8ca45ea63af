"""Folds a hubness correction into unit vectors, so that a dot product is a corrected score. Needs only NumPy.

A hub is an item that is near to everything: an image that comes up for most captions, or a caption for most images.
With S the cosine of an image i and a caption c, and h their hubness (`vse_tf.models.hubness`), the corrected score is

    S'(i, c) = S(i, c) − (h(i) + h(c)) / 2.

It is a dot product of vectors with `EXTRA` further coordinates. With v and t the unit vectors of image and caption:

    image    (2 v, −h(i),  2,  √(1 − h(i)²),  0) / 3
    caption  (2 t,  2, −h(c),  0,  √(1 − h(c)²)) / 3

Both have unit length, and their dot product is 4/9 of S'. A vector depends on its own item alone, not on the gallery.
For two items of one modality no such vectors exist that keep the order of their cosines exactly: their further
coordinates would have to be equal. Their dot product is (4 cos + 4 + cos(θ − θ')) / 9 with sin θ = h, so a difference
of 0.05 in hubness costs as much as 0.0003 of the cosine. A search therefore takes the query's plain coordinates where
its items are of the query's modality (`search_queries`), and ranks by the cosine itself.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Modality = Literal["image", "caption"]

EXTRA = 4
"""Coordinates of the correction, after those of the space."""
SCALE = 2 / 3
"""Length of the plain part of a folded vector."""
_ORDER = {"image": (0, 1, 2, 3), "caption": (1, 0, 3, 2)}


def fold(vectors: Any, hubness: Any, modality: Modality, ops: Any = np) -> Any:
    """Append the correction to unit vectors.

    Args:
        vectors: float32 `(n, dim)`, unit rows.
        hubness: float32 `(n,)`, in −1..1.
        modality: what the vectors are of.
        ops: NumPy, or `keras.ops` for tensors.

    Returns:
        float32 `(n, dim + EXTRA)`, unit rows.

    Example:
        >>> fold(np.float32([[0.6, 0.8]]), np.float32([0.0]), "image").round(3)
        array([[ 0.4  ,  0.533, -0.   ,  0.667,  0.333,  0.   ]], dtype=float32)
    """
    h = ops.reshape(hubness, (-1, 1))
    zeros = ops.zeros_like(h)
    columns = (-h, zeros + 2, ops.sqrt(ops.maximum(1 - h * h, zeros)), zeros)
    further = ops.concatenate([columns[place] for place in _ORDER[modality]], axis=1)
    return ops.concatenate([SCALE * vectors, further / 3], axis=1)


def plain(vectors: Any, dim: int) -> Any:
    """The unit vectors of the plain space.

    Args:
        vectors: `(n, dim + EXTRA)`, or `(n, dim)` of a model without the correction, which stay as they are.
        dim: dimensions of the space.

    Returns:
        `(n, dim)`, to add, subtract, truncate or interpolate; append the correction to the result.
    """
    return vectors if vectors.shape[1] == dim else vectors[:, :dim] / np.float32(SCALE)


def truncated(vectors: Floats, dims: int, plain_dim: int) -> Floats:
    """The first dimensions of vectors, of unit length in the plain space again, with the correction after them.

    Args:
        vectors: float32 `(n, plain_dim)` or, folded, `(n, plain_dim + EXTRA)`.
        dims: number of dimensions, at most `plain_dim`.
        plain_dim: dimensions of the space.

    Returns:
        float32 `(n, dims)` or `(n, dims + EXTRA)`. A vector whose first dimensions are 0 has them still.

    Example:
        >>> truncated(np.float32([[0.6, 0.0, 0.8]]), dims=2, plain_dim=3)
        array([[1., 0.]], dtype=float32)
    """
    if dims == plain_dim:
        return vectors
    first = vectors[:, :dims]
    lengths = np.linalg.norm(first, axis=1, keepdims=True)
    folded = vectors.shape[1] != plain_dim
    first = first * np.divide(SCALE if folded else 1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return np.concatenate([first, vectors[:, plain_dim:]], axis=1).astype(np.float32, copy=False)


def search_queries(queries: Floats, kind: str, dim: int) -> Floats:
    """Queries as they search items of a kind: those of the items' own modality by their plain coordinates.

    Args:
        queries: float32 `(q, dim)` or, folded, `(q, dim + EXTRA)`.
        kind: `images` or `captions`, what the items are.
        dim: dimensions of the space.

    Returns:
        float32 `(q, …)` of the same shape. The dot product with an item of the query's own modality is the cosine.

    Example:
        >>> images = fold(np.float32([[1, 0], [0.6, 0.8]]), np.float32([0.4, 0.1]), "image")
        >>> (search_queries(images[:1], "images", dim=2) @ images.T).round(3)
        array([[1. , 0.6]], dtype=float32)
    """
    if queries.ndim != 2 or queries.shape[1] != dim + EXTRA:
        return queries
    # In the second of the further coordinates images have 2/3, captions at most 1/3.
    of_images = queries[:, dim + 1] > 0.5
    own = of_images if kind == "images" else ~of_images
    return np.where(own[:, None], own_modality_queries(queries, dim, np), queries).astype(np.float32)


def own_modality_queries(queries: Any, dim: int, ops: Any) -> Any:
    """Folded queries whose dot product with a folded vector of their modality is the cosine; see `search_queries`."""
    return ops.concatenate([queries[:, :dim] / SCALE**2, ops.zeros_like(queries[:, dim:])], axis=1)
