"""A long training on the built-in shapes with memory, open files and threads watched: they must stay flat.

    python -m benchmarks.soak [--minutes M] [--folder DIR] [SETTING…]

Trains for M minutes (30 by default) by the real command in a process of its own, samples that process every second,
stops it with SIGTERM, and prints one JSON line: steps done, memory, open files and threads in the first and the last
fifth of the time (after a warm-up of a tenth), the growth in memory an hour as fitted through all samples, and whether
that is flat. Exit code 1 where it is not. It needs Linux, whose /proc tells about other processes.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# An epoch every few seconds, so that measuring, pictures and checkpoints have their share of the time.
SETTINGS = {
    "data.shapes.train_scenes": "1024",
    "data.shapes.gallery_scenes": "100",
    "train.epochs": "1000000",
    "train.schedule": "constant",
    "train.checkpoint_steps": "5",
    "train.log_steps": "1",
    "train.projector": "50",
}
FLAT_MB_PER_HOUR = 30.0
# What the allocators may take back and give in between.
SLACK_MB = 30.0


@dataclass(frozen=True)
class Sample:
    """One look at a process: seconds since its start, memory in MB, open files, threads."""

    seconds: float
    mb: float
    files: int
    threads: int


def look(pid: int, began: float) -> Sample:
    """Sample a process now."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    status = (process / "status").read_text()
    threads = int(next(line for line in status.splitlines() if line.startswith("Threads:")).split()[1])
    files = len(list((process / "fd").iterdir()))
    return Sample(time.monotonic() - began, pages * resource.getpagesize() / 1e6, files, threads)


def watch(argv: list[str], minutes: float) -> tuple[list[Sample], int]:
    """Train that long; the samples since the first checkpoint, and the exit code."""
    run = Path(argv[argv.index("--train.run_dir") + 1])
    with (run.parent / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vse_tf.train", *argv], stdout=output, stderr=subprocess.STDOUT
        )
        samples: list[Sample] = []
        try:
            while not (run / "results.json").exists() and process.poll() is None:
                time.sleep(0.2)
            began = time.monotonic()
            while time.monotonic() - began < 60 * minutes and process.poll() is None:
                samples.append(look(process.pid, began))
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    return samples, process.returncode


def growth(samples: list[Sample]) -> tuple[dict[str, object], bool]:
    """Memory, open files and threads in the first and the last fifth after a warm-up, and whether they are flat."""
    settled = [sample for sample in samples if sample.seconds > samples[-1].seconds / 10] or samples
    fifth = max(1, len(settled) // 5)
    first, last = settled[:fifth], settled[-fifth:]
    line = np.polyfit([s.seconds for s in settled], [s.mb for s in settled], 1) if len(settled) > 1 else [0.0]
    slope = float(line[0]) * 3600
    mb = [statistics.mean(s.mb for s in part) for part in (first, last)]
    most = {name: [max(getattr(s, name) for s in part) for part in (first, last)] for name in ("files", "threads")}
    flat = slope < FLAT_MB_PER_HOUR or mb[1] - mb[0] < SLACK_MB
    found: dict[str, object] = {
        "mb_first_last": [round(value, 1) for value in mb],
        "mb_per_hour": round(slope, 1),
        "files_first_last": most["files"],
        "threads_first_last": most["threads"],
    }
    return found, flat and all(last <= first + 2 for first, last in most.values())


def report(samples: list[Sample], exit_code: int, run: Path) -> dict[str, object]:
    """The figures of a soak."""
    rows = (run / "metrics.jsonl").read_text().splitlines()
    found, flat = growth(samples)
    return {
        "minutes": round(samples[-1].seconds / 60, 1),
        "epochs": len(rows),
        "steps": json.loads(rows[-1])["step"],
        **found,
        "exit_code": exit_code,
        "flat": flat and exit_code == 128 + signal.SIGTERM,
    }


def main() -> None:
    """Run the soak and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--folder", type=Path, help="keep the run here (default: a temporary folder)")
    args, settings = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = folder / "run"
        argv = [part for key, value in SETTINGS.items() for part in (f"--{key}", value)]
        samples, exit_code = watch([*argv, "--train.run_dir", str(run), *settings], args.minutes)
        if not samples:
            sys.exit(f"the training ended before its first epoch did:\n{(folder / 'output.txt').read_text()}")
        found = report(samples, exit_code, run)
    print(json.dumps(found))
    sys.exit(not found["flat"])


if __name__ == "__main__":
    main()
