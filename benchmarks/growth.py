"""How time and memory grow with the data: one table and one picture.

    python -m benchmarks.growth [--pairs N ...] [--images N ...] [--vectors N ...] [--narrow N ...] [--output FILE]

Training: precomputed features with five varied captions an image, small towers, one process for each size: seconds
from the command to the end of the first step (nothing is cached), memory beyond the mapped features, seconds of a step
and of a checkpoint. Evaluation: `benchmarks.ranking` with five captions an image. Search: `benchmarks.search` in
indexes of ready vectors. Prints one JSON line; `--output results/growth` writes `growth.json`, `.md` and `.svg`.
The generated data are deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.__main__ import machine
from benchmarks.growth_picture import draw

CAPTIONS, BATCH, STEPS, WARM = 5, 128, 70, 20
COLUMNS = {
    "first_step_s": "first step, s",
    "memory_mb": "memory beyond the features, MB",
    "step_ms": "step, ms",
    "checkpoint_s": "checkpoint, s",
}
SETTINGS = {
    "data.source": "precomp",
    "image.units": "256",
    "text.units": "256",
    "model.dim": "256",
    "model.head_units": "512",
    "train.batch_size": str(BATCH),
    "train.log_steps": "10",
    "data.epoch_over": "captions",
    "train.examples": "0",
    "train.projector": "0",
}


def write_data(folder: Path, pairs: int, width: int) -> None:
    """Splits train and dev of features and captions: words of a long tail, lengths of 7 to 15."""
    rng = np.random.default_rng(0)
    first = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]
    last = ["n", "st", "rk", "ll", "nda", "sel", "ra", "min", "ker", "t", "g", "dle", "ps", "vo", "x", "th", "ne", "by"]
    words = np.array([a + b for a in first for b in last] + [a + b + c for a in first for b in first for c in "nrt"])
    words = words[rng.permutation(len(words))]
    share = 1 / np.arange(1, len(words) + 1)
    share /= share.sum()
    for name, images in (("train", max(1, pairs // CAPTIONS)), ("dev", 200)):
        features = np.lib.format.open_memmap(folder / f"{name}_ims.npy", "w+", np.float32, (images, width))
        for at in range(0, images, 8192):
            features[at : at + 8192] = rng.standard_normal(features[at : at + 8192].shape, dtype=np.float32)
        features.flush()
        lengths = rng.integers(7, 16, images * CAPTIONS)
        chosen = words[rng.choice(len(words), lengths.sum(), p=share)].tolist()
        ends = np.cumsum(lengths)
        with (folder / f"{name}_caps.txt").open("w", encoding="utf-8") as file:
            for start, end in zip(ends - lengths, ends, strict=True):
                file.write(" ".join(chosen[start:end]).capitalize() + ".\n")


def memory_mb() -> float:
    """Memory that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def train(folder: Path, began: float) -> None:
    """Train for some steps as the command does, and print what was measured; runs in a process of its own."""
    from vse_tf import train as command  # noqa: PLC0415
    from vse_tf.artifacts.checkpoints import Checkpoints  # noqa: PLC0415
    from vse_tf.errors import Interrupted  # noqa: PLC0415
    from vse_tf.training.callbacks import StepTracker  # noqa: PLC0415

    ends: list[float] = []
    found: dict[str, float] = {}
    done, save = StepTracker.on_train_batch_end, Checkpoints.save

    def step_ends(self: Any, batch: int, logs: Any = None) -> None:
        done(self, batch, logs)
        if not ends:
            found["first_step_s"] = time.time() - began
            found["first_step_cpu_s"] = time.process_time()
        ends.append(time.perf_counter())
        if len(ends) == STEPS:
            found["memory_mb"] = memory_mb()
            os.kill(os.getpid(), signal.SIGTERM)

    def timed_save(self: Any, *arguments: Any, **named: Any) -> None:
        start = time.perf_counter()
        save(self, *arguments, **named)
        found["checkpoint_s"] = time.perf_counter() - start

    StepTracker.on_train_batch_end, Checkpoints.save = step_ends, timed_save  # type: ignore[method-assign]
    given = {**SETTINGS, "data.annotations": str(folder), "train.run_dir": str(folder / "run")}
    with contextlib.suppress(Interrupted):
        command.main([part for key, value in given.items() for part in (f"--{key}", value)])
    found["step_ms"] = statistics.median(np.diff(ends[WARM:])) * 1e3
    print(json.dumps({key: round(value, 3) for key, value in found.items()}))


