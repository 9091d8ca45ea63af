"""Runs a frozen image backbone over a split once and trains on what it gave."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vse_tf.config import DataSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.cache import cache_folder
from vse_tf.data.features import CENTRE, CachedFeatures, FeatureShards, fill, readable
from vse_tf.data.pipeline import ImageView, image_batches
from vse_tf.data.records import FileImages, Split
from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of

FLIP = "flip"
BATCH = 32


class FeatureCache:
    """Features of a frozen backbone for whole splits, computed once and kept.

    Args:
        tower: the image tower; its backbone is frozen.
        view: how images are prepared.
        folder: the cache folder; each combination of backbone, weights, preparation and images has its own below it.
        bad: what to do with images that cannot be read; left-out ones leave the split.
        progress: show a bar.

    Raises:
        UserError: the tower has no frozen backbone.

    Example:
        >>> cache = FeatureCache(tower, view, Path("cache"), bad)
        >>> cached = cache.split(split, views=["centre", "flip", "crop0"])
    """

    def __init__(
        self, tower: keras.Model, view: ImageView, folder: Path, bad: BadImages, progress: bool = True
    ) -> None:
        backbone = backbone_of(tower)
        if backbone is None or backbone.trainable:
            raise UserError(
                "data.features: needs a frozen pretrained backbone (image.encoder applications:… or hub:…, "
                "image.trainable false)"
            )
        self.backbone = backbone
        self.view = view
        self.bad = bad
        self.progress = progress
        prepared = {key: getattr(view, key) for key in ("size", "resize", "crop_scale", "flip")}
        self.folder = folder / "features" / backbone_key(backbone, prepared)
        self._run = tf.function(
            lambda images: backbone(images, training=False),
            input_signature=[tf.TensorSpec([None, *backbone.input_shape[1:]], tf.float32)],
        )

    def split(self, split: Split, views: Sequence[str] = (CENTRE,)) -> Split:
        """The split with cached features in place of its images.

        Args:
            split: a split of image files.
            views: `centre`, `flip` (the centre view mirrored) and `crop<i>` (a seeded random crop), the centre first.

        Raises:
            UserError: the split holds no image files, an image cannot be read, or the cache cannot be written.
        """
        if not isinstance(split.images, FileImages):
            raise UserError(f"data.features: keeps features of image files; this source gives {split.images.kind}")
        paths = split.images.paths
        shards = FeatureShards(self.folder / _paths_key(paths), len(paths), feature_of(self.backbone))
        for path in shards.remove_damaged(views):
            print(f"{path}: damaged features, computed again")
        total = sum(end - start for view in views for start, end in shards.missing(view))
        with tqdm(
            total=total, desc=f"features ({split.name})", unit="view", disable=not (self.progress and total)
        ) as bar:

            def compute(view: str, start: int, end: int) -> dict[str, np.ndarray]:
                both = view == CENTRE and FLIP in views
                found = self._features(FileImages(paths[start:end]), view, both, bar)
                return {CENTRE: found[0], FLIP: found[1]} if both else {view: found[0]}

            fill(shards, views, compute)
        stored = [shards.read(view) for view in views]
        rows = readable(stored[0])
        records = [dataclasses.replace(split.records[row], row=i) for i, row in enumerate(rows)]
        return Split(split.name, tuple(records), CachedFeatures(stored, rows))

    def _features(self, images: FileImages, view: str, mirrored: bool, bar: tqdm) -> list[np.ndarray]:
        """Features of a view `(images, …)`, and of its mirror image where asked for; NaN for unreadable images."""
        shape, dtype = feature_of(self.backbone)
        result = [np.full([len(images), *shape], np.nan, dtype) for _ in range(1 + mirrored)]
        crop = int(view.removeprefix("crop")) if view.startswith("crop") else None
        batches = image_batches(images, self.view, BATCH, self.bad, crop=crop)
        try:
            for batch, got in batches:
                read = got.numpy() >= 0
                rows = got.numpy()[read]
                seen = tf.reverse(batch, [2]) if view == FLIP else batch
                result[0][rows] = self._run(seen).numpy()[read]
                if mirrored:
                    result[1][rows] = self._run(tf.reverse(batch, [2])).numpy()[read]
                bar.update(len(read) * len(result))
        except tf.errors.OpError as error:
            raise self.bad.raised(error) from None
        return result


def feature_of(backbone: keras.Model) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a backbone's feature of one item; of states of tokens, those of one token."""
    return tuple(side for side in backbone.output_shape[1:] if side is not None), backbone.outputs[0].dtype


def backbone_key(backbone: keras.Model, prepared: dict[str, Any] | None = None) -> str:
    """A hash of everything that a feature depends on besides the image or caption.

    Args:
        backbone: the frozen backbone.
        prepared: how its input is prepared.
    """
    digest = hashlib.sha256()
    description = keras.saving.serialize_keras_object(backbone)
    # Keras numbers nameless inputs and operations through the whole process.
    described = json.dumps([description, prepared], sort_keys=True)
    digest.update(re.sub(r'"(input_layer|cast|zeros_like)_\d+"', r'"\1"', described).encode())
    for weight in backbone.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).data)
    return digest.hexdigest()[:24]


def training_views(flip: bool, crops: int) -> list[str]:
    """The views of a training image: centre, mirrored centre, random crops."""
    return [CENTRE, *([FLIP] if flip else []), *(f"crop{i}" for i in range(crops))]


def with_features(split: Split, data: DataSettings, tower: keras.Model, view: ImageView, bad: BadImages) -> Split:
    """The split as evaluation sees it: with the centre view's cached features where `data.features`, else as it is."""
    if not data.features:
        return split
    return FeatureCache(tower, view, cache_folder(data), bad).split(split)


def _paths_key(paths: Sequence[str]) -> str:
    """A hash of the files: path, size and time of the last change."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            stat = Path(path).stat()
            state = [path, stat.st_size, stat.st_mtime_ns]
        except OSError:
            state = [path]
        digest.update(json.dumps(state).encode())
    return digest.hexdigest()[:24]
