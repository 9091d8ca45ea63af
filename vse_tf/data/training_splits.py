"""The splits that training needs, where a source lacks one."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from vse_tf.config import DataSettings
from vse_tf.data.features import CachedFeatures
from vse_tf.data.records import Collection, EncodedImages, Images, Split
from vse_tf.data.sources.building import draw_splits


class ChosenImages:
    """Some of a split's images, as a split of its own.

    Args:
        images: the images; not encoded ones.
        rows: rows of those that belong to it, integers `(n,)`.

    Example:
        val = ChosenImages(FeatureImages(array, np.arange(10)), [7, 8])
    """

    def __init__(self, images: Images, rows: Sequence[int] | np.ndarray) -> None:
        self._images = images
        self._rows = np.asarray(rows, np.int64)

    @property
    def kind(self) -> Literal["files", "pixels", "features"]:
        return self._images.kind

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, rows: np.ndarray) -> np.ndarray:
        """These rows as one array."""
        return self._images.load(self._rows[rows])


def training_splits(collection: Collection, settings: DataSettings) -> Collection:
    """A collection with `train` and `val`: where one of them is missing, it is drawn from the other.

    A share `val_fraction` of the images is val, drawn by their names and `split_seed`. Without train and val, the only
    split is divided, unless it is called test.

    Args:
        collection: the data as the source has them.
        settings: `val_fraction` and `split_seed` are read.

    Returns:
        The same collection where nothing is missing, or nothing can be drawn.

    Example:
        collection = training_splits(read(data), data)
    """
    splits = collection.splits
    there = [name for name in splits if name in ("train", "val")] or (list(splits) if len(splits) == 1 else [])
    if len(there) != 1 or there == ["test"] or settings.val_fraction == 0 or len(splits[there[0]]) < 2:
        return collection
    source = splits[there[0]]
    names = _names(source)
    drawn = draw_splits(names, dataclasses.replace(settings, test_fraction=0.0))
    rows = {name: [row for row, key in enumerate(names) if drawn[key] == name] for name in ("train", "val")}
    # The places of the others stay.
    made = {name: _chosen(source, name, rows[name]) for name in ("train", "val")}
    others = {name: split for name, split in splits.items() if name != source.name}
    note = (
        f"the data have no split {' and no split '.join(name for name in made if name not in splits)}: of the "
        f"{len(source)} images of {source.name}, {len(made['val'])} are val and {len(made['train'])} train "
        f"(data.val_fraction {settings.val_fraction})"
    )
    return dataclasses.replace(collection, splits=made | others, notes=(*collection.notes, note))


def _names(split: Split) -> list[str]:
    """A name for each image, without its folder, which another machine may call otherwise."""
    names, seen = [], Counter[str]()
    for record in split.records:
        name = os.path.basename(record.image)  # noqa: PTH119 - faster
        # Same names in different folders are different images.
        names.append(f"{name}\0{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def _chosen(split: Split, name: str, rows: Sequence[int]) -> Split:
    records = (dataclasses.replace(split.records[row], split=name, row=place) for place, row in enumerate(rows))
    return Split(name, tuple(records), chosen_images(split.images, rows))


def chosen_images(images: Images, rows: Sequence[int] | np.ndarray) -> Images:
    """Some of a split's images.

    Args:
        images: the images, or their cached features.
        rows: rows of those that are chosen, integers `(n,)`.
    """
    if isinstance(images, EncodedImages | CachedFeatures):
        return images.chosen(rows)
    return ChosenImages(images, rows)
