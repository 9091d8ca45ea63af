"""Zero-shot classification: images are given the class whose text is nearest. NumPy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vse_tf.evaluation.bootstrap import mean_interval
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.ranking import ranks
from vse_tf.evaluation.similarity import Doubles, Floats, Ints

PROMPT = "a photo of a {}"
"""The prompt where none is given; CLIP's."""


@dataclass(frozen=True)
class ZeroShot:
    """The results of a classification, in percent.

    Args:
        labels: the classes.
        top1: share of images whose class is first.
        top1_interval: its 95 % interval, bootstrap over images.
        top5: share of images whose class is among the first five.
        top5_interval: its 95 % interval.
        confusion: number of images of each class (rows) that were given each class (columns).
    """

    labels: tuple[str, ...]
    top1: float
    top1_interval: tuple[float, float]
    top5: float
    top5_interval: tuple[float, float]
    confusion: Ints

    @property
    def chance(self) -> tuple[float, float]:
        """Top-1 and top-5 of classes at random."""
        return 100 / len(self.labels), 100 * min(5, len(self.labels)) / len(self.labels)

    @property
    def per_class(self) -> Doubles:
        """The share of each class' images that are given it, in percent; NaN for a class without images."""
        with np.errstate(invalid="ignore"):
            shares: Doubles = 100 * np.diagonal(self.confusion) / self.confusion.sum(axis=1)
        return shares

    def mistaken(self, count: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent confusions: class, the class that was given in its place, and the number of images."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        first = np.argsort(-wrong, axis=None, kind="stable")[:count]
        places = [divmod(int(flat), len(self.labels)) for flat in first]
        return [(self.labels[a], self.labels[b], int(wrong[a, b])) for a, b in places if wrong[a, b]]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "images": int(self.confusion.sum()),
            "labels": list(self.labels),
            "top1": self.top1,
            "top1_interval": self.top1_interval,
            "top5": self.top5,
            "top5_interval": self.top5_interval,
            "chance": dict(zip(("top1", "top5"), self.chance, strict=True)),
            "confusion": self.confusion.tolist(),
        }


def class_vectors(
    words: Sequence[str], prompts: Sequence[str], encode: Callable[[list[str]], Floats]
) -> NDArray[np.float32]:
    """One unit vector per class: the mean of its prompts' unit vectors, as CLIP averages them.

    Args:
        words: the words of each class.
        prompts: texts with `{}` in the place of the words.
        encode: embeds texts as unit vectors, float32 `(n, d)`.

    Returns:
        float32 `(classes, d)`.

    Example:
        class_vectors(["dog", "cat"], ["a photo of a {}", "a drawing of a {}"], embedder.encode_texts).shape  # (2, 128)
    """
    texts = [prompt.replace("{}", each) for each in words for prompt in prompts]
    vectors = encode(texts).reshape(len(words), len(prompts), -1).mean(axis=1, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Floats = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def classify(image: ArrayLike, classes: ArrayLike, label: ArrayLike, labels: Sequence[str]) -> ZeroShot:
    """Give every image the class of the highest cosine. Ties count against the model.

    Args:
        image: unit vectors of the images `(N, d)`, float32.
        classes: unit vectors of the classes `(C, d)`, float32.
        label: the class of each image `(N,)`.
        labels: names of the classes.

    Raises:
        NonFiniteError: a vector is not finite.

    Example:
        >>> classify(np.eye(2), np.eye(2), [0, 1], ["dog", "cat"]).top1
        100.0
    """
    rows = np.asarray(label, np.int64)
    # The classes are what the images look for.
    rank = ranks(classes, image, rows).t2i
    first = nearest(image, classes, 2)[0]
    # Of equal classes the wrong one is given.
    given = np.where((first[:, 0] == rows) & (rank > 0), first[:, -1], first[:, 0])
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (rows, given), 1)
    each = np.arange(len(rows))
    top1, top1_interval = mean_interval(100.0 * (rank < 1), each)
    top5, top5_interval = mean_interval(100.0 * (rank < 5), each)
    return ZeroShot(tuple(labels), top1, top1_interval, top5, top5_interval, confusion)
