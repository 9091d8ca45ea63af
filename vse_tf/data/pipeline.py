"""Records to batches: `tf.data` input of training and of encoding."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from vse_tf.config import ImageSettings, TextSettings
from vse_tf.data.bad_images import ALTERNATES, BadImages
from vse_tf.data.features import CachedFeatures
from vse_tf.data.order import CAPTION, ROW, SEED_LOW, Order
from vse_tf.data.records import FileImages, Images, Split
from vse_tf.preprocessing import images as views
from vse_tf.preprocessing import text

# Images that one call reads, at most: a dataset for each image would take as long as decoding a small one.
CHUNK = 32
# Where so many bytes hold all images in the making, a call reads a whole batch: chunks are copied once more.
MAKING = 512 * 2**20


@dataclass(frozen=True)
class ImageView:
    """How an image becomes the encoder's input.

    Args:
        size: height and width in pixels; None for features, which are taken as they are.
        resize: evaluation's shorter side before the centre crop.
        random_crop: training takes random crops.
        crop_scale: shares of the area of a random crop.
        flip: training mirrors at random.
        max_pixels: images whose header announces more are bad.
    """

    size: tuple[int, int] | None
    resize: int | None = None
    random_crop: bool = False
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = False
    max_pixels: int = 100_000_000

    @classmethod
    def of(
        cls, image: ImageSettings, size: tuple[int, int] | None, max_pixels: int, images: Images | None = None
    ) -> ImageView:
        """The view that the settings describe; arrays of the encoder's own (square) size are seen whole."""
        resize = image.resize
        if resize is None and images is not None and images.kind == "pixels" and len(images):
            height, width = images.load(np.zeros([1], np.int64)).shape[1:3]
            resize = height if (height, width) == size and height == width else None
        return cls(size, resize, image.random_crop, image.crop_scale, image.flip, max_pixels)

    @classmethod
    def of_dict(cls, values: dict[str, Any]) -> ImageView:
        """The view again from what `dataclasses.asdict` made of it, also after a passage through JSON."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def pixels(self) -> tuple[int, int]:
        """The size, of a view of pixels."""
        if self.size is None:
            raise ValueError("a view of features has no size in pixels")
        return self.size

    def of_file(self, contents: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """Encoded bytes to float32 `(h, w, 3)` in 0..255; a seed `(2,)` asks for the training view."""
        if seed is not None and self.random_crop:
            return views.decode_random_view(contents, self.max_pixels, self.pixels, self.crop_scale, self.flip, seed)
        centre = views.decode_centre_view(contents, self.max_pixels, self.pixels, self.resize)
        return self._flipped(centre, seed)

    def of_pixels(self, pixels: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        """A uint8 image `(h, w, 3)` to float32 `(h, w, 3)`; a seed asks for the training view."""
        if seed is not None and self.random_crop:
            return views.random_view(pixels, self.pixels, self.crop_scale, flip=self.flip, seed=seed)
        return self._flipped(views.centre_view(pixels, self.pixels, self.resize), seed)

    def _flipped(self, image: tf.Tensor, seed: tf.Tensor | None) -> tf.Tensor:
        if seed is None or not self.flip:
            return image
        return tf.image.stateless_random_flip_left_right(image, seed)


def training_batches(
    split: Split,
    order: Order,
    view: ImageView,
    read_text: Callable[[tf.Tensor], tf.Tensor],
    bad: BadImages,
    *,
    epoch: int = 0,
    step: int = 0,
    workers: int | None = None,
    shard: tuple[int, int] = (0, 1),
    replicas: int = 1,
) -> tf.data.Dataset:
    """Endless training batches `({"image", "text"}, row)`, from any position of the run.

    Args:
        split: the training split.
        order: its order.
        view: how images are prepared.
        read_text: captions `(b,)` by number, in row order, to the text tower's input: see `text_reader`.
        bad: what to do with images that break.
        epoch: the epoch to begin with.
        step: steps of that epoch to leave out; they are skipped before anything is read.
        workers: parallel reads.
        shard: this worker's number and how many there are; each takes its slice of every global batch.
        replicas: replicas of this worker; consecutive batches go to consecutive replicas.

    Returns:
        The dataset. A batch holds `order.batch_size / (workers * replicas)` pairs: image float32
        `(b, h, w, 3)` in 0..255 (or features), text int32 `(b, bucket)` with −1 as padding (or features), row int32
        `(b,)`.
    """
    worker, worker_count = shard
    local = order.batch_size // worker_count
    batch = local // replicas

    def of_epoch(number: tf.Tensor) -> tf.data.Dataset:
        samples = tf.numpy_function(lambda n: order.epoch(int(n)), [number], tf.int32, stateful=False)
        samples.set_shape([order.steps_per_epoch, order.batch_size, 4])
        # A broken image is replaced by one from the other half of the epoch: hardly ever in the same batch.
        flat = tf.reshape(samples[..., :SEED_LOW], [-1, 2])
        half = flat.shape[0] // 2
        spare = tf.stack([tf.roll(flat, half + i, axis=0) for i in range(ALTERNATES)], axis=1)
        spare = tf.reshape(spare, [order.steps_per_epoch, order.batch_size, ALTERNATES, 2])
        return tf.data.Dataset.from_tensor_slices((samples, spare))

    stream = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(of_epoch).skip(step)
    mine = slice(worker * local, (worker + 1) * local)
    stream = stream.map(lambda s, a: (s[mine], a[mine]))

    def finish(image: tf.Tensor, wanted: tf.Tensor, got: tf.Tensor, caption: tf.Tensor) -> tuple:
        got = bad.watch(split.images, wanted, got, needed=True)
        got.set_shape([batch])
        read = read_text(caption)
        read.set_shape([batch, *read.shape[1:]])
        return {"image": image, "text": read}, got

    if isinstance(split.images, FileImages):
        photos = _photos(stream, split.images, view, bad, batch, workers)
        return photos.rebatch(batch, drop_remainder=True).map(finish).prefetch(2)

    def load(sample: tf.Tensor, _: tf.Tensor) -> tuple:
        rows = sample[:, ROW]
        image = _loaded(split.images, view, rows, sample[:, SEED_LOW:])
        return finish(image, rows, rows, sample[:, CAPTION])

    return stream.rebatch(batch, drop_remainder=True).map(load, num_parallel_calls=2, deterministic=True).prefetch(2)


def text_reader(split: Split, tokenizer: Any, text_settings: TextSettings) -> Callable[[tf.Tensor], tf.Tensor]:
    """What a batch's captions become: cached features where the split has them, else padded token ids.

    Args:
        split: the split; its captions are tokenised here, once.
        tokenizer: their tokenizer.
        text_settings: lengths to pad to.

    Returns:
        A function of a `tf.data` graph from numbers `(b,)` in `split.captions` to features `(b, d)` or `(b, length, d)`
        or to int32 `(b, bucket)` with −1 as padding.
    """
    features = split.caption_features
    if features is not None:
        example = features.load(np.zeros([1], np.int64))
        shape = [None] * (example.ndim - 1) + [example.shape[-1]]
        return lambda caption: tf.ensure_shape(
            tf.numpy_function(features.load, [caption], example.dtype, stateful=False), shape
        )
    values, splits = map(tf.constant, text.tokenise_all(tokenizer, split.captions))

    def read(caption: tf.Tensor) -> tf.Tensor:
        tokens = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        return text.pad(tf.gather(tokens, caption), text_settings.buckets, text_settings.max_tokens)

    return read


def image_batches(
    images: Images,
    view: ImageView,
    batch_size: int,
    bad: BadImages,
    workers: int | None = None,
    crop: int | None = None,
) -> tf.data.Dataset:
    """All images once, in row order: `(image, row)` batches for encoding, the last one smaller.

    Args:
        images: the images.
        view: how they are prepared.
        batch_size: images in a batch.
        bad: what to do with an image that cannot be read: it comes with row −1 (`data.on_bad=skip`) or stops the
            reading (`fail`).
        workers: parallel reads.
        crop: number of a random crop to take instead of the centre view; the same number gives the same crop.
    """
    rows = tf.data.Dataset.range(len(images)).map(lambda row: tf.cast(row, tf.int32)).batch(batch_size)
    if isinstance(images, FileImages):
        if crop is not None:
            view = dataclasses.replace(view, random_crop=True)

        def sampled(row: tf.Tensor) -> tuple:
            """Each row with its seed, and no other in its place."""
            zero = tf.zeros_like(row)
            return tf.stack([row, zero, zero + (crop or 0), row], 1), tf.zeros([tf.size(row), 0, SEED_LOW], tf.int32)

        def watched(image: tf.Tensor, wanted: tf.Tensor, got: tf.Tensor, _: tf.Tensor) -> tuple:
            return image, bad.watch(images, wanted, got, needed=False)

        photos = _photos(rows.map(sampled), images, view, bad, batch_size, workers, augment=crop is not None)
        return photos.rebatch(batch_size).map(watched).prefetch(2)
    return rows.map(lambda r: (_loaded(images, view, r, None), r), num_parallel_calls=2, deterministic=True).prefetch(2)


def _photos(
    samples: tf.data.Dataset,
    images: FileImages,
    view: ImageView,
    bad: BadImages,
    batch: int,
    workers: int | None,
    augment: bool = True,
) -> tf.data.Dataset:
    """Image files, some at a time, and a few batches of them at most in the making.

    Of `(samples, spare ones)`, int `(any, 4)` and `(any, spares, 2)`, it makes `(images, rows wanted, rows they are,
    captions)`. Of a sample that cannot be read the first of its spare ones that can be is taken; row −1 and a black
    image say that none could.
    """
    paths = tf.constant(images.paths)

    def read(sample: tf.Tensor, candidate: tf.Tensor) -> tuple:
        seed = sample[SEED_LOW:] if augment else None
        image = view.of_file(tf.io.read_file(tf.gather(paths, candidate[ROW])), seed)
        image.set_shape([*view.pixels, 3])
        return image, sample[ROW], candidate[ROW], candidate[CAPTION]

    def replaced(sample: tf.Tensor, spare: tf.Tensor) -> tf.data.Dataset:
        candidates = sample[None, :SEED_LOW]
        if bad.on_bad == "skip":
            candidates = tf.concat([candidates, spare], axis=0)
        black = (tf.zeros([*view.pixels, 3]), sample[ROW], tf.constant(-1), sample[CAPTION])
        readable = tf.data.Dataset.from_tensor_slices(candidates).map(partial(read, sample)).ignore_errors()
        return readable.concatenate(tf.data.Dataset.from_tensors(black)).take(1)

    def chunk(samples: tf.Tensor, spares: tf.Tensor) -> tf.data.Dataset:
        """One element: all images of the chunk; one by one, with what stands in for it, only where one is bad."""
        count = tf.shape(samples, tf.int64)[0]
        each = tf.data.Dataset.from_tensor_slices((samples, spares))
        whole = each.map(lambda sample, _: read(sample, sample)).batch(count, drop_remainder=True).ignore_errors()
        return whole.concatenate(each.flat_map(replaced).batch(count)).take(1)

    calls = workers or _cores()
    # The interleave works on the chunks of its cycle and on twice as many that come next.
    whole = 3 * calls * batch * np.prod(view.pixels) * 3 * 4 <= MAKING
    chunks = samples.rebatch(batch if whole else max(1, min(CHUNK, batch // calls)))
    return chunks.interleave(chunk, cycle_length=calls, num_parallel_calls=calls, deterministic=True)


def _loaded(images: Images, view: ImageView, rows: tf.Tensor, seeds: tf.Tensor | None) -> tf.Tensor:
    """A batch of pixel or feature rows, prepared."""
    example = images.load(np.zeros([1], np.int64))
    shape = example.shape[1:]
    kind = example.dtype if isinstance(images, CachedFeatures) else np.uint8 if images.kind == "pixels" else np.float32
    if isinstance(images, CachedFeatures) and seeds is not None:
        loaded = tf.numpy_function(images.load_views, [rows, seeds[:, 0]], kind, stateful=False)
    else:
        loaded = tf.numpy_function(lambda r: np.ascontiguousarray(images.load(r), kind), [rows], kind, stateful=False)
    loaded.set_shape([rows.shape[0], *shape])
    if images.kind == "features":
        return loaded
    training = seeds is not None and (view.random_crop or view.flip)
    # Descriptions from before `ImageView.of` looked at the images have no `resize` where they are seen whole.
    whole = view.resize is None or view.resize == max(view.pixels)
    if shape[:2] == view.size and whole and not training:
        return tf.cast(loaded, tf.float32)
    spec = tf.TensorSpec([*view.pixels, 3], tf.float32)
    if training:
        return tf.map_fn(lambda x: view.of_pixels(*x), (loaded, seeds), fn_output_signature=spec)
    return tf.map_fn(lambda x: view.of_pixels(x, None), loaded, fn_output_signature=spec)


def _cores() -> int:
    return os.cpu_count() or 1