def of_training(pairs: int, width: int) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as temporary:
        write_data(Path(temporary), pairs, width)
        environment = {**os.environ, "VSE_TF_CACHE": f"{temporary}/cache"}
        command = ["benchmarks.growth", "--folder", temporary, "--began", str(time.time())]
        return {"pairs": pairs, **_last_line(command, environment)}


def _last_line(command: list[str], environment: dict[str, str] | None = None) -> Any:
    print(f"$ python -m {' '.join(command)}", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, text=True, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def of_evaluation(images: int) -> dict[str, Any]:
    """Ranking of all images and captions, dim 1,024."""
    options = f"--images {images} --captions {CAPTIONS * images} --dim 1024 --repeat 1"
    return _last_line(["benchmarks.ranking", *options.split()])


def of_search(vectors: int, dim: int) -> dict[str, Any]:
    """Search in an index of ready vectors."""
    options = f"--vectors {vectors} --dim {dim} --queries 64 --batch 64 --repeat 3"
    return _last_line(["benchmarks.search", *options.split()])


def series(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[tuple[float, float]]]:
    """What is drawn: for each quantity its growth over that of the data, both relative to the smallest size."""

    def grown(rows: list[dict[str, Any]], size: Any, value: Any) -> list[tuple[float, float]]:
        return [(size(row) / size(rows[0]), value(row) / value(rows[0])) for row in rows]

    lines = {}
    for key, label in COLUMNS.items():
        if found["training"]:
            lines[label.split(",")[0]] = grown(found["training"], lambda row: row["pairs"], lambda row, k=key: row[k])
    if found["evaluation"]:
        lines["evaluation"] = grown(
            found["evaluation"], lambda row: row["images"] * row["captions"], lambda row: row["ranks_s"]
        )
    for dim in sorted({row["dim"] for row in found["search"]}, reverse=True):
        rows = [row for row in found["search"] if row["dim"] == dim]
        lines[f"search, dim {dim:,}"] = grown(
            rows, lambda row: row["vectors"], lambda row: 1 / row["batched_queries_per_s"]
        )
    return lines


def table(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    about = found["machine"]
    lines = [
        "# Growth with the data",
        "",
        f"{found['date']}, {about['cpu']}, {about['cores']} cores{'' if found['idle'] else ', **not idle**'}. "
        f"`python -m benchmarks.growth`",
        "",
        f"| pairs | {' | '.join(COLUMNS.values())} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    for row in found["training"]:
        lines.append(f"| {row['pairs']:,} | {' | '.join(f'{row[key]:,.4g}' for key in COLUMNS)} |")
    lines += ["", "| evaluation, dim 1,024 | s | over the bare product | memory, MB |", "|---|---|---|---|"]
    for row in found["evaluation"]:
        what = f"{row['images']:,} images, {row['captions']:,} captions"
        lines.append(f"| {what} | {row['ranks_s']:.3g} | {row['ratio']} | {row['extra_mb']:,} |")
    lines += [
        "",
        "| search | ready, s | ms a query of 64 | over the bare product | memory, MB |",
        "|---|---|---|---|---|",
    ]
    for row in found["search"]:
        milliseconds = f"{1e3 / row['batched_queries_per_s']:.3g}"
        what = f"{row['vectors']:,} vectors, dim {row['dim']:,}"
        lines.append(
            f"| {what} | {row['ready_s']} | {milliseconds} | {row['batched_ratio']} | {row['resident_mb']:,} |"
        )
    return "\n".join([*lines, "", "![Growth of each figure over that of the data](growth.svg)", ""])


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="*", default=[10_000, 100_000, 592_000, 1_000_000])
    parser.add_argument("--width", type=int, default=512, help="of the features")
    parser.add_argument("--images", type=int, nargs="*", default=[1_000, 5_000, 25_000])
    parser.add_argument("--vectors", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="dim 1,024")
    parser.add_argument("--narrow", type=int, nargs="*", default=[100_000, 1_000_000, 10_000_000], help="dim 64")
    parser.add_argument("--busy", action="store_true", help="say in the table that the machine was not idle")
    parser.add_argument("--output", type=Path, help="write this name with .json, .md and .svg")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.folder:
        train(arguments.folder, arguments.began)
        return
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "idle": not arguments.busy,
        "training": [of_training(pairs, arguments.width) for pairs in arguments.pairs],
        "evaluation": [of_evaluation(images) for images in arguments.images],
        "search": [of_search(vectors, 1024) for vectors in arguments.vectors]
        + [of_search(vectors, 64) for vectors in arguments.narrow],
    }
    if arguments.output:
        arguments.output.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(table(found), encoding="utf-8")
        arguments.output.with_suffix(".svg").write_text(draw(series(found)), encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
