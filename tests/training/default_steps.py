"""The first steps on the built-in set at its default settings: `python -m tests.training.default_steps FILE.npz STEPS`.

Stored after each step: the loss, the weights and Adam's moments. With `--follow OTHER.npz` each step starts from what
another run stored. Further arguments are settings.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.data.bad_images import BadImages
from vse_tf.data.sources import read
from vse_tf.settings_parser import parse_settings
from vse_tf.training.builder import RunParts
from vse_tf.training.distribution import make_strategy
from vse_tf.training.progress import scalars

# Eight steps of warm-up and eight of the cosine; all that a step depends on is at the defaults of `vse_tf.train`.
FEW = ["--data.shapes.train_scenes", "1024", "--data.shapes.gallery_scenes", "100", "--train.epochs", "2"]

Values = Mapping[str, np.ndarray]


class Recorder(keras.callbacks.Callback):
    """Collects losses, weights and moments.

    Args:
        follow: what each step starts from, as `recorded` gives it.
    """

    def __init__(self, follow: Values | None) -> None:
        super().__init__()
        self.follow = follow
        self.found: dict[str, list[Any]] = {"loss": []}

    def variables(self) -> dict[str, keras.Variable]:
        weights, adam = self.model.trainable_variables, self.model.optimizer
        kinds = {"weight": weights, "m": adam._momentums, "v": adam._velocities}
        # Both towers have a head.
        return {
            f"{kind}/{i:02d}-{weights[i].path}": variable
            for kind, variables in kinds.items()
            for i, variable in enumerate(variables)
        }

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        for name, variable in self.variables().items() if self.follow and batch else ():
            variable.assign(self.follow[name][batch - 1].copy())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.found["loss"].append(scalars(logs)["loss"])
        for name, variable in self.variables().items():
            self.found.setdefault(name, []).append(keras.ops.convert_to_numpy(variable))


def recorded(steps: int, argv: Sequence[str] = (), follow: Values | None = None) -> dict[str, np.ndarray]:
    """Each value after each step, stacked."""
    with tempfile.TemporaryDirectory() as folder:
        settings = parse_settings([*FEW, *argv, "--train.run_dir", folder], "train", "")
        strategy = make_strategy(settings.distribution)
        keras.utils.set_random_seed(settings.train.seed)
        data = read(settings.data, progress=False)
        parts = RunParts(settings, RunFolder.of(settings), data, strategy, BadImages("fail", settings.data.max_pixels))
        parts.prepare_splits()
        parts.compile()
        recorder = Recorder(follow)
        batches = parts.batches(0, 0)
        parts.model.fit(batches, steps_per_epoch=steps, callbacks=[recorder], shuffle=False, verbose=0)
    return {name: np.stack(values) for name, values in recorder.found.items()}


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative, in norm."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def assert_same_steps(found: Values, expected: Values) -> None:
    """Steps that began with the same weights have the same losses and gradients, up to rounding."""
    assert set(found) == set(expected)
    # Adam's moments are sums of gradients and of their squares.
    limits = {"loss": 1e-6, "m": 5e-5, "v": 5e-5, "weight": 5e-5}
    for name in expected:
        apart = sorted(distance(*pair) for pair in zip(found[name], expected[name], strict=True))
        # Where the input of a ReLU is 0 up to rounding, it may be on here and off there.
        assert apart[-3] < limits[name.split("/")[0]] and apart[-1] < 0.02, (name, apart)


def main(argv: list[str]) -> None:
    parser = ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("steps", type=int)
    parser.add_argument("--follow")
    arguments, settings = parser.parse_known_args(argv)
    follow = dict(np.load(arguments.follow)) if arguments.follow else None
    np.savez(arguments.output, **recorded(arguments.steps, settings, follow))


if __name__ == "__main__":
    # Not in `recorded`: a test's process has other tests behind it.
    tf.config.experimental.enable_op_determinism()
    main(sys.argv[1:])
