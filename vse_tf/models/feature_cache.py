"""Runs a frozen backbone over a split once, so that training reads features in place of images or captions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from vse_tf.cache import cache_folder
from vse_tf.cache_size import BoundedCache
from vse_tf.config import DataSettings, TextSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.features import CachedFeatures, CachedTokens, FeatureShards, readable
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.records import EncodedImages, Images, Split
from vse_tf.display import phase_if, say
from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of
from vse_tf.preprocessing import text
from vse_tf.preprocessing.images import PIXELS_VERSION
from vse_tf.preprocessing.view import ImageView

CENTRE, FLIP, CAPTION = "centre", "flip", "caption"
IMAGE_BATCH, CAPTION_BATCH = 32, 64
MOST_CONSTANTS = 100_000_000
"""Largest number of weights that become constants: a graph is at most 2 GB."""
LOOKING = "looking for cached features"
# Fields of a view that do not shape what is cached: the name of a cached view says whether it is a crop or mirrored.
NO_PIXELS = {"random_crop", "eval_flip"}
# The fields that are in the key whatever their values, as they always were.
FIRST_FIELDS = {"size", "resize", "crop_scale", "flip"}

Batches: TypeAlias = Iterator[tuple[str, np.ndarray, tf.Tensor]]
"""Inputs of the backbone: the view, the position of each item and the batch; what cannot be read is left out."""


@dataclass(frozen=True)
class CacheItems:
    """The images or captions of a split.

    Args:
        key: hash of them.
        lengths: `(count,)` number of states of each, for a backbone that returns the states of tokens.
        batches: reads views of the items from a start to an end.
    """

    key: str
    lengths: np.ndarray
    batches: Callable[[Sequence[str], int, int], Batches]


class FeatureCache:
    """Features of a frozen backbone for the images or captions of a split, computed once and stored.

    Args:
        tower: the image or text tower; its backbone is frozen.
        inputs: how images or captions are read.
        folder: the cache folder; each combination of backbone, weights, preparation and items has its own folder in it.
        cache_size: largest size of the cache folder in GB; see `BoundedCache`.
        progress: show a bar.

    Raises:
        UserError: the tower has no frozen backbone.

    Example:
        >>> cache = FeatureCache(image_tower, ImageInputs(view, bad), Path("cache"))
        >>> cached = cache.split(split, ["centre", "flip", "crop0"])
    """

    def __init__(
        self,
        tower: keras.Model,
        inputs: ImageInputs | CaptionInputs,
        folder: Path,
        cache_size: float | None = None,
        progress: bool = True,
    ) -> None:
        backbone = backbone_of(tower)
        if backbone is None or backbone.trainable:
            raise UserError(inputs.needs)
        self.backbone = backbone
        self.inputs = inputs
        self.progress = progress
        self.cache = BoundedCache(folder, cache_size)
        with phase_if(progress, LOOKING):
            self.folder = folder / inputs.folder / backbone_key(backbone, inputs.prepared)
        self._run = frozen_function(backbone)

    def bytes_of(self, split: Split, views: Sequence[str] = ()) -> tuple[int, int]:
        """What the features of a split take in the cache: all of them, and those that are still missing.

        Args:
            split: a split.
            views: as in `split`.
        """
        shards = self._shards(self.inputs.items(split))
        spans = [(shards.spans(), shards.missing(view)) for view in views or self.inputs.views]
        count = shards.bytes_of
        return sum(sum(map(count, every)) for every, _ in spans), sum(sum(map(count, left)) for _, left in spans)

    def split(self, split: Split, views: Sequence[str] = ()) -> Split:
        """The split with cached features.

        Args:
            split: a split.
            views: the views of each image, `centre` first; see `ImageInputs`.

        Raises:
            UserError: the split has no image files, an image cannot be read, or the cache cannot be written.
        """
        views = views or self.inputs.views
        with phase_if(self.progress, LOOKING):
            items = self.inputs.items(split)
            shards = self._shards(items)
            shape, lengths = shards.shape, shards.lengths
            self.cache.claim(shards.folder)
            for path in shards.remove_damaged(views):
                say(f"{path}: damaged features, computed again")
        total = sum(end - start for view in views for start, end in shards.missing(view))
        if total:
            needed = sum(shards.bytes_of(span) for view in views for span in shards.missing(view))
            self.cache.make_room(needed, f"the features of {split.name}")
        name = f"{self.inputs.folder.replace('_', ' ')} ({split.name})"
        with phase_if(self.progress and total > 0, name, total, self.inputs.unit) as bar:

            def compute(views: Sequence[str], start: int, end: int) -> Iterator[tuple[str, np.ndarray]]:
                counts = np.ones(end - start, np.int64) if lengths is None else lengths[start:end]
                first = np.cumsum(counts) - counts
                # What cannot be read stays NaN.
                found = {view: np.full([counts.sum(), *shape], np.nan, shards.dtype) for view in views}
                for view, positions, batch in items.batches(views, start, end):
                    features = self._run(batch).numpy()
                    if features.dtype == np.float16 and np.isinf(features).any():
                        raise UserError(
                            f"{name}: values beyond the range of {shards.dtype}; set {self.inputs.cut} false or true, "
                            "or another number of blocks"
                        )
                    for position, item in zip(positions, features, strict=True):
                        place, count = first[position], counts[position]
                        found[view][place : place + count] = item[None] if lengths is None else item[:count]
                    bar.update(len(positions))
                for view in views:
                    yield view, found.pop(view)

            shards.fill(views, compute)
        return self.inputs.attach(split, shards, views)

    def _shards(self, items: CacheItems) -> FeatureShards:
        sides = self.backbone.output_shape[1:]
        shape = tuple(side for side in sides if side is not None)
        feature = shape, self.backbone.outputs[0].dtype
        lengths = items.lengths if None in sides else None
        return FeatureShards(self.folder / items.key, len(items.lengths), feature, lengths)


class ImageInputs:
    """Encoded images as the tower sees them.

    The views of an image are `centre`, `flip` (the centre view mirrored) and `crop<i>` (a seeded random crop). Images
    that cannot be read leave the split, if `bad` skips them.

    Args:
        view: how images are prepared.
        bad: what to do with images that cannot be read.
    """

    needs = (
        "data.features: needs a frozen pretrained backbone or frozen part of one (image.encoder applications:… or "
        "hub:…, image.trainable false or n)"
    )
    folder, unit, cut = "features", "views", "image.trainable"

    def __init__(self, view: ImageView, bad: BadImages) -> None:
        self.view = view
        self.bad = bad
        self.prepared = prepared(view)
        # What evaluation takes.
        self.views: tuple[str, ...] = (CENTRE, FLIP) if view.eval_flip else (CENTRE,)
        self._readers: dict[tuple[int, ...], ImageReader] = {}

    def items(self, split: Split) -> CacheItems:
        """The encoded images of a split."""
        images = split.images
        if not isinstance(images, EncodedImages):
            raise UserError(f"data.features: needs image files; this source gives {images.kind}")

        def batches(views: Sequence[str], start: int, end: int) -> Batches:
            crops = tuple(int(view.removeprefix("crop")) for view in views if view.startswith("crop"))
            reader = self._readers.setdefault(crops, ImageReader(self.view, crops=crops))
            for batch, positions in reader.batches(images.chosen(range(start, end)), IMAGE_BATCH, self.bad):
                centre = batch[:, 0] if crops else batch
                pixels = {f"crop{crop}": batch[:, number] for number, crop in enumerate(crops, start=1)}
                pixels |= {CENTRE: centre} | ({FLIP: tf.reverse(centre, [2])} if FLIP in views else {})
                for view in views:
                    is_crop = view in pixels
                    yield (
                        view,
                        positions,
                        pixels[view] if is_crop else tf.reverse(centre, [2]) if view == FLIP else centre,
                    )

        return CacheItems(_images_key(images), np.ones(len(images), np.int64), batches)

    def attach(self, split: Split, shards: FeatureShards, views: Sequence[str]) -> Split:
        """The split with features in place of its images."""
        stored = [shards.read(view) for view in views]
        rows = readable(stored[0])
        records = [dataclasses.replace(split.records[row], row=i) for i, row in enumerate(rows)]
        images = split.images.chosen(rows) if isinstance(split.images, EncodedImages) else None
        return Split(split.name, tuple(records), CachedFeatures(stored, rows, images))


class CaptionInputs:
    """Captions as token ids, padded as the tower sees them.

    Args:
        tokenizer: the tower's tokenizer.
        text_settings: lengths that captions are padded to.
    """

    needs = (
        "data.text_features: needs a frozen pretrained backbone or frozen part of one (text.encoder hub:…, "
        "text.trainable false or n)"
    )
    folder, unit, views, cut = "text_features", "captions", (CAPTION,), "text.trainable"
    prepared = None

    def __init__(self, tokenizer: Callable[[Sequence[str]], tf.RaggedTensor], text_settings: TextSettings) -> None:
        self.tokenizer = tokenizer
        self.text_settings = text_settings

    def items(self, split: Split) -> CacheItems:
        """The captions of a split."""
        values, splits = text.tokenise_all(self.tokenizer, split.captions)
        tokens = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        settings, lengths = self.text_settings, np.diff(splits)

        def batches(views: Sequence[str], start: int, end: int) -> Batches:
            # Captions of similar length together, for little padding.
            order = np.argsort(lengths[start:end], kind="stable")
            for first in range(0, len(order), CAPTION_BATCH):
                positions = order[first : first + CAPTION_BATCH]
                ids = tf.gather(tokens, start + positions)
                yield CAPTION, positions, text.pad(ids, settings.buckets, settings.max_tokens)

        key = hashlib.sha256(values.tobytes() + splits.tobytes()).hexdigest()[:24]
        return CacheItems(key, np.minimum(lengths, settings.max_tokens), batches)

    def attach(self, split: Split, shards: FeatureShards, views: Sequence[str]) -> Split:
        """The split with the features of its captions."""
        stored = shards.read(CAPTION)
        if shards.lengths is None:
            features: Images = CachedFeatures([stored], np.arange(shards.count))
        else:
            features = CachedTokens(stored, shards.lengths, shards.size)
        return dataclasses.replace(split, caption_features=features)


def frozen_function(backbone: keras.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The graph of a frozen backbone in inference mode, for batches of any size.

    Its weights are constants in it, where they are not too large for that: TensorFlow then multiplies the scales of
    batch normalisation into the convolutions before them.

    Args:
        backbone: the backbone; later changes of its weights have no effect.

    Example:
        >>> features = frozen_function(backbone)(pixels)
    """
    spec = tf.TensorSpec([None, *backbone.input_shape[1:]], backbone.inputs[0].dtype)
    if sum(math.prod(weight.shape) for weight in backbone.weights) > MOST_CONSTANTS:
        return tf.function(lambda batch: backbone(batch, training=False), input_signature=[spec], autograph=False)

    def run(batch: tf.Tensor) -> tf.Tensor:
        with tf.init_scope():
            trainable, others = (
                [keras.ops.convert_to_numpy(weight) for weight in weights]
                for weights in (backbone.trainable_variables, backbone.non_trainable_variables)
            )
        return backbone.stateless_call(trainable, others, batch, training=False)[0]

    return tf.function(run, input_signature=[spec], autograph=False)


