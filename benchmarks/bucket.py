"""What an image from a bucket costs a core: to fetch, find, decode and encode, and its place in an index.

    python -m benchmarks.bucket --images FOLDER [--count 1000] [--vectors 200000]

Needs the extras [remote] and [s3server], whose S3 server runs in a process of its
own on this machine. Prints one JSON line of processor seconds, which hold on a busy machine, and of the milliseconds of
a request.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

SIZE, BATCH, DIM, MAX_PIXELS = 224, 64, 256, 100_000_000
SERVER = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """A server with an empty bucket; its address, which this process may open."""
    import s3fs  # noqa: PLC0415

    from vse_tf.addresses import allow  # noqa: PLC0415

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], **quiet)
    try:
        os.environ.update(KEYS, AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}")
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        s3fs.S3FileSystem().mkdir("photos")
        yield allow("s3://photos")
    finally:
        process.kill()
        process.wait()


def processor_seconds(do: Callable[[], object]) -> float:
    """Processor seconds of this process, all its threads."""
    began = time.process_time()
    do()
    return time.process_time() - began


def reading(address: str, shards: Path) -> tuple[dict[str, float], list[bytes]]:
    """Fetching shards, and single images by ranges of bytes; the images."""
    import s3fs  # noqa: PLC0415

    from vse_tf.config import DataSettings  # noqa: PLC0415
    from vse_tf.data.sources import read  # noqa: PLC0415
    from vse_tf.remote.shards import mirror_of, shards_at  # noqa: PLC0415

    s3fs.S3FileSystem().put(f"{shards}/*.tar", "photos/shards/")
    settings = DataSettings(annotations=f"{address}/shards", cache_dir=str(shards.parent / "cache"))
    paths = shards_at(f"{address}/shards", ".tar", settings)
    mirrors = [found for path in paths if (found := mirror_of(path))]
    size = sum(mirror.version(name).size or 0 for mirror, name in mirrors)
    fetching = processor_seconds(lambda: [mirror.fetch(name) for mirror, name in mirrors])
    began = time.process_time()
    splits = read(settings, progress=False).splits.values()
    indexing = time.process_time() - began
    contents = [split.images.read(row) for split in splits for row in range(len(split))]
    for path in Path(settings.cache_dir or "").rglob("*.tar"):
        path.unlink()
    split = next(iter(splits))
    some = range(min(200, len(split)))
    began, processor = time.perf_counter(), time.process_time()
    for row in some:
        split.images.read(row)
    ranges = {
        "range_ms": 1e3 * (time.perf_counter() - began) / len(some),
        "range_processor_ms": 1e3 * (time.process_time() - processor) / len(some),
    }
    per_image = 1e3 / len(contents)
    found = {"mb": size / 1e6, "images": len(contents), "fetch_processor_s_per_gb": 1e9 * fetching / size}
    return {**found, "fetch_ms": fetching * per_image, "index_shard_ms": indexing * per_image, **ranges}, contents


def encoding(contents: list[bytes]) -> dict[str, float]:
    """Decoding to the encoder's view, and EfficientNetB0."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from vse_tf.preprocessing.images import decode_centre_view  # noqa: PLC0415

    model = keras.applications.EfficientNetB0(weights=None, include_top=False, pooling="avg")
    encode = tf.function(lambda pixels: model(pixels, training=False))
    data = tf.data.Dataset.from_tensor_slices(contents)
    views = data.map(lambda each: decode_centre_view(each, MAX_PIXELS, (SIZE, SIZE)), tf.data.AUTOTUNE).batch(BATCH)
    batches = list(views.take(1))
    encode(batches[0])
    decoding = processor_seconds(lambda: batches.extend(views))
    encoded = processor_seconds(lambda: [encode(batch).numpy() for batch in batches[1:]])
    return {"decode_ms": 1e3 * decoding / len(contents), "encode_ms": 1e3 * encoded / len(contents)}


def indexing(folder: Path, vectors: int) -> dict[str, float]:
    """Writing vectors and items as an index."""
    import numpy as np  # noqa: PLC0415

    from vse_tf.artifacts.index import Item  # noqa: PLC0415
    from vse_tf.artifacts.index_writer import IndexWriter  # noqa: PLC0415
    from vse_tf.indexing.embedding import SHARD_ROWS  # noqa: PLC0415

    values = np.random.default_rng(0).standard_normal((SHARD_ROWS, DIM), np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)

    def write() -> None:
        writer, shards = IndexWriter(folder, "images", DIM), []
        for first in range(0, vectors, SHARD_ROWS):
            shards.append(writer.write(np.roll(values, first // SHARD_ROWS, axis=1)[: vectors - first]))
        items = (Item(f"{n}.tar/{n}.jpg", f"{n}.tar", None, 40_000, 10**18 + n, n) for n in range(vectors))
        writer.commit(shards, items, {"kind": "run", "path": "synthetic", "id": "synthetic"})

    return {"index_build_ms": 1e3 * processor_seconds(write) / vectors}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bucket", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEGs")
    parser.add_argument("--count", type=int, default=1000, help="images at most")
    parser.add_argument("--vectors", type=int, default=200_000, help="vectors of the index that is written")
    arguments = parser.parse_args(argv)
    from vse_tf import pack  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as scratch, bucket() as address:
        folder = Path(scratch)
        paths = sorted(arguments.images.glob("*.jpg"))[: arguments.count]
        rows = [f"{path.name},a photo,train" for path in paths]
        (folder / "captions.csv").write_text("\n".join(["image,caption,split", *rows]) + "\n")
        named = ["--data.annotations", str(folder / "captions.csv"), "--data.images", str(arguments.images)]
        with contextlib.redirect_stdout(sys.stderr):
            pack.main([*named, "--data.cache_dir", str(folder / "cache"), "--output", str(folder / "shards")])
            found: dict[str, Any]
            found, contents = reading(address, folder / "shards")
            found |= encoding(contents)
            found |= indexing(folder / "index", arguments.vectors)
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


if __name__ == "__main__":
    main()
