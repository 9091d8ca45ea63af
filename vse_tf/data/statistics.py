"""What is in a data set: counts, captions per image, lengths, unknown words, problems by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vse_tf.data.records import Collection
from vse_tf.preprocessing.words import split_words

LISTED = 10
"""Number of words that are listed."""


@dataclass(frozen=True)
class SplitStatistics:
    """What is in a split.

    Args:
        images: number of images.
        captions: number of captions.
        per_image: smallest, median and largest number of captions of an image.
        words: smallest and median length of a caption in words, that of the longest 1 %, and the largest.
        unknown: share of the words that training would not know, in percent.
        unknown_words: the most frequent of them, with their counts.
        shared_captions: number of captions that are in another split too.
    """

    images: int
    captions: int
    per_image: tuple[int, float, int]
    words: tuple[int, float, float, int]
    unknown: float
    unknown_words: tuple[tuple[str, int], ...]
    shared_captions: int


@dataclass(frozen=True)
class Statistics:
    """What is in a data set.

    Args:
        splits: by name.
        vocabulary: number of words that training would know.
        min_count: words of the train split that are rarer are unknown.
        problems: number of problems by kind.
        examples: the first problem of each kind.
    """

    splits: dict[str, SplitStatistics]
    vocabulary: int
    min_count: int
    problems: dict[str, int]
    examples: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def statistics(collection: Collection, min_count: int) -> Statistics:
    """Count what is in a data set.

    Args:
        collection: the data, with problems skipped.
        min_count: `text.min_count`.

    Example:
        >>> from vse_tf.config import ShapesSettings
        >>> from vse_tf.data.shapes import read_shapes
        >>> shapes = read_shapes(ShapesSettings(train_scenes=64, gallery_scenes=16))
        >>> statistics(shapes, min_count=1).splits["val"].captions
        80
    """
    words = {name: list(split_words(split.captions)) for name, split in collection.splits.items()}
    counts = Counter(word for caption in words.get("train", []) for word in caption)
    known = {word for word, count in counts.items() if count >= min_count}
    texts = {name: set(split.captions) for name, split in collection.splits.items()}
    splits = {}
    for name, split in collection.splits.items():
        others = set().union(*(each for other, each in texts.items() if other != name))
        every = Counter(word for caption in words[name] for word in caption)
        unknown = Counter({word: count for word, count in every.items() if word not in known})
        splits[name] = SplitStatistics(
            images=len(split),
            captions=len(split.captions),
            per_image=_middle([len(record.captions) for record in split.records]),
            words=_lengths([len(each) for each in words[name]]),
            unknown=100 * unknown.total() / max(1, every.total()),
            unknown_words=tuple(unknown.most_common(LISTED)),
            shared_captions=sum(caption in others for caption in split.captions),
        )
    problems = Counter(problem.kind for problem in collection.skipped)
    examples = {problem.kind: str(problem) for problem in reversed(collection.skipped)}
    return Statistics(splits, len(known), min_count, dict(problems.most_common()), examples)


def _middle(values: Sequence[int]) -> tuple[int, float, int]:
    return min(values), float(np.median(values)), max(values)


def _lengths(values: Sequence[int]) -> tuple[int, float, float, int]:
    low, median, high = _middle(values)
    return low, median, float(np.quantile(values, 0.99)), high
