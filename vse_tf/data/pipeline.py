"""Records to batches: `tf.data` input of training and of encoding."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf

from vse_tf.config import TextSettings
from vse_tf.data.bad_images import ALTERNATES, BadImages
from vse_tf.data.features import CachedFeatures
from vse_tf.data.order import CAPTION, ROW, SEED_LOW, Order
from vse_tf.data.records import EncodedImages, FileImages, Images, Split
from vse_tf.preprocessing import text
from vse_tf.preprocessing.graph_bytes import without_autograph
from vse_tf.preprocessing.image_checks import accepted, layout_or_refused
from vse_tf.preprocessing.image_formats import LAYOUT
from vse_tf.preprocessing.view import ImageView

# Largest number of images that one call reads: a dataset per image would take as long as decoding a small one.
CHUNK = 32
# A call reads a complete batch if all images in flight fit into this: chunks have to be copied once more.
IN_FLIGHT_BYTES = 512 * 2**20


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
        bad: what to do with images that cannot be read.
        epoch: the first epoch.
        step: number of steps of that epoch to skip; nothing is read for them.
        workers: number of parallel reads (default: number of CPU cores).
        shard: this worker's number and the number of workers; each takes its slice of every global batch.
        replicas: number of replicas of this worker; consecutive batches go to consecutive replicas.

    Returns:
        The dataset. A batch holds `order.batch_size / (shard[1] * replicas)` pairs: image float32 `(b, h, w, 3)` in
        0..255 (or features), text int32 `(b, bucket)` with −1 as padding (or features), row int32 `(b,)`.
    """
    worker, worker_count = shard
    local = order.batch_size // worker_count
    batch = local // replicas

    @without_autograph
    def of_epoch(number: tf.Tensor) -> tf.data.Dataset:
        samples = tf.numpy_function(lambda n: order.epoch(int(n)), [number], tf.int32, stateful=False)
        samples.set_shape([order.steps_per_epoch, order.batch_size, 4])
        # A broken image is replaced by one from the other half of the epoch, which is hardly ever in the same batch.
        flat = tf.reshape(samples[..., :SEED_LOW], [-1, 2])
        half = flat.shape[0] // 2
        alternates = tf.stack([tf.roll(flat, half + i, axis=0) for i in range(ALTERNATES)], axis=1)
        alternates = tf.reshape(alternates, [order.steps_per_epoch, order.batch_size, ALTERNATES, 2])
        return tf.data.Dataset.from_tensor_slices((samples, alternates))

    stream = tf.data.Dataset.range(epoch, np.iinfo(np.int64).max).flat_map(of_epoch).skip(step)
    part = slice(worker * local, (worker + 1) * local)
    stream = stream.map(without_autograph(lambda samples, alternates: (samples[part], alternates[part])))

    @without_autograph
    def finish(image: tf.Tensor, wanted: tf.Tensor, got: tf.Tensor, caption: tf.Tensor) -> tuple:
        got = bad.watch(split.images, wanted, got)
        got.set_shape([batch])
        texts = read_text(caption)
        texts.set_shape([batch, *texts.shape[1:]])
        return {"image": image, "text": texts}, got

    if isinstance(split.images, EncodedImages):
        images = _read_encoded(stream, split.images, view, bad, batch, workers)
        return images.rebatch(batch, drop_remainder=True).map(finish).prefetch(2)

    @without_autograph
    def load(samples: tf.Tensor, _: tf.Tensor) -> tuple:
        rows = samples[:, ROW]
        image = _load_arrays(split.images, view, rows, samples[:, SEED_LOW:])
        return finish(image, rows, rows, samples[:, CAPTION])

    return stream.rebatch(batch, drop_remainder=True).map(load, num_parallel_calls=2, deterministic=True).prefetch(2)


