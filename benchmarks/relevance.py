"""Does the relevance of the best hit tell whether what was asked for is in the gallery? And the bare score?

    python -m benchmarks.relevance --run RUN [--plain]

The images of the run's validation split are split at random into a gallery and those that were taken out, and then the
other way round, several times. Queries are the captions of both: `in`, whose image is in the gallery, and `out`, whose
image was taken out; something like it may still be there. `salad` are queries of words of the vocabulary in random
order. Prints the ROC AUC of relevance and bare score, and of other definitions that were considered: the hubness of an
item is its mean score with its nearest background captions, the query's mean and deviation are those over the gallery.
For each threshold of relevance it prints the shares of the queries whose best hit is not below it: of `in` the hit
rate, of the others the false alarms. `--min_relevance` is chosen from it. `--plain` leaves out a hubness correction.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np

from benchmarks.validation import encoded_validation
from vse_tf.artifacts.background import background_texts
from vse_tf.errors import run_command
from vse_tf.indexing.relevance import calibrate, relevance
from vse_tf.models.folding import plain
from vse_tf.models.mixing import Query

PROG = "python -m benchmarks.relevance"
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
NEAREST = 20
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


def best_hits(images: np.ndarray, texts: np.ndarray, queries: np.ndarray, plain_dim: int) -> dict[str, np.ndarray]:
    """What the best hit of each query in a gallery of images has: its relevance, its score, and what was tried instead.

    Args:
        images: the gallery, float32 `(n, dim)`.
        texts: background captions, float32 `(m, dim)`.
        queries: captions, float32 `(q, dim)`.
        plain_dim: dimensions of the space.
    """
    calibration = calibrate(lambda: [images], len(images), "images", plain_dim, texts)
    scores = queries @ images.T
    ordered = -np.sort(-scores, axis=1)
    best = ordered[:, 0]
    found = relevance(calibration, Query(queries[0], "captions"), best)
    assert found is not None
    hubness = np.sort(texts @ images.T, axis=0)[-NEAREST:].mean(axis=0)
    return {
        "relevance": found,
        "bare score": best,
        "score less the item's hubness": best - hubness[scores.argmax(axis=1)],
        "z-score over the query's scores": (best - scores.mean(axis=1)) / scores.std(axis=1),
        "score less the query's mean": best - scores.mean(axis=1),
        "gap to the next nine": best - ordered[:, 1:10].mean(axis=1),
    }


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
    parser.add_argument("--plain", action="store_true", help="without the hubness correction")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    embedder, split, encoded = encoded_validation(options.run)
    dim = embedder.plain_dim
    if not options.plain:
        encoded = embedder.corrected(encoded)

    def encode(captions: list[str]) -> np.ndarray:
        vectors = embedder.encode_texts(captions)
        return plain(vectors, dim) if options.plain else vectors

    texts = encode(background_texts({"kind": "run", "path": options.run}))
    random = np.random.default_rng(0)
    nonsense = encode(salad(list(split.captions), options.queries, random))
    values: dict[str, list[dict[str, np.ndarray]]] = {}
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
                values.setdefault(name, []).append(best_hits(encoded.image[inside], texts, queries, dim))
    definitions = list(values["in"][0])
    every = {
        name: {what: np.concatenate([each[what] for each in found]) for what in definitions}
        for name, found in values.items()
    }
    counts = ", ".join(f"{len(found['relevance']):,} {name}" for name, found in every.items())
    print(f"{len(encoded.image):,} images, a half of them in each gallery; queries: {counts}\n")
    print("| ROC AUC | in against out | in against salad |\n|---|---|---|")
    areas = {}
    for what in definitions:
        areas[what] = [auc(every["in"][what], every[name][what]) for name in ("out", "salad")]
        print(f"| {what} | {areas[what][0]:.3f} | {areas[what][1]:.3f} |")
    print("\n| relevance from | in: hits | out: false alarms | salad: false alarms |\n|---|---|---|---|")
    shares = {
        str(least): [float((found["relevance"] >= least).mean()) for found in every.values()] for least in THRESHOLDS
    }
    for least, found in shares.items():
        print(f"| {least} | {' | '.join(f'{100 * share:.1f} %' for share in found)} |")
    print(json.dumps({"auc": areas, "above": shares}))


if __name__ == "__main__":
    run_command(main)
