"""How far runs drift apart that differ in rounding alone: two replicas, and one device in several ways.

    python -m benchmarks.replicas [--seeds 0 1 2] [SETTING…]

Trains the built-in set at its default settings, 2,000 scenes for two epochs, and prints a line for each run: validation
rsum after each epoch, and the largest difference of a weight from the run on one device. The runs `last bit` begin with
weights moved by a random half of their last digit.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

from vse_tf.config import DistributionSettings, Settings
from vse_tf.settings_parser import parse_settings

BASE = {
    "data.shapes.train_scenes": "2000",
    "data.shapes.gallery_scenes": "100",
    "train.epochs": "2",
    "train.deterministic": "true",
    "train.examples": "0",
    "train.projector": "0",
    "train.log_steps": "1000",
}
WAYS = {
    "one device": [],
    "two replicas": ["--distribution.virtual_cpus", "2"],
    "one device, micro_batch 64": ["--train.micro_batch", "64"],
    "one device, last bit, first draw": [],
    "one device, last bit, second draw": [],
}
# Half of float32's last digit, relative.
LAST_BIT = 2.0**-24


@contextlib.contextmanager
def moved_weights(seed: int) -> Iterator[None]:
    """Runs that are compiled inside begin with other last digits."""
    from vse_tf.training.builder import RunParts  # noqa: PLC0415

    compile_run = RunParts.compile

    def compile_and_move(parts: RunParts) -> None:
        compile_run(parts)
        rng = np.random.default_rng(seed)
        for variable in parts.model.trainable_variables:
            value = variable.numpy()
            variable.assign(value * (1 + LAST_BIT * rng.choice([-1, 1], value.shape).astype(value.dtype)))

    with mock.patch.object(RunParts, "compile", compile_and_move):
        yield


def run(settings: Settings) -> tuple[list[float], list[np.ndarray]]:
    """Validation rsum of each epoch, and the last weights."""
    from vse_tf.embedder import load  # noqa: PLC0415
    from vse_tf.training.trainer import train  # noqa: PLC0415

    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        folder, _ = train(settings)
    rows = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    return [row["metrics"]["rsum"] for row in rows], [w.numpy() for w in load(folder.path, "last").model.weights]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments, more = parser.parse_known_args(argv)
    from vse_tf.training.distribution import make_strategy  # noqa: PLC0415

    # Before the first run on one device: the CPU cannot be split afterwards.
    make_strategy(DistributionSettings(virtual_cpus=2))
    print("| seed | run | rsum after each epoch | largest difference of a weight |\n|---|---|---|---|")
    for seed in arguments.seeds:
        expected: list[np.ndarray] = []
        for number, (way, options) in enumerate(WAYS.items()):
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
                if "last bit" in way:
                    stack.enter_context(moved_weights(number))
                own = {**BASE, "train.seed": str(seed), "train.run_dir": str(Path(folder) / "run")}
                given = [part for key, value in own.items() for part in (f"--{key}", value)]
                rsums, weights = run(parse_settings([*given, *more, *options], "benchmarks.replicas", ""))
            expected = expected or weights
            apart = max(np.abs(a - b).max() for a, b in zip(weights, expected, strict=True))
            print(f"| {seed} | {way} | {' / '.join(f'{r:.1f}' for r in rsums)} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    main()