def text_reader(
    split: Split, tokenizer: text.Tokenizer, text_settings: TextSettings
) -> Callable[[tf.Tensor], tf.Tensor]:
    """How a batch's captions are read: cached features if the split has them, otherwise padded token ids.

    Args:
        split: the split; its captions are tokenised here, once.
        tokenizer: the tokenizer of the text tower.
        text_settings: lengths that captions are padded to.

    Returns:
        A function for `tf.data` graphs, from indices `(b,)` in `split.captions` to features `(b, d)` or
        `(b, length, d)`, or to int32 `(b, bucket)` with −1 as padding.
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


def array_batches(images: Images, view: ImageView, batch_size: int) -> tf.data.Dataset:
    """All images or features that are rows of arrays once, in row order, for encoding; the last batch is smaller.

    Args:
        images: the images; `ImageReader` reads encoded ones.
        view: how they are prepared.
        batch_size: number of images in a batch.
    """
    rows = tf.data.Dataset.range(len(images)).batch(batch_size)
    load = without_autograph(lambda row: _load_arrays(images, view, row, None))
    return rows.map(load, num_parallel_calls=2, deterministic=True).prefetch(2)


def _read_encoded(
    samples: tf.data.Dataset,
    images: EncodedImages,
    view: ImageView,
    bad: BadImages,
    batch: int,
    workers: int | None,
) -> tf.data.Dataset:
    """Read encoded images in chunks, with a few batches of them in flight.

    From `(samples, alternates)`, int `(n, 4)` and `(n, ALTERNATES, 2)`, it makes `(images, rows wanted, rows got,
    captions)`. A sample that cannot be read is replaced by the first of its alternates that can be. If none can be
    read, the image is black and the row got is −1.
    """
    contents_of = _contents_of(images, view.max_pixels)

    @without_autograph
    def decoded(sample: tf.Tensor, candidate: tf.Tensor, contents: tf.Tensor, layout: tf.Tensor) -> tuple:
        image = view.of_checked(accepted(contents, layout), layout, sample[SEED_LOW:])
        image.set_shape([*view.pixels, 3])
        return image, sample[ROW], candidate[ROW], candidate[CAPTION]

    @without_autograph
    def read(sample: tf.Tensor, candidate: tf.Tensor) -> tuple:
        contents, layouts = contents_of(candidate[None, ROW])
        return decoded(sample, candidate, contents[0], layouts[0])

    @without_autograph
    def read_or_replace(sample: tf.Tensor, alternates: tf.Tensor) -> tf.data.Dataset:
        candidates = sample[None, :SEED_LOW]
        if bad.on_bad == "skip":
            candidates = tf.concat([candidates, alternates], axis=0)
        black = (tf.zeros([*view.pixels, 3]), sample[ROW], tf.constant(-1), sample[CAPTION])
        readable = (
            tf.data.Dataset.from_tensor_slices(candidates).map(without_autograph(partial(read, sample))).ignore_errors()
        )
        return readable.concatenate(tf.data.Dataset.from_tensors(black)).take(1)

    @without_autograph
    def read_chunk(samples: tf.Tensor, alternates: tf.Tensor) -> tf.data.Dataset:
        """One element with all images of the chunk; they are read one by one only if one of them is broken."""
        count = tf.shape(samples, tf.int64)[0]
        each = tf.data.Dataset.from_tensor_slices((samples, alternates))
        if isinstance(images, FileImages):
            first = each.map(without_autograph(lambda sample, _: read(sample, sample)))
        else:
            # One call of Python for all of them.
            contents = tf.data.Dataset.from_tensor_slices((samples, *contents_of(samples[:, ROW])))
            first = contents.map(without_autograph(lambda sample, *checked: decoded(sample, sample, *checked)))
        at_once = first.batch(count, drop_remainder=True).ignore_errors()
        return at_once.concatenate(each.flat_map(read_or_replace).batch(count)).take(1)

    calls = workers or os.cpu_count() or 1
    # The interleave holds the chunks of its cycle and prefetches twice as many.
    in_flight = 3 * calls * batch * np.prod(view.pixels) * 3 * 4
    chunks = samples.rebatch(batch if in_flight <= IN_FLIGHT_BYTES else max(1, min(CHUNK, batch // calls)))
    return chunks.interleave(read_chunk, cycle_length=calls, num_parallel_calls=calls, deterministic=True)


def _contents_of(images: EncodedImages, max_pixels: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """How a `tf.data` graph reads the contents of image files, `(n,)`, and checks them, from their rows.

    The layouts are those of `layout_or_refused`, int64 `(n, 9)`. Of `FileImages` it reads one.
    """

    def layout(contents: bytes) -> np.ndarray:
        return layout_or_refused(contents, max_pixels)

    if isinstance(images, FileImages):
        paths = tf.constant(images.paths)

        def read_one(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            contents = tf.io.read_file(tf.gather(paths, rows[0]))
            found = tf.numpy_function(layout, [contents], tf.int64, stateful=False)
            return contents[None], tf.ensure_shape(found, LAYOUT.shape)[None]

        return read_one

    def read(row: int) -> bytes:
        try:
            return images.read(row)
        except OSError:
            # It does not decode, and `BadImages` finds the reason.
            return b""

    def read_all(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        contents = [read(int(row)) for row in rows]
        return np.array(contents, object), np.array([layout(each) for each in contents]).reshape([-1, *LAYOUT.shape])

    def read_checked(rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        contents, layouts = tf.numpy_function(read_all, [rows], [tf.string, tf.int64], stateful=False)
        return tf.ensure_shape(contents, rows.shape), tf.ensure_shape(layouts, [*rows.shape, *LAYOUT.shape])

    return read_checked


def _load_arrays(images: Images, view: ImageView, rows: tf.Tensor, seeds: tf.Tensor | None) -> tf.Tensor:
    """A batch of images or features that are rows of arrays, prepared."""
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
    # Older run folders have no `resize` where arrays of the encoder's size are not resized.
    unchanged = shape[:2] == view.size and (not view.resize or view.resize == max(view.pixels))
    if unchanged and not training:
        return tf.cast(loaded, tf.float32)
    spec = tf.TensorSpec([*view.pixels, 3], tf.float32)
    if training:
        return tf.map_fn(lambda x: view.of_pixels(*x), (loaded, seeds), fn_output_signature=spec)
    return tf.map_fn(lambda x: view.of_pixels(x, None), loaded, fn_output_signature=spec)
