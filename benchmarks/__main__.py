"""All benchmarks that need no data: a table of ratios on stderr, one JSON object on stdout.

    python -m benchmarks [NAME…] [--output FILE.json]

Each runs in a process of its own, one after another. A ratio compares with a limit measured in the same run, so it
holds on a noisy machine; the targets are the project's own. `python -m benchmarks.NAME --help` has each one's options.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

Row = tuple[str, float]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark and what of its result is compared with a target.

    Args:
        arguments: its command's arguments.
        ratios: name and value of each ratio in its result.
        target: what every ratio is held against.
        most: the target is the most that a ratio may be (else the least).
        unit: of the ratios.
    """

    arguments: tuple[str, ...]
    ratios: Callable[[Any], Iterator[Row]]
    target: float
    most: bool = True
    unit: str = "x the limit"


def _losses(found: Any) -> Iterator[Row]:
    for row in found["results"]:
        yield f"{row['loss']} at {row['batch']}", row["ratio"]


BENCHMARKS = {
    "ranking": Benchmark(("--full",), lambda found: iter([("5,000 x 25,000", found["ratio"])]), 1.3),
    "losses": Benchmark(("--losses", "convse", "convse++", "--batches", "1024", "--large", "0"), _losses, 1.5),
    "step": Benchmark(
        (),
        lambda found: iter([("speed of a product", found["share_of_product"])]),
        0.6,
        most=False,
        unit="share",
    ),
    "pipeline": Benchmark(
        (), lambda found: iter((name, found[name]["ratio"]) for name in ("evaluation", "training")), 1.2
    ),
    "search": Benchmark((), lambda found: iter([(f"{found['vectors']} vectors", found["ratio"])]), 1.5),
}


def run(name: str) -> Any:
    """A benchmark's last line of output.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", *BENCHMARKS[name].arguments]
    print(f"$ python -m benchmarks.{name} {' '.join(BENCHMARKS[name].arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"benchmarks.{name} failed with exit code {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    versions = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def main(argv: list[str] | None = None) -> None:
    """Run them and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)")
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine(), "results": {}}
    rows = []
    for name in arguments.names or BENCHMARKS:
        found, benchmark = run(name), BENCHMARKS[name]
        results["results"][name] = found
        for what, ratio in benchmark.ratios(found):
            met = ratio <= benchmark.target if benchmark.most else ratio >= benchmark.target
            bound = f"{'at most' if benchmark.most else 'at least'} {benchmark.target:g}"
            rows.append(f"{name:10} {what:28} {ratio:8.2f} {benchmark.unit:12} {bound:14} {'met' if met else 'MISSED'}")
    print("\n".join(rows), file=sys.stderr)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
