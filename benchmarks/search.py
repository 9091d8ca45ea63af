"""Searching an index on disk against its limit, the bare matrix product of the same vectors, in the same run.

    python -m benchmarks.search [--vectors N ...] [--dim D] [--queries Q] [--search NAME ...]
        [--storage FORM] [--folder DIR]

Prints one JSON line for each number of vectors and way to search: queries a second one at a time and in a batch, the
ratio to the bare product (the shards mapped and multiplied, nothing done with the scores), the same with the relevance
of each hit, recall@10 against exact search, and resident memory beyond what the process held before. Vectors are drawn
around cluster centres; queries are vectors with noise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.ranking import Peak, resident_mb, timed, unit
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.shards import map_shard
from vse_tf.indexing.compacting import compacted
from vse_tf.indexing.relevance import calibrate, relevance
from vse_tf.models.mixing import Query

CLUSTERS = 1000
SHARD_ROWS = 16384
TEXTS = 1000


def draw(rows: int, centres: np.ndarray, noise: float, random: np.random.Generator) -> np.ndarray:
    """Unit vectors around centres."""
    dim = centres.shape[1]
    vectors = random.standard_normal((rows, dim), dtype=np.float32) * np.float32(noise / np.sqrt(dim))
    vectors += centres[random.integers(0, len(centres), rows)]
    return unit(vectors)


def make_index(
    folder: Path, rows: int, dim: int, shard_rows: int = SHARD_ROWS, calibrated: bool = False, storage: str = "float32"
) -> Index:
    """An index of synthetic vectors, written shard by shard; one that is there is taken."""
    if (folder / "manifest.json").exists():
        return Index.open(folder)
    random = np.random.default_rng(0)
    centres = unit(random.standard_normal((CLUSTERS, dim), dtype=np.float32))
    writer = IndexWriter(folder, "images", dim)
    shards = [writer.write(draw(min(shard_rows, rows - at), centres, 0.6, random)) for at in range(0, rows, shard_rows)]
    items = (Item(str(row), path=f"{row}.jpg") for row in range(rows))
    model = {"kind": "run", "path": "synthetic", "id": "synthetic"}
    if not calibrated:
        return writer.commit(shards, items, model)
    texts = draw(TEXTS, centres, 0.9, random)
    calibration = calibrate(lambda: (map_shard(folder, shard, dim) for shard in shards), rows, "images", dim, texts)
    compact = compacted(writer, shards, Form.of(storage, dim, dim), calibration)
    return writer.commit(shards, items, model, calibration=calibration, compact=compact)


def queries_of(index: Index, count: int) -> np.ndarray:
    """Vectors of the index with noise."""
    random = np.random.default_rng(1)
    found = index.gather(random.integers(0, index.count, count))
    return unit(found + random.standard_normal(found.shape, dtype=np.float32) * np.float32(0.3 / np.sqrt(index.dim)))


def bare_product(index: Index, query: np.ndarray) -> None:
    """The product of the queries with every shard."""
    for _, vectors in index.vectors():
        np.matmul(query, vectors.T)


def compared(search: Callable, index: Index, query: np.ndarray, batch: int, repeat: int) -> tuple[float, float]:
    """Queries a second in batches of this size and the ratio to the bare product, medians of pairs side by side."""
    parts = [query[at : at + batch] for at in range(0, len(query), batch)]
    pairs = [
        (
            timed(lambda: [bare_product(index, part) for part in parts]),
            timed(lambda: [search(part, 10) for part in parts]),
        )
        for _ in range(repeat)
    ]
    seconds = statistics.median(ours for _, ours in pairs)
    return len(query) / seconds, statistics.median(ours / bare for bare, ours in pairs)


def measure(index: Index, name: str, queries: int, batch: int, repeat: int) -> dict[str, object]:
    """One line of the benchmark."""
    from vse_tf.indexing.faiss import search_backend  # noqa: PLC0415
    from vse_tf.indexing.recall import recall  # noqa: PLC0415
    from vse_tf.indexing.search import ExactSearch  # noqa: PLC0415

    query = queries_of(index, queries)
    bare_product(index, query[:1])  # the vectors are in the system's file cache from here on
    before = resident_mb()
    started = time.perf_counter()
    search = search_backend(name, index)
    ready = time.perf_counter() - started
    with Peak() as peak:
        search(query[:batch], 10)

    def with_relevance(part: np.ndarray, k: int) -> None:
        for one, scores in zip(part, search(part, k)[1], strict=True):
            relevance(index.calibration, Query(one, "captions"), scores)

    with_relevance(query[:1], 10)
    single, ratio = compared(search, index, query[: max(1, queries // 8)], 1, repeat)
    batched, batched_ratio = compared(search, index, query, batch, repeat)
    relevance_ratio = compared(with_relevance, index, query[: max(1, queries // 8)], 1, repeat)[1]
    batched_relevance_ratio = compared(with_relevance, index, query, batch, repeat)[1]
    return {
        "vectors": index.count,
        "dim": index.dim,
        "search": name,
        "queries_per_s": round(single, 1),
        "ratio": round(ratio, 3),
        "batch": batch,
        "batched_queries_per_s": round(batched, 1),
        "batched_ratio": round(batched_ratio, 3),
        "relevance_ratio": round(relevance_ratio, 3),
        "batched_relevance_ratio": round(batched_relevance_ratio, 3),
        "recall_at_10": 1.0 if name == "exact" else round(recall(search, ExactSearch(index), query), 4),
        "ready_s": round(ready, 2),
        "resident_mb": round(peak.mb - before, 1),
    }


def main() -> None:
    """Run the benchmark and print its JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--search", nargs="+", default=["exact"], help="auto, exact, faiss-flat, faiss-ivf, faiss-hnsw")
    parser.add_argument("--storage", default="float32", help="compact vectors, for --search auto: int8:128")
    parser.add_argument("--folder", type=Path, help="keep the indexes here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for vectors in args.vectors:
            folder = (args.folder or Path(temporary)) / f"{vectors}x{args.dim}-{args.storage.replace(':', '-')}"
            index = make_index(folder, vectors, args.dim, calibrated=True, storage=args.storage)
            for name in args.search:
                print(json.dumps(measure(index, name, args.queries, args.batch, args.repeat)), flush=True)


if __name__ == "__main__":
    main()
