"""The section `data` of a run's settings: the source of images and captions. No TensorFlow is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vse_tf.setting_types import (
    Above0,
    Count,
    Few,
    Free,
    Kept,
    LocalPath,
    Paths,
    Range,
    RemotePath,
    RemotePaths,
    Seed,
    Share,
)
from vse_tf.used_settings import NUMBER, UsedIf

Verify = Literal["none", "headers", "decode"]
OnBad = Literal["fail", "skip"]
PACKED = ("webdataset", "parquet")
COLLECTIONS = ("karpathy", "coco", "table", "precomp", *PACKED, "tfds")


def _source(*names: str) -> UsedIf:
    return UsedIf("data.source", *names)


@dataclass(frozen=True)
class ShapesSettings:
    """The generated shapes set.

    Args:
        train_scenes: number of training scenes; each comes with its mirror (objects swapped), so this is even.
        gallery_scenes: number of scenes in each of the splits val, test and hard.
        size: width and height of a scene in pixels.
        captions: number of distinct captions per scene.
        cache: draw all scenes once and cache them in memory (true) or draw each when it is needed (false).
        seed: seed of scenes and captions.
    """

    train_scenes: Count = 8000
    gallery_scenes: Count = 500
    size: Annotated[int, Range(16, 2**14)] = 48
    captions: Count = 5
    cache: bool = True
    seed: Seed = 0


@dataclass(frozen=True)
class TableSettings:
    """A caption table, text or JSON, the `.json` members of tar shards, and Parquet files.

    Args:
        image_column: column (key) with the image path, relative to `data.images`; in Parquet, with the image.
        caption_column: column (key) with the caption; in JSON and Parquet a list of captions is allowed too.
        split_column: column (key) with the split; if the data have none, images are split by `data.val_fraction`
            and `data.test_fraction`.
    """

    image_column: str = "image"
    caption_column: str = "caption"
    split_column: str = "split"


@dataclass(frozen=True)
class TfdsSettings:
    """A TensorFlow Datasets set.

    Args:
        name: registered name, for example `coco_captions` (a config and version may follow as in `name/config:1.0.0`).
        data_dir: folder of prepared data sets (default: TensorFlow Datasets' own).
        image_feature: path of the image feature, parts joined by `/`.
        caption_feature: path of the caption feature, parts joined by `/`.
        download: download and prepare the set if it is not there.
    """

    name: str | None = None
    data_dir: RemotePath | None = None
    image_feature: str = "image"
    caption_feature: str = "captions/text"
    download: bool = True


@dataclass(frozen=True)
class DataSettings:
    """The source of images and captions, and the order of training.

    Args:
        source: kind of source; auto tells it from the annotations, or takes tfds where `data.tfds.name` is given, and
            shapes, the generated set, where neither is.
        annotations: own files only: the caption table, the karpathy JSON, the coco JSON(s), the precomp folder, or tar
            shards or Parquet files: files, folders, or patterns such as `train-*.tar`; also at s3://, gs://, https://.
        images: own files only: image folder(s); for coco one per caption file, or one for all; for karpathy one or
            several; for a table the default is its own folder; for parquet that of images that are only paths.
        split_ids: coco only: `.npy` files of annotation ids per split, as in {train: [a.npy, b.npy], val: [c.npy]}.
        restval_as_train: karpathy, webdataset, parquet, tfds only: use the split `restval` as train.
        val_fraction: own data only: share of images in val if the source has no splits, or no val.
        test_fraction: coco, table, webdataset, parquet only: share of images in test if the source has no splits.
        split_seed: own data only: seed of that split.
        on_bad: own data only: what to do with a bad record or image: stop (fail) or skip and count it (skip).
        verify: own data only: how images are checked before training: not at all (none), by headers or by decoding each
            once (decode).
        max_pixels: images with more pixels, according to their header, are bad; so are images that cost too much to
            decode in other ways (see `vse_tf.preprocessing.image_limits`).
        cache_dir: folder of cached results and features (default: $VSE_TF_CACHE or ~/.cache/vse_tf).
        cache_size: largest size of that folder in GB; the least recently used entries are evicted first (default: a
            quarter of the free space when the folder is first used).
        epoch_over: an epoch has every caption once (captions) or every image once with one of its captions (images).
        features: run the frozen image backbone, or its frozen part, once per image and view and train on the cached
            features; auto does so for a pretrained backbone where they fit into `data.cache_size` and half of the free
            space.
        feature_crops: data.features only: number of random crops cached per training image, in addition to the centre
            view and (with image.flip) its mirror image; each epoch draws one of an image's views. auto: 2 with
            `image.random_crop`, else 0.
        text_features: run the frozen hub text backbone once per caption and train on the cached features; auto as for
            `data.features`.
        workers: number of parallel decoding calls (default: number of CPU cores).
        shapes: settings of the source shapes.
        table: columns of the sources table, webdataset and parquet.
        tfds: settings of the source tfds.
    """

    source: Literal["auto", "shapes", "karpathy", "coco", "table", "precomp", "webdataset", "parquet", "tfds"] = "auto"
    annotations: Annotated[RemotePaths, _source("karpathy", "coco", "table", "precomp", *PACKED)] = None
    images: Annotated[Paths, _source("karpathy", "coco", "table", "parquet")] = None
    split_ids: Annotated[dict[str, list[LocalPath]] | None, _source("coco")] = None
    restval_as_train: Annotated[bool, _source("karpathy", *PACKED, "tfds")] = True
    val_fraction: Annotated[Share, _source(*COLLECTIONS)] = 0.1
    test_fraction: Annotated[Share, _source("coco", "table", *PACKED)] = 0.1
    split_seed: Annotated[int, Range(-(2**63), 2**63), _source(*COLLECTIONS)] = 0
    on_bad: Annotated[OnBad, _source(*COLLECTIONS)] = "fail"
    verify: Annotated[Free[Verify], _source(*COLLECTIONS)] = "headers"
    max_pixels: Count = 100_000_000
    cache_dir: Free[LocalPath | None] = None
    cache_size: Free[Above0 | None] = None
    epoch_over: Literal["captions", "images"] = "captions"
    features: Kept[bool | Literal["auto"]] = "auto"
    feature_crops: Annotated[
        Kept[Annotated[int, Range(0, 1024)] | Literal["auto"]],
        UsedIf("data.features", True, "auto"),
        UsedIf("image.encoder", "applications", "hub"),
        UsedIf("image.trainable", False, NUMBER),
    ] = "auto"
    text_features: Kept[bool | Literal["auto"]] = "auto"
    workers: Free[Few | None] = None
    shapes: Annotated[ShapesSettings, _source("shapes")] = field(default_factory=ShapesSettings)
    table: Annotated[TableSettings, _source("table", *PACKED)] = field(default_factory=TableSettings)
    tfds: Annotated[TfdsSettings, _source("tfds")] = field(default_factory=TfdsSettings)
