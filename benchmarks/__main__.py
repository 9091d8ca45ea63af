"""All benchmarks that need no data: a table of ratios on stderr, one JSON object on stdout.

    python -m benchmarks [NAME…] [--output FILE.json]

Each runs in a process of its own, one after another. A ratio compares with a limit measured in the same run, so it
holds on a noisy machine; the targets are the project's own. Some are run only if they are named: see `--help`.
`python -m benchmarks.NAME --help` has each one's options.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """A figure and its target.

    Args:
        what: what was measured.
        figure: the measured ratio.
        target: what it is held against.
        most: the target is the most that the figure may be (else the least).
        unit: of the figure.
    """

    what: str
    figure: float
    target: float
    most: bool = True
    unit: str = "x the limit"

    def __str__(self) -> str:
        met = self.figure <= self.target if self.most else self.figure >= self.target
        bound = f"{'at most' if self.most else 'at least'} {self.target:g}"
        return f"{self.what:36} {self.figure:8.2f} {self.unit:14} {bound:14} {'met' if met else 'MISSED'}"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        rows: what of its result is compared with targets.
        arguments: its command's arguments.
        default: it belongs to the default set, which takes at most 15 minutes on two idle cores.
    """

    rows: Callable[[Any], Iterable[Row]]
    arguments: tuple[str, ...] = ()
    default: bool = True


def _losses(found: Any) -> Iterator[Row]:
    for row in found["results"]:
        yield Row(f"{row['loss']} at {row['batch']}", row["ratio"], 1.5)


def _pipeline(found: Any) -> Iterator[Row]:
    for name in ("evaluation", "training"):
        yield Row(name, found[name]["ratio"], 1.2)


def _search(found: Any) -> Iterator[Row]:
    at = f"{found['vectors']:,} vectors"
    yield Row(at, found["ratio"], 1.5)
    yield Row(f"{at}, with relevance", found["relevance_ratio"], 1.3)
    yield Row(f"{at}, relevance, batch", found["batched_relevance_ratio"], 1.3)


def _waiting(found: Any) -> Iterator[Row]:
    for name in ("search_run", "search_models"):
        yield Row(f"{name} over import tensorflow", found[name]["ratio"], 1.5)
    for name in ("serve_run", "serve_models"):
        yield Row(f"{name}, first text", found[name]["seconds"], 6, unit="s")


def _towers(found: Any) -> Iterator[Row]:
    yield Row("one sentence, text tower", found["text"]["ratio"], 0.5, unit="x the baseline")
    yield Row("image tower", found["image"]["ratio"], 1.1)


def _features(found: Any) -> Iterator[Row]:
    for name in ("centre", "views"):
        yield Row(name, found[name]["ratio"], 1.1)


def _packed(found: Any) -> Iterator[Row]:
    for name in ("tar", "parquet"):
        yield Row(f"batches from {name}", found[name]["ratio"], 0.95, most=False, unit="x files")
    at = f"{found['opening']['records']:,} records"
    yield Row(f"opening {at}", found["opening"]["seconds"], 30, unit="s")
    yield Row(f"memory at {at}", found["opening"]["memory_gb"], 1, unit="GB")


def _growth(found: Any) -> Iterator[Row]:
    small, large = found["training"][0], found["training"][-1]
    at = f"{large['pairs']:,} pairs"
    yield Row(f"first step at {at}", large["first_step_s"], 30, unit="s")
    yield Row(f"memory at {at}", large["memory_mb"] / 1e3, 2, unit="GB")
    yield Row(f"step at {at}", large["step_ms"] / small["step_ms"], 1.05, unit=f"x {small['pairs']:,}")


def _cold_start(found: Any) -> Iterator[Row]:
    for name, limit in (("first command", 60), ("flickr8k_best", 480)):
        if name in found:
            yield Row(name, found[name]["seconds"], limit, unit="s")


def _peers(found: Any) -> Iterator[Row]:
    for name, peer in found.items():
        yield Row(name, peer["ratio"], 1, unit="x the peer")


BENCHMARKS = {
    "ranking": Benchmark(lambda found: [Row("5,000 x 25,000", found["ratio"], 1.3)], ("--full",)),
    "losses": Benchmark(_losses, ("--losses", "convse", "convse++", "--batches", "1024", "--large", "0")),
    "step": Benchmark(
        lambda found: [Row("speed of a product", found["share_of_product"], 0.7, most=False, unit="share")]
    ),
    "pipeline": Benchmark(_pipeline),
    "search": Benchmark(_search),
    "waiting": Benchmark(_waiting),
    "towers": Benchmark(_towers),
    "features": Benchmark(_features),
    "packed": Benchmark(_packed),
    "growth": Benchmark(_growth, default=False),
    "cold_start": Benchmark(_cold_start, default=False),
    "peers": Benchmark(_peers, default=False),
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
    by_name = [name for name, benchmark in BENCHMARKS.items() if not benchmark.default]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all but {', '.join(by_name)})"
    )
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    results: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine(), "results": {}}
    rows = []
    for name in arguments.names or [name for name, benchmark in BENCHMARKS.items() if benchmark.default]:
        found, benchmark = run(name), BENCHMARKS[name]
        results["results"][name] = found
        rows += [f"{name:10} {row}" for row in benchmark.rows(found)]
    print("\n".join(rows), file=sys.stderr)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
