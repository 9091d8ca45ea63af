"""The captions least like their own image: those that were given to another image, and wrong ones. NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vse_tf.evaluation.ranking import ranks

if TYPE_CHECKING:
    from vse_tf.plain_embedder import EncodedSplit

UNLIKELY = 0.02
"""A caption is unlikely if more than this share of the other images is nearer to it than its own one."""
LEAST = 4
"""And at least this number of images: in a small gallery the share alone is a handful."""


@dataclass(frozen=True)
class UnlikelyCaption:
    """A caption with its image far away.

    Args:
        caption: position among the embeddings of the captions.
        image: position of its image among the embeddings of the images.
        nearer: number of other images that are at least as near as its own.
    """

    caption: int
    image: int
    nearer: int


def unlikely_captions(encoded: EncodedSplit) -> list[UnlikelyCaption]:
    """Find the captions that fit many other images better than their own.

    A caption that was given to a wrong image has its rank at random, so 98 of 100 are found; of right captions a model
    with R@10 of 98 % in 500 images calls 2 of 100 unlikely.

    Args:
        encoded: the embeddings of a split.

    Returns:
        The captions, the least likely first.

    Raises:
        NonFiniteError: an embedding is not finite.
    """
    rank = ranks(encoded.image, encoded.text, encoded.image_id).t2i
    limit = max(UNLIKELY * (len(encoded.image) - 1), LEAST)
    order = (-rank).argsort(kind="stable")
    found = [row for row in order.tolist() if rank[row] > limit]
    return [UnlikelyCaption(row, int(encoded.image_id[row]), int(rank[row])) for row in found]
