"""Blockwise ranking against its limit, the bare matrix product of the same embeddings, measured in the same run.

    python -m benchmarks.ranking [--full] [--images N] [--captions M] [--dim D] [--block-mb B] [--noise S]

Prints one JSON line: seconds of the bare product (in column blocks, nothing done with it) and of `ranks`, their
ratio, and the peak memory that ranking needed beyond the two embedding matrices.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np

from vse_tf.evaluation.ranking import ranks
from vse_tf.evaluation.similarity import BLOCK_BYTES


def unit(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length one, in place."""
    values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return values


def resident_mb() -> float:
    """Memory that the process holds now, in MB (its peak where the system does not tell)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    scale = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


class Peak:
    """Highest memory in use while the block runs, sampled every two milliseconds."""

    def __enter__(self) -> Peak:
        self.mb, self.running = resident_mb(), True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    def _watch(self) -> None:
        while self.running:
            self.mb = max(self.mb, resident_mb())
            time.sleep(0.002)


def bare_product(image: np.ndarray, text: np.ndarray, block_bytes: int) -> None:
    """The matrix product alone, in column blocks of the same memory."""
    width = max(1, block_bytes // 4 // len(image))
    out = np.empty((len(image), width), np.float32)
    for start in range(0, len(text), width):
        part = text[start : start + width]
        np.matmul(image, part.T, out=out[:, : len(part)])


def timed(function: object, *args: object) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function(*args)  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="5,000 images, 25,000 captions, 1,024 dimensions")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--captions", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--block-mb", type=float, default=BLOCK_BYTES / 2**20)
    parser.add_argument("--noise", type=float, default=None, help="captions = image + noise; unset: unrelated")
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    n, m, dim = (5000, 25000, 1024) if args.full else (args.images, args.captions, args.dim)

    random = np.random.default_rng(0)
    rows = np.arange(m) * n // m
    image = unit(random.standard_normal((n, dim), dtype=np.float32))
    text = random.standard_normal((m, dim), dtype=np.float32)
    if args.noise is not None:
        text *= args.noise / np.sqrt(dim)
        for start in range(0, m, 1024):
            text[start : start + 1024] += image[rows[start : start + 1024]]
    text = unit(text)

    block = int(args.block_mb * 2**20)
    with Peak() as peak:  # the first call, so that memory the product keeps for itself counts too
        before = resident_mb()
        ranks(image, text, rows, block)
    pairs = [
        (timed(bare_product, image, text, block), timed(ranks, image, text, rows, block)) for _ in range(args.repeat)
    ]
    result = {
        "images": n,
        "captions": m,
        "dim": dim,
        "product_s": round(statistics.median(bare for bare, _ in pairs), 4),
        "ranks_s": round(statistics.median(ours for _, ours in pairs), 4),
        "ratio": round(statistics.median(ours / bare for bare, ours in pairs), 3),
        "extra_mb": round(peak.mb - before, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