def backbone_key(backbone: keras.Model, prepared: dict[str, Any] | None = None) -> str:
    """A hash of everything that a feature depends on besides the image or caption.

    Args:
        backbone: the frozen backbone.
        prepared: how its input is prepared.
    """
    digest = hashlib.sha256()
    description = keras.saving.serialize_keras_object(backbone)
    # Keras numbers unnamed inputs and operations through the process.
    described = json.dumps([description, prepared], sort_keys=True)
    numbered = {each.name for each in backbone.operations if not isinstance(each, keras.layers.Layer)}
    kinds = {re.sub(r"_\d+$", "", name) for name in numbered} | {"input_layer", "cast", "zeros_like"}
    digest.update(re.sub(rf'"({"|".join(sorted(kinds))})_\d+"', r'"\1"', described).encode())
    for weight in backbone.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).data)
    return digest.hexdigest()[:24]


def prepared(view: ImageView) -> dict[str, Any]:
    """What the pixels of an image's views depend on besides its file: the view's fields and the version of the code.

    Fields that were added later are left out at their default, so that the keys of earlier caches stay valid.

    Args:
        view: how images are prepared.
    """
    fields = {field.name: field.default for field in dataclasses.fields(view) if field.name not in NO_PIXELS}
    values = {name: getattr(view, name) for name in fields}
    found = {name: value for name, value in values.items() if name in FIRST_FIELDS or value != fields[name]}
    return found if PIXELS_VERSION == 1 else {**found, "pixels_version": PIXELS_VERSION}


