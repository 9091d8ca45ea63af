"""Does the relevance of the best hit tell whether what was asked for is in the gallery? And the bare score?

    python -m benchmarks.relevance --run RUN

The images of the run's validation split are split at random into a gallery and those that were taken out, and then the
other way round, several times. Queries are the captions of both: `in`, whose image is in the gallery, and `out`, whose
image was taken out; something like it may still be there. `salad` are queries of words of the vocabulary in random
order. Prints the ROC AUC of relevance and bare score, and for each threshold the shares of the queries whose best hit
is not below it: of `in` the hit rate, of the others the false alarms. `--min_relevance` is chosen from it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile

import numpy as np

from benchmarks.validation import encoded_validation
from vse_tf.artifacts.background import background_texts
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import run_command
from vse_tf.indexing.relevance import Relevance, calibrate
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.mixing import Query

PROG = "python -m benchmarks.relevance"
THRESHOLDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
WORDS = 6


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a positive is above a negative, half of the ties counted.

    Example:
        >>> auc(np.array([0.9, 0.5]), np.array([0.5, 0.1]))
        0.875
    """
    ordered = np.sort(negative)
    below, up_to = (np.searchsorted(ordered, positive, side=side) for side in ("left", "right"))
    return float((below + up_to).mean() / (2 * len(negative)))


def best_hits(
    images: np.ndarray, texts: np.ndarray, queries: np.ndarray, plain_dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Relevance and score of the best hit of each query in a gallery of images.

    Args:
        images: the gallery, float32 `(n, dim)`.
        texts: background captions, float32 `(m, dim)`.
        queries: float32 `(q, dim)`.
        plain_dim: dimensions of the space.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = IndexWriter(folder, "images", images.shape[1], plain_dim)
        calibration = calibrate(lambda: [images], len(images), "images", plain_dim, texts)
        items = [Item(str(row), path=str(row)) for row in range(len(images))]
        index = writer.commit([writer.write(images)], items, {}, root=folder, calibration=calibration)
        rows, scores = ExactSearch(index)(queries, 1)
        found = Relevance(index).of_all([Query(query, "captions") for query in queries], rows, scores)
    return np.array(found)[:, 0], scores[:, 0]


def salad(captions: list[str], count: int, random: np.random.Generator) -> list[str]:
    """Queries of random words of captions."""
    words = sorted({word for caption in captions for word in caption.lower().split()})
    return [" ".join(words[place] for place in random.integers(0, len(words), WORDS)) for _ in range(count)]


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv: its arguments (default: those of the process).
    """
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--splits", type=int, default=3, help="random splits of the images, each used both ways")
    parser.add_argument("--queries", type=int, default=1000, help="captions for each gallery, of either kind, at most")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    embedder, split, encoded = encoded_validation(options.run)
    encoded = embedder.corrected(encoded)
    texts = embedder.encode_texts(background_texts({"kind": "run", "path": options.run}))
    random = np.random.default_rng(0)
    nonsense = embedder.encode_texts(salad(list(split.captions), options.queries, random))
    values: dict[str, list[np.ndarray]] = {}
    for _ in range(options.splits):
        half = random.permutation(len(encoded.image)) < len(encoded.image) // 2
        for inside in (half, ~half):
            of_inside = inside[encoded.image_id]
            asked = {
                name: encoded.text[random.permutation(np.flatnonzero(chosen))[: options.queries]]
                for name, chosen in (("in", of_inside), ("out", ~of_inside))
            }
            asked["salad"] = nonsense
            for name, queries in asked.items():
                found = best_hits(encoded.image[inside], texts, queries, embedder.plain_dim)
                values.setdefault(name, []).append(np.stack(found))
    every = {name: np.concatenate(found, axis=1) for name, found in values.items()}
    counts = ", ".join(f"{found.shape[1]:,} {name}" for name, found in every.items())
    print(f"{len(encoded.image):,} images, a half of them in each gallery; queries: {counts}\n")
    print("| ROC AUC | in against out | in against salad |\n|---|---|---|")
    areas = {}
    for place, what in enumerate(("relevance", "bare score")):
        areas[what] = [auc(every["in"][place], every[name][place]) for name in ("out", "salad")]
        print(f"| {what} | {areas[what][0]:.3f} | {areas[what][1]:.3f} |")
    print("\n| relevance from | in: hits | out: false alarms | salad: false alarms |\n|---|---|---|---|")
    shares = {str(least): [float((found[0] >= least).mean()) for found in every.values()] for least in THRESHOLDS}
    for least, found in shares.items():
        print(f"| {least} | {' | '.join(f'{100 * share:.1f} %' for share in found)} |")
    print(json.dumps({"auc": areas, "above": shares}))


if __name__ == "__main__":
    run_command(main)
