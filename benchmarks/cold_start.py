"""A whole command from a cold start, with its seconds by phase: the first command of all, and the best recipe.

    python -m benchmarks.cold_start [--output FILE.json]

The first command is `python -m vse_tf.train`, the built-in shapes. `configs/flickr8k_best.yaml` is trained too where
VSE_TF_FLICKR8K names the folder with `dataset_flickr8k.json` and `images`, and VSE_TF_IMAGE_ENCODER and
VSE_TF_TEXT_ENCODER the frozen backbones (`hub:FOLDER`). Nothing is cached and every run folder is new. Prints one JSON
line: seconds in all, and those of each phase without the phases inside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

FIRST, BEST = "first command", "flickr8k_best"
CONFIG = Path(__file__).parents[1] / "configs" / "flickr8k_best.yaml"


def commands() -> dict[str, list[str]]:
    """The arguments of each command that can be run here."""
    found = {FIRST: []}
    data, *encoders = (os.environ.get(f"VSE_TF_{name}") for name in ("FLICKR8K", "IMAGE_ENCODER", "TEXT_ENCODER"))
    if data and all(encoders):
        found[BEST] = ["--config", str(CONFIG), "--data.annotations", f"{data}/dataset_flickr8k.json"]
        found[BEST] += ["--data.images", f"{data}/images", "--image.encoder", str(encoders[0])]
        found[BEST] += ["--text.encoder", str(encoders[1]), "--train.run_dir", "run"]
    else:
        print(f"{BEST} is left out: see python -m benchmarks.cold_start --help", file=sys.stderr)
    return found


def measured(arguments: list[str]) -> dict[str, Any]:
    """Run the command in an empty folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(__file__).parents[1])
        environment = {**os.environ, "VSE_TF_CACHE": f"{folder}/cache", "PYTHONPATH": root}
        phases = Path(folder) / "phases.json"
        command = [sys.executable, "-m", "benchmarks.cold_start", "--phases", str(phases), "--", *arguments]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=environment, stdout=sys.stderr, check=False)
        seconds = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(f"the command failed with exit code {done.returncode}")
        by_phase = json.loads(phases.read_text())
    by_phase["outside all phases"] = seconds - sum(by_phase.values())
    ordered = sorted(by_phase.items(), key=lambda item: -item[1])
    return {"seconds": round(seconds, 1), "phases": {name: round(value, 2) for name, value in ordered}}


def train(arguments: list[str], output: Path) -> None:
    """The command itself, its phases timed."""
    from vse_tf import display  # noqa: PLC0415
    from vse_tf import train as command  # noqa: PLC0415

    seconds: dict[str, float] = defaultdict(float)
    entered: list[float] = []
    begin, end = display.Phase.__enter__, display.Phase.__exit__

    def enter(self: display.Phase) -> display.Phase:
        entered.append(time.perf_counter())
        return begin(self)

    def leave(self: display.Phase, *error: object) -> None:
        end(self, *error)
        took = time.perf_counter() - entered.pop()
        seconds[self.name] += took
        if display._open:
            # Its seconds are not those of the phase around it.
            seconds[display._open[-1].name] -= took

    display.Phase.__enter__, display.Phase.__exit__ = enter, leave  # type: ignore[method-assign]
    command.main(arguments)
    output.write_text(json.dumps(seconds), encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="write the JSON here too")
    parser.add_argument("--phases", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.phases:
        train(arguments.command, arguments.phases)
        return
    found = {name: measured(command) for name, command in commands().items()}
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
