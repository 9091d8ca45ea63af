"""Counts of a data set, by hand."""

from __future__ import annotations

import numpy as np

from vse_tf.data.records import Collection, Problem, Record, Split
from vse_tf.data.sources.precomp import FeatureImages
from vse_tf.data.statistics import statistics


def split_of(name, captions):
    records = tuple(Record(f"{name}{row}", tuple(each), name, row) for row, each in enumerate(captions))
    return Split(name, records, FeatureImages(np.zeros((len(records), 2)), np.arange(len(records))))


def test_counts_by_hand():
    train = split_of("train", [["A dog.", "a DOG runs"], ["a cat", "the dog", "a dog"]])
    val = split_of("val", [["a dog runs fast"], ["a dog"]])
    problems = tuple(Problem(f"line {n}", f"empty caption: {n}" if n < 3 else "missing image") for n in range(5))
    found = statistics(Collection("table", {"train": train, "val": val}, problems), min_count=2)
    assert found.vocabulary == 2
    assert found.problems == {"empty caption": 3, "missing image": 2}
    assert found.examples == {"empty caption": "line 0: empty caption: 0", "missing image": "line 3: missing image"}
    one, two = found.splits["train"], found.splits["val"]
    assert (one.images, one.captions, one.per_image) == (2, 5, (2, 2.5, 3))
    assert one.words[:2] == (2, 2.0)
    assert one.words[3] == 3
    # Of 11 words in train: runs, cat, the. Of 6 in val: runs, fast.
    assert one.unknown == 100 * 3 / 11
    assert two.unknown == 100 * 2 / 6
    assert dict(two.unknown_words) == {"runs": 1, "fast": 1}
    assert (one.shared_captions, two.shared_captions) == (1, 1)


def test_data_without_a_train_split():
    found = statistics(Collection("table", {"test": split_of("test", [["a dog"]])}), min_count=1)
    assert found.splits["test"].unknown == 100.0
    assert found.problems == {}