def training_views(flip: bool, crops: int) -> list[str]:
    """The views of a training image: centre, its mirror image, random crops."""
    return [CENTRE, *([FLIP] if flip else []), *(f"crop{i}" for i in range(crops))]


def feature_cache(
    tower: keras.Model, inputs: ImageInputs | CaptionInputs, data: DataSettings, required: bool
) -> FeatureCache | None:
    """The cache of a tower's features in the folder that the settings name.

    Args:
        tower: the tower.
        inputs: how its images or captions are read.
        data: the section `data`.
        required: without a frozen backbone this is an error; otherwise the result is None.

    Raises:
        UserError: see `required`.
    """
    backbone = backbone_of(tower)
    if not required and (backbone is None or backbone.trainable):
        return None
    return FeatureCache(tower, inputs, cache_folder(data), data.cache_size)


def with_features(split: Split, data: DataSettings, tower: keras.Model, view: ImageView, bad: BadImages) -> Split:
    """The split as evaluation reads it: with cached features of its views if `data.features`, else unchanged."""
    if data.features is not True:
        return split
    return FeatureCache(tower, ImageInputs(view, bad), cache_folder(data), data.cache_size).split(split)


def _images_key(images: EncodedImages) -> str:
    """A hash of what changes with the images' contents: of a file, path, size and time of the last change."""
    digest = hashlib.sha256()
    for state in images.states():
        digest.update(json.dumps(state).encode())
    return digest.hexdigest()[:24]
