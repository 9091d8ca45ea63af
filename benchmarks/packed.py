"""Training batches from tar shards and Parquet against those of the same photos as files, and opening many records.

    python -m benchmarks.packed [--images FOLDER] [--count 640] [--rounds 5] [--records 1000000]

Without a folder, JPEGs of 500 x 375 pixels are drawn. The pipelines are the product's own and are measured in turn;
counting begins and ends in the middle of the work. For the records, indexes of shards are written as if the shards had
been read; a process of its own then opens them. Prints one JSON line: images a second and their ratio to files, seconds
and memory of opening.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

BATCH, SIZE, MAX_PIXELS, CROP = 128, 224, 100_000_000, (0.08, 1.0)
AHEAD, COUNTED = 4, 16  # batches that are taken before counting, and that are counted
IN_SHARD = 10_000  # records


def collections(folder: Path, images: Path | None, count: int) -> dict[str, Any]:
    """The same photos as files, as tar shards and as Parquet."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    from benchmarks.pipeline import drawn  # noqa: PLC0415
    from vse_tf import pack  # noqa: PLC0415
    from vse_tf.config import DataSettings  # noqa: PLC0415
    from vse_tf.data.sources import read  # noqa: PLC0415

    (folder / "photos").mkdir()
    paths = sorted(map(str, images.glob("*.jpg"))) if images else drawn(folder / "photos", count)
    paths = paths[:count]
    rows = [f"{path},a photo,train" for path in paths]
    (folder / "captions.csv").write_text("\n".join(["image,caption,split", *rows]) + "\n")
    root, cache = str(Path(paths[0]).parent), str(folder / "cache")
    named = ["--data.annotations", str(folder / "captions.csv"), "--data.images", root, "--data.cache_dir", cache]
    pack.main([*named, "--output", str(folder / "shards")])
    cells = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in paths]
    table = pa.table({"image": cells, "caption": ["a photo"] * len(paths)})
    (folder / "parquet").mkdir()
    parquet.write_table(table, folder / "parquet" / "train-00000-of-00001.parquet", row_group_size=100)
    annotations = {"files": folder / "captions.csv", "tar": folder / "shards", "parquet": folder / "parquet"}
    return {
        name: read(
            DataSettings(annotations=str(path), images=root if name == "files" else None, cache_dir=cache), False
        )
        for name, path in annotations.items()
    }


def seconds(split: Any, workers: int | None) -> tuple[float, float]:
    """Time of the counted batches of a split, and the processor time of this process."""
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.data.order import Order  # noqa: PLC0415
    from vse_tf.data.pipeline import training_batches  # noqa: PLC0415
    from vse_tf.preprocessing.view import ImageView  # noqa: PLC0415

    view = ImageView((SIZE, SIZE), random_crop=True, crop_scale=CROP)
    order, bad = Order(split.records, BATCH, "images", seed=0), BadImages("fail", MAX_PIXELS)
    batches = iter(training_batches(split, order, view, lambda caption: caption[:, None], bad, workers=workers))
    for _ in range(AHEAD):
        next(batches)
    began, processor = time.perf_counter(), time.process_time()
    for _ in range(COUNTED):
        next(batches)
    return time.perf_counter() - began, time.process_time() - processor


def write_indexes(folder: Path, records: int) -> None:
    """Shards without contents, and what the cache has of such shards once they have been read."""
    from vse_tf.cache import cached_result  # noqa: PLC0415
    from vse_tf.config import TableSettings  # noqa: PLC0415
    from vse_tf.data.sources.webdataset import index_name  # noqa: PLC0415

    for number, first in enumerate(range(0, records, IN_SHARD)):
        path = folder / f"{'val' if number == 0 else 'train'}-{number:05d}.tar"
        samples, start = [], 512
        for row in range(first, min(records, first + IN_SHARD)):
            # Equal sizes in two splits would be compared.
            length = 40_000 + 2 * (row % 9973) + (number == 0)
            caption = f"a photo of thing {row} that stands near thing {row * 7 % records} in the light of day"
            samples.append([f"{row:09d}.jpg", start, length, 640, 480, 1, "", [caption], None, None, []])
            start += length + 2048 - length % 512
        with path.open("wb") as file:
            file.truncate(start)
        values = {"samples": samples, "problems": [], "bad_captions": []}
        cached_result(folder / "cache", path, index_name(TableSettings()), partial(dict, values))


def open_records(folder: Path) -> None:
    """Open the shards and print what it took; runs in a process of its own."""
    from vse_tf.config import DataSettings  # noqa: PLC0415
    from vse_tf.data.sources import read  # noqa: PLC0415

    began, processor = time.perf_counter(), time.process_time()
    data = DataSettings(source="webdataset", annotations=str(folder), cache_dir=str(folder / "cache"))
    splits = read(data, progress=False).splits
    taken = {"seconds": time.perf_counter() - began, "processor_s": time.process_time() - processor}
    # Not ru_maxrss: there a process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text("utf-8").splitlines()
    memory = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1e6
    rounded = {key: round(value, 2) for key, value in {**taken, "memory_gb": memory}.items()}
    print(json.dumps({"records": sum(map(len, splits.values())), **rounded}))


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of JPEGs (default: drawn ones)")
    parser.add_argument("--count", type=int, default=640, help="images at most")
    parser.add_argument("--rounds", type=int, default=5, help="number of times that all are measured in turn")
    parser.add_argument("--records", type=int, default=1_000_000, help="records that are opened")
    parser.add_argument("--workers", type=int, help="parallel reads (default: number of CPU cores)")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.open:
        open_records(arguments.open)
        return
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        ways = collections(Path(scratch), arguments.images, arguments.count)
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, collection in ways.items():
                times[name].append(seconds(collection.splits["train"], arguments.workers))
    for name, each in times.items():
        ratios = [[files[i] / mine[i] for files, mine in zip(times["files"], each, strict=True)] for i in range(2)]
        found[name] = {
            "images_per_second": round(COUNTED * BATCH / min(wall for wall, _ in each), 1),
            "ratio": round(statistics.median(ratios[0]), 3),
            "processor_ratio": round(statistics.median(ratios[1]), 3),
        }
    with tempfile.TemporaryDirectory() as scratch:
        write_indexes(Path(scratch), arguments.records)
        command = [sys.executable, "-m", "benchmarks.packed", "--open", scratch]
        found["opening"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
