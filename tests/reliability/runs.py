"""Runs that are disturbed on purpose, and what must be equal afterwards.

As a command it trains and disturbs itself: `python -m tests.reliability.runs WHERE STEP ARGUMENT…`. WHERE is `term` or
`int` for that signal in the middle of STEP, or a place to be killed at, at STEP or after it: `step` (when it is done),
`saving` (its checkpoint half written), `pointing` (written, but not the pointer), `measuring` (while the epoch is
measured), `recording` (measured and saved, but not in metrics.jsonl). `term-saving` and `term-measuring` send SIGTERM.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

from tests.tiny import arguments, rows_of
from tests.warm_python import warm_python

# Everything random is on; a checkpoint now and then, between the epochs' ends too.
RANDOM = {
    "train__deterministic": "true",
    "model__dropout": 0.2,
    "text__dropout": 0.1,
    "train__epochs": 3,
    "train__log_steps": 1,
    "train__checkpoint_steps": 3,
}


def file_arguments(folder: Path, run: Path, **changed: Any) -> list[str]:
    """Arguments of a run on image files with random crops and flips; the files are made the first time."""
    images = folder / "images"
    if not images.exists():
        images.mkdir(parents=True)
        rng = np.random.default_rng(0)
        lines = ["image,caption,split"]
        for i in range(50):
            Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(images / f"{i}.png")
            split = "val" if i % 5 == 4 else "train"
            lines += [f"{i}.png,photo {i} {' '.join(['word'] * (i % 9))} {kind},{split}" for kind in ("a", "b")]
        (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    values = {
        "data__source": "table",
        "data__annotations": folder / "captions.csv",
        "data__images": images,
        "data__cache_dir": folder / "cache",
        "data__epoch_over": "captions",
        "image__encoder": "cnn",
        "image__size": 16,
        "image__random_crop": "true",
        "image__flip": "true",
        "text__min_count": 1,
        "text__buckets": "[8,16]",
        "train__warmup_epochs": 0.5,
        **RANDOM,
    }
    argv = arguments(run, **{**values, **changed})
    pairs = zip(argv[::2], argv[1::2], strict=True)
    return [part for pair in pairs if not pair[0].startswith("--data.shapes") for part in pair]


def shapes_arguments(folder: Path, run: Path, **changed: Any) -> list[str]:
    """Arguments of a run on the built-in set."""
    return arguments(run, **{**RANDOM, "data__shapes__train_scenes": 96, "data__epoch_over": "images", **changed})


# 80 captions or 96 scenes in batches of 16: five or six steps an epoch.
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "files": (file_arguments, {}),
    "cached features": (
        file_arguments,
        {
            "image__encoder": "applications:MobileNet",
            "image__weights": "none",
            "image__size": 32,
            "data__features": "true",
            "data__feature_crops": 1,
        },
    ),
    "shapes": (shapes_arguments, {"train__schedule": "cosine"}),
    "shapes, two replicas": (shapes_arguments, {"distribution__virtual_cpus": 2}),
    "files, two replicas": (file_arguments, {"distribution__virtual_cpus": 2}),
}


def argv_of(kind: str, folder: Path, run: Path, **changed: Any) -> list[str]:
    """Arguments of a kind of run."""
    make, settings = KINDS[kind]
    return make(folder, run, **{**settings, **changed})


KILLS = ("step", "saving", "pointing", "measuring", "recording")


def command(argv: list[str], disturbed: tuple[str, int] | None = None) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, by the real command or by one that disturbs itself."""
    module = ["vse_tf.train"] if disturbed is None else ["tests.reliability.runs", disturbed[0], str(disturbed[1])]
    return subprocess.run([*warm_python(), "-m", *module, *argv], capture_output=True, text=True, check=False)


def state_of(run: Path) -> dict[str, np.ndarray]:
    """Everything in the last checkpoint: weights, optimizer, seeds."""
    found: dict[str, np.ndarray] = {}
    last = sorted((run / "checkpoints").glob("step-*"))[-1]
    for name in ("state.h5", "optimizer.h5"):
        with h5py.File(last / name) as file:
            file.visititems(lambda key, item: found.update({key: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return found


def steps_of(run: Path) -> Counter[tuple[str, int]]:
    """How often TensorBoard has each scalar of each step."""
    import tensorflow as tf  # noqa: PLC0415

    found: Counter[tuple[str, int]] = Counter()
    for file in run.glob("logs/*/events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            found.update((value.tag, event.step) for value in event.summary.value)
    return found


def assert_same(run: Path, undisturbed: Path) -> None:
    """Weights, optimizer, seeds and metrics to the bit, and every step of TensorBoard once."""
    mine, other = state_of(run), state_of(undisturbed)
    assert mine.keys() == other.keys()
    for key, value in mine.items():
        np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert rows_of(run) == rows_of(undisturbed)
    steps = steps_of(run)
    assert steps == steps_of(undisturbed)
    assert set(steps.values()) == {1}


def _disturb(where: str, step: int) -> None:
    from vse_tf.artifacts import checkpoints  # noqa: PLC0415
    from vse_tf.artifacts.run_folder import RunFolder  # noqa: PLC0415
    from vse_tf.training import callbacks  # noqa: PLC0415

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGTERM if where.startswith("term") else signal.SIGKILL)

    sent: list[int] = []
    current: list[Any] = []
    tracker = callbacks.StepTracker
    step_ends, epoch_begins = tracker.on_train_batch_end, tracker.on_epoch_begin

    def after_step(self: Any, batch: int, logs: Any = None) -> None:
        step_ends(self, batch, logs)
        # Once: of several workers one may get the signal at a step and stop after a later one, and a second one kills.
        if self.progress.position.step >= step and not sent:
            sent.append(step)
            os.kill(os.getpid(), {"step": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[where])

    def on_epoch_begin(self: Any, epoch: int, logs: Any = None) -> None:
        epoch_begins(self, epoch, logs)
        current[:] = [self.progress]

    def reached() -> bool:
        return bool(current) and current[0].position.step >= step

    tracker.on_epoch_begin = on_epoch_begin
    if where.endswith("saving"):
        description_text = checkpoints.description_text

        def describe(checkpoint: Any) -> str:
            if checkpoint.position.step >= step:
                kill()
            return description_text(checkpoint)

        checkpoints.description_text = describe
    elif where == "pointing":
        pointed = checkpoints.Checkpoints._point_to

        def point(self: Any, checkpoint: Any) -> None:
            return kill() if checkpoint.position.step >= step else pointed(self, checkpoint)

        checkpoints.Checkpoints._point_to = point
    elif where.endswith("measuring"):
        measure = callbacks.measure
        callbacks.measure = lambda *args: kill() if reached() else measure(*args)
    elif where == "recording":
        append = RunFolder.append_metrics
        RunFolder.append_metrics = lambda self, row: kill() if reached() else append(self, row)
    else:
        tracker.on_train_batch_end = after_step


if __name__ == "__main__":
    from vse_tf import train
    from vse_tf.errors import run_command

    # Started in the background of a shell it would be ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _disturb(sys.argv[1], int(sys.argv[2]))
    run_command(lambda: train.main(sys.argv[3:]))
