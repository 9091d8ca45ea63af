"""Exact search over merged indexes on disk: ten million vectors, as ten indexes of a million.

    python -m benchmarks.merged_search [--indexes N] [--vectors N] [--dim D] [--folder DIR]

Prints one JSON line: size on disk, seconds to merge (links, no copies) and to open, seconds of one query with nothing
in the system's file cache and with everything in it, seconds of a query in a batch of 64, bytes read a second, and the
memory that a search holds beyond the mapped files. Processor seconds are printed too: they hold on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.ranking import timed, unit
from benchmarks.search import CLUSTERS, draw, queries_of
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.indexing.merging import merge
from vse_tf.indexing.search import ExactSearch

SHARD_ROWS = 131_072


def make_index(folder: Path, number: int, rows: int, dim: int) -> Path:
    """One of the indexes; one that is there is taken."""
    if not (folder / "manifest.json").exists():
        centres = unit(np.random.default_rng(0).standard_normal((CLUSTERS, dim), dtype=np.float32))
        random = np.random.default_rng([1, number])
        writer = IndexWriter(folder, "captions", dim)
        sizes = [min(SHARD_ROWS, rows - at) for at in range(0, rows, SHARD_ROWS)]
        shards = [writer.write(draw(size, centres, 0.6, random)) for size in sizes]
        items = (Item(f"{number}-{row}", caption=f"vector {row} of part {number}") for row in range(rows))
        writer.commit(shards, items, {"kind": "run", "path": "synthetic", "id": "synthetic"})
    return folder


def forget(index: Index) -> bool:
    """Take the shards out of the system's file cache, where that can be asked for."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for shard in index.shards:
        with (index.folder / shard.name).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def anonymous_mb() -> float:
    """Memory of the process's own, without mapped files, in MB; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


class AnonymousPeak:
    """Highest such memory while the block runs, sampled every five milliseconds."""

    def __enter__(self) -> AnonymousPeak:
        self.mb, self.running = anonymous_mb(), True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            self.mb = max(self.mb, anonymous_mb())
            time.sleep(0.005)


def measured(search: ExactSearch, query: np.ndarray, repeat: int) -> tuple[float, float]:
    """Seconds of a search and processor seconds of all its threads, medians."""
    found = []
    for _ in range(repeat):
        cpu, seconds = time.process_time(), timed(search, query, 10)
        found.append((seconds, time.process_time() - cpu))
    return statistics.median(one for one, _ in found), statistics.median(one for _, one in found)


def main() -> None:
    """Run the benchmark and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexes", type=int, default=10)
    parser.add_argument("--vectors", type=int, default=1_000_000, help="of each index")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the indexes here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = args.folder or Path(temporary)
        made = [make_index(place / f"{n:03d}", n, args.vectors, args.dim) for n in range(args.indexes)]
        output = Path(tempfile.mkdtemp(dir=place)) / "merged"
        merging = timed(merge, made, output)
        opening = timed(Index.open, output)
        index = Index.open(output)
        size = sum((index.folder / shard.name).stat().st_size for shard in index.shards)
        query, search = queries_of(index, 64), ExactSearch(index)
        cold = timed(search, query[:1], 10) if forget(index) else None
        before = anonymous_mb()
        with AnonymousPeak() as peak:
            search(query, 10)
        one, one_cpu = measured(search, query[:1], args.repeat)
        batch, batch_cpu = measured(search, query, args.repeat)
        result = {
            "vectors": index.count,
            "dim": index.dim,
            "shards": len(index.shards),
            "disk_gb": round(size / 1e9, 2),
            "merge_s": round(merging, 1),
            "open_s": round(opening, 3),
            "cold_query_s": None if cold is None else round(cold, 2),
            "query_s": round(one, 3),
            "query_cpu_s": round(one_cpu, 3),
            "gb_per_s": round(size / 1e9 / one, 2),
            "batched_query_s": round(batch / len(query), 4),
            "batched_query_cpu_s": round(batch_cpu / len(query), 4),
            "items_s": round(timed(index.items, search(query[:1], 10)[0][0]), 2),
            "anonymous_mb": round(peak.mb - before, 1),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()
