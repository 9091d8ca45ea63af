"""Choosing settings honestly: recalls of runs on one half of the validation images, or on the other and on all of them.

    python -m benchmarks.halves choose RUN…
    python -m benchmarks.halves report RUN…

Settings that are chosen on the images on which they are reported look better than they are. So compare settings with
`choose`, which shows the first half alone, and then measure the chosen ones with `report`: the second half, on which
nothing was chosen, and the whole. An image's half follows from its file's name, so it is the same for every run and on
every machine. Each half is a gallery of its own: its recalls are higher than those of the whole and not comparable with
them. The epoch is the run's best on all validation images.

How often settings were measured on each half is counted in `--looks`; a table of settings says it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.validation import encoded_validation
from vse_tf.errors import run_command

if TYPE_CHECKING:
    from vse_tf.embedder import EncodedSplit

PROG = "python -m benchmarks.halves"
FIRST, SECOND, WHOLE = "first half", "second half", "whole"
SHOWN = {"choose": (FIRST,), "report": (SECOND, WHOLE)}
COLUMNS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")


def in_first_half(image: str) -> bool:
    """Whether an image belongs to the half that settings are chosen on.

    Args:
        image: its path or name; only the name of the file counts.
    """
    return hashlib.sha256(Path(image).name.encode()).digest()[0] < 128


def part(encoded: EncodedSplit, chosen: np.ndarray) -> EncodedSplit:
    """Some images of an encoded split and their captions.

    Args:
        encoded: the split.
        chosen: bool `(images,)`.
    """
    captions = chosen[encoded.image_id]
    place = np.cumsum(chosen) - 1
    return replace(
        encoded,
        image=encoded.image[chosen],
        text=encoded.text[captions],
        image_id=place[encoded.image_id[captions]],
        rows=encoded.rows[chosen],
    )


def measured(run: str, parts: tuple[str, ...]) -> dict[str, dict[str, dict[str, float]]]:
    """The metrics of a run on parts of its validation split: `{part: {"metrics": …}}`, corrected ones too."""
    from vse_tf.evaluation.metrics import measure_both  # noqa: PLC0415

    embedder, split, encoded = encoded_validation(run)
    first = np.array([in_first_half(split.records[row].image) for row in encoded.rows])
    galleries = {FIRST: part(encoded, first), SECOND: part(encoded, ~first), WHOLE: encoded}
    both = {name: measure_both(embedder, galleries[name], 1) for name in parts}
    return {name: {key: each.metrics for key, each in found.items()} for name, found in both.items()}


def counted(looks: Path, parts: tuple[str, ...], runs: int) -> dict[str, int]:
    """Count measurements of both halves in a file; the whole is a look at each.

    Args:
        looks: the file, a JSON object.
        parts: what is measured.
        runs: number of runs.

    Returns:
        Measurements of each half since the file was begun.
    """
    count = {FIRST: 0, SECOND: 0} | (json.loads(looks.read_text("utf-8")) if looks.exists() else {})
    for half in count:
        count[half] += runs * (half in parts or WHOLE in parts)
    looks.parent.mkdir(parents=True, exist_ok=True)
    looks.write_text(json.dumps(count) + "\n", encoding="utf-8")
    return count


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).
    """
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("what", choices=SHOWN, help="choose: the first half; report: the second half and the whole")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, for example one for each seed")
    parser.add_argument(
        "--looks", type=Path, default=Path("runs/looks.json"), help="file that counts the measurements of each half"
    )
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    parts = SHOWN[options.what]
    print("| run | part | metrics | " + " | ".join(column.replace("_r", " R@") for column in COLUMNS) + " |")
    print("|---|---|---|" + "---|" * len(COLUMNS))
    every: dict[tuple[str, str], list[float]] = {}
    for run in options.runs:
        for name, found in measured(run, parts).items():
            for key, metrics in found.items():
                kind = "plain" if key == "metrics" else "corrected"
                every.setdefault((name, kind), []).append(metrics["rsum"])
                values = " | ".join(f"{metrics[column]:.1f}" for column in COLUMNS)
                print(f"| {Path(run).name} | {name} | {kind} | {values} |", flush=True)
    for (name, kind), sums in every.items():
        spread = f" ± {statistics.stdev(sums):.1f}" if len(sums) > 1 else ""
        print(f"rsum, {name}, {kind}: {statistics.fmean(sums):.1f}{spread} ({len(sums)} runs)")
    count = counted(options.looks, parts, len(options.runs))
    print(f"measured so far: the first half {count[FIRST]} times, the second {count[SECOND]} ({options.looks})")


if __name__ == "__main__":
    run_command(main)
