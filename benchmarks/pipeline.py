"""The pipeline from JPEG files against its limit, bare decode and resize of the same files in the same run.

    python -m benchmarks.pipeline [--images FOLDER] [--count 500] [--size 224] [--rounds 3]

Without a folder, JPEGs of 500 x 375 pixels are drawn. Both sides read, decode (accurate transform, smooth chroma) and
resize (antialiased, bilinear) on as many threads as there are cores; the bare side does nothing else. Prints one JSON
line: images a second of both and their ratio, for the view of evaluation and the random one of training. Both sides
are endless and work ahead, so counting begins and ends in the middle of the work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image

from vse_tf.data.bad_images import BadImages
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.order import Order
from vse_tf.data.pipeline import training_batches
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.preprocessing.images import decode, default_resize, random_window
from vse_tf.preprocessing.view import ImageView

BATCH, MAX_PIXELS, CROP = 128, 100_000_000, (0.08, 1.0)
AHEAD, COUNTED = 8, 40  # batches that are taken before counting, and that are counted
CORES = os.cpu_count() or 1


def drawn(folder: Path, count: int) -> list[str]:
    """JPEGs with the detail of a photo: smooth shapes and a little noise."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        picture = picture + rng.integers(-12, 12, picture.shape)
        path = folder / f"{i}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


def bare(paths: list[str], size: int, training: bool) -> tf.data.Dataset:
    """Read, decode, resize; for training a random window of the JPEG is decoded, as in the pipeline."""
    resized = default_resize((size, size))

    def read(path: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        contents = tf.io.read_file(path)
        if training:
            shape = tf.io.extract_jpeg_shape(contents)
            window = random_window(shape[0], shape[1], CROP, seed=tf.stack([0, number]))
            image = tf.io.decode_and_crop_jpeg(
                contents, window, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE"
            )
            return tf.image.resize(image, [size, size], antialias=True)
        image = tf.io.decode_jpeg(contents, channels=3, fancy_upscaling=True, dct_method="INTEGER_ACCURATE")
        height, width = tf.unstack(tf.shape(image)[:2])
        scale = resized / tf.minimum(height, width)
        sides = tf.cast(tf.stack([scale * tf.cast(height, tf.float64), scale * tf.cast(width, tf.float64)]), tf.int32)
        image = tf.image.resize(image, sides, antialias=True)
        return tf.image.resize_with_crop_or_pad(image, size, size)

    numbers = np.arange(len(paths), dtype=np.int32)
    stream = tf.data.Dataset.from_tensor_slices((paths, numbers)).repeat()
    return stream.map(read, num_parallel_calls=CORES).batch(BATCH, drop_remainder=training).prefetch(2)


def ours(paths: list[str], size: int, training: bool) -> tf.data.Dataset:
    """The product's own pipeline over the same files."""
    bad = BadImages("fail", MAX_PIXELS)
    view = ImageView((size, size), random_crop=True, crop_scale=CROP)
    if not training:
        enough = 2 * (AHEAD + COUNTED) * BATCH // len(paths) + 1
        return ImageReader(view).batches(FileImages(paths * enough), BATCH, bad)
    images = FileImages(tuple(paths))
    records = tuple(Record(path, ("a photo",), "train", row) for row, path in enumerate(paths))
    order = Order(records, BATCH, "images", seed=0)
    return training_batches(Split("train", records, images), order, view, lambda caption: caption[:, None], bad)


def seconds(make: object, paths: list[str], size: int, training: bool) -> float:
    """Time of the counted batches."""
    stream = iter(make(paths, size, training))  # type: ignore[operator]
    for _ in range(AHEAD):
        next(stream)
    began = time.perf_counter()
    for _ in range(COUNTED):
        next(stream)
    return time.perf_counter() - began


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: drawn ones)")
    parser.add_argument("--count", type=int, default=640, help="images at most")
    parser.add_argument("--size", type=int, default=224, help="height and width of a view")
    parser.add_argument("--rounds", type=int, default=3, help="number of times that both sides are measured in turn")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.images
        paths = sorted(map(str, folder.glob("*.jpg"))) if folder else drawn(Path(scratch), arguments.count)
        paths = paths[: arguments.count]
        decode(tf.io.read_file(paths[0]), MAX_PIXELS)
        found: dict[str, object] = {"images": len(paths), "size": arguments.size}
        for name, training in (("evaluation", False), ("training", True)):
            sides = (bare, ours)
            times = [[seconds(f, paths, arguments.size, training) for f in sides] for _ in range(arguments.rounds)]
            counted = COUNTED * BATCH
            found[name] = {
                "bare_images_per_second": round(counted / min(t[0] for t in times), 1),
                "pipeline_images_per_second": round(counted / min(t[1] for t in times), 1),
                "ratio": round(statistics.median(t[1] / t[0] for t in times), 3),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
