"""The cache of a frozen backbone's features against its limit, the bare backbone on decoded pixels in the same run.

    python -m benchmarks.features [--images FOLDER] [--encoder MobileNet] [--size 224] [--photos 96] [--rounds 3]

Without a folder, JPEGs of 500 x 375 pixels are drawn; the backbone has random weights. `views` are the centre view, its
mirror image and two random crops, as `image.flip` and `data.feature_crops` 2 cache them; `centre` is the centre view
alone, as for validation. The product reads, decodes, crops, runs the backbone and writes the shards; the bare side
calls the traced `backbone(pixels)` on a batch of the same size in memory. Both are traced before. Prints one JSON line:
views a second of both, the product's time over the bare side's, and the same ratio of processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

from benchmarks.pipeline import drawn
from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.models.backbones import backbone_of
from vse_tf.models.feature_cache import IMAGE_BATCH, FeatureCache, ImageInputs, training_views
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.preprocessing.view import ImageView

MAX_PIXELS = 100_000_000


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    began, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - began, time.process_time() - used


def split_of(paths: list[str]) -> Split:
    """A split of these photos."""
    records = tuple(Record(path, ("a photo",), "train", row) for row, path in enumerate(paths))
    return Split("train", records, FileImages(tuple(paths)))


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: drawn ones)")
    parser.add_argument("--encoder", default="MobileNet", help="a model of keras.applications, with random weights")
    parser.add_argument("--size", type=int, default=224, help="height and width of a view")
    parser.add_argument("--photos", type=int, default=96, help="number of photos, rounded to complete batches")
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of both sides")
    arguments = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    image = ImageSettings(encoder=f"applications:{arguments.encoder}", weights="none", size=arguments.size, flip=True)
    tower = image_tower_from_settings(image, ModelSettings())
    backbone = backbone_of(tower)
    assert backbone is not None
    bare = tf.function(lambda pixels: backbone(pixels, training=False))
    view = ImageView.of(image, (arguments.size, arguments.size), MAX_PIXELS)
    inputs = ImageInputs(view, BadImages("fail", MAX_PIXELS))
    pixels = tf.random.uniform([IMAGE_BATCH, *view.pixels, 3], maxval=255)
    batches = max(1, arguments.photos // IMAGE_BATCH)
    found: dict[str, object] = {"encoder": arguments.encoder, "size": arguments.size, "batch": IMAGE_BATCH}
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.images
        count = batches * IMAGE_BATCH
        paths = sorted(map(str, folder.glob("*.jpg"))) if folder else drawn(Path(scratch), count)
        if len(paths) < count:
            parser.error(f"{folder} holds {len(paths)} JPEGs, fewer than {count}")
        split = split_of(paths[:count])
        cache = FeatureCache(tower, inputs, Path(scratch, "cache"), progress=False)
        for name, views in (("centre", ["centre"]), ("views", training_views(flip=True, crops=2))):
            # Both are traced here.
            bare(pixels)
            cache.split(split_of(paths[:IMAGE_BATCH]), views)
            runs = batches * len(views)
            times = []
            for number in range(arguments.rounds):
                cache.folder = Path(scratch, f"cache-{name}-{number}")
                of_bare = timed(lambda runs=runs: [bare(pixels).numpy() for _ in range(runs)])
                times.append((of_bare, timed(lambda views=views: cache.split(split, views))))
            views_counted = runs * IMAGE_BATCH
            found[name] = {
                "bare_views_per_second": round(views_counted / min(one[0] for one, _ in times), 1),
                "cached_views_per_second": round(views_counted / min(one[0] for _, one in times), 1),
                "ratio": round(statistics.median(mine[0] / one[0] for one, mine in times), 3),
                "processor_ratio": round(statistics.median(mine[1] / one[1] for one, mine in times), 3),
            }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
