"""Replicas against one device: losses, gradients, clip-norm and all."""

import json
import os
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.default_steps import assert_same_steps, distance, recorded
from tests.training.double import ROOT, double_precision
from tests.training.replicas import KINDS, dataset, run_all, trained
from tests.warm_python import warm_python
from vse_tf.config import DistributionSettings
from vse_tf.errors import UserError
from vse_tf.losses import LOSSES
from vse_tf.training.distribution import (
    distribute,
    is_chief,
    make_strategy,
    same_everywhere,
    skip_symbolic_build,
    worker_sum,
)

HEART = {
    2: ("convse/clipped", "convse++/unmasked", "convse/pieces", "sigmoid/learned", "convse/mixed_float16 in pieces"),
    4: ("convse/plain", "convse++/clipped"),
}
EVERY = [f"{name}/{kind}" for name in LOSSES for kind in ("clipped", "unmasked")]
EVERY += [f"{name}/{kind}" for name in ("convse", "convse++") for kind in KINDS if kind not in ("clipped", "unmasked")]
EVERY.remove("convse++/learned")
EVERY += ["simclr/learned", "sigmoid/learned", "sigmoid/pieces", "sigmoid/mixed_float16"]


@pytest.mark.parametrize(
    "runs", [HEART, pytest.param({2: EVERY, 4: EVERY}, marks=pytest.mark.evidence)], ids=["heart", "all"]
)
def test_two_and_four_replicas_end_in_one_devices_weights(runs, tmp_path):
    one_device = tf.distribute.get_strategy()
    expected = run_all(one_device, sorted(set(runs[2]) | set(runs[4])))
    exact = run_all(one_device, {f"{run.split('/')[0]}/clipped" for run in runs[2] if "mixed" in run})
    for replicas in (2, 4):
        # A process of its own: TensorFlow's CPU collectives know one group size a process.
        output = tmp_path / f"{replicas}.npz"
        command = [*warm_python(), "-m", "tests.training.replicas", str(replicas), str(output), *runs[replicas]]
        subprocess.run(command, check=True, capture_output=True)
        found = np.load(output, allow_pickle=False)
        assert {"/".join(name.split("/")[:2]) for name in found} == set(runs[replicas])
        for name, value in found.items():
            objective, kind, key = name.split("/", 2)
            limit = 1e-5 * np.linalg.norm(expected[name]) + 1e-7
            if "mixed" in kind:
                # Half precision to its own rounding: no further apart than it takes one device from float32.
                limit += 2 * np.linalg.norm(expected[name] - exact[f"{objective}/clipped/{key}"])
                limit += (2.0**-11 if "float16" in kind.replace("bfloat16", "") else 2.0**-8) * np.linalg.norm(value)
            assert np.linalg.norm(value - expected[name]) <= limit, (replicas, name)


def default_steps(output, steps, *argv, folder=ROOT):
    """What `tests.training.default_steps` stores, in a process of its own."""
    command = [*warm_python(), "-m", "tests.training.default_steps", str(output), str(steps), *map(str, argv)]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment)
    return dict(np.load(output))


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.evidence)])
def test_every_step_at_default_settings_is_one_devices(tmp_path, replicas):
    """Clipping, warm-up and Adam's epsilon as they come; each step starts from the weights of the one device."""
    expected = recorded(16)
    np.savez(tmp_path / "one.npz", **expected)
    argv = ("--follow", tmp_path / "one.npz", "--distribution.virtual_cpus", replicas)
    found = default_steps(tmp_path / "found.npz", 16, *argv)
    assert_same_steps(found, expected)


@pytest.mark.evidence
def test_whole_runs_in_double_precision_are_one_devices(tmp_path):
    folder, argv = double_precision(tmp_path / "double"), ["--data.shapes.train_scenes", 2000]
    expected = default_steps(tmp_path / "one.npz", 30, *argv, folder=folder)
    found = default_steps(tmp_path / "two.npz", 30, *argv, "--distribution.virtual_cpus", 2, folder=folder)
    assert expected["loss"].dtype == expected["weight/00-conv_1/kernel"].dtype == np.float64
    for name, values in expected.items():
        assert distance(found[name], values) < 1e-9, name


def test_the_clip_norm_bites():
    loose, tight = (trained(tf.distribute.get_strategy(), "convse", clip_norm=norm) for norm in (0.0, 0.05))
    assert any(np.abs(loose[name] - tight[name]).max() > 1e-3 for name in loose)


def test_a_batch_that_cannot_be_divided_names_the_next_one():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1", "CPU:2"])
    with pytest.raises(UserError, match=r"train\.batch_size: 16 .* 3 replicas; choose 15"):
        distribute(strategy, 16, lambda shard, replicas: dataset(16))


def test_the_symbolic_build_is_skipped_in_tested_keras_only(monkeypatch):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    for version, helped in (("3.11.9", False), ("3.12.0", True), ("3.15.1", True), ("3.16.0", False), ("4.0", False)):
        monkeypatch.setattr(keras, "__version__", version)
        for several in (True, False):
            kind = tf.distribute.MirroredStrategy if several else tf.distribute.TPUStrategy
            monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", kind)
            model = keras.Sequential()
            skip_symbolic_build(model, strategy)
            assert ("_maybe_symbolic_build" in vars(model)) == (helped and several)


def test_one_worker_asks_nobody():
    assert worker_sum(tf.distribute.get_strategy(), 2)([3.0, True]).tolist() == [3.0, 1.0]
    assert same_everywhere(tf.distribute.get_strategy(), 3.0)


def test_strategies_by_name(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    assert make_strategy(DistributionSettings()).num_replicas_in_sync == 1
    assert make_strategy(DistributionSettings(strategy="none", virtual_cpus=2)).num_replicas_in_sync == 1
    assert make_strategy(DistributionSettings(virtual_cpus=2)).num_replicas_in_sync == 2
    assert is_chief(make_strategy(DistributionSettings(strategy="mirrored", virtual_cpus=4)))
    with pytest.raises(UserError, match="virtual_cpus: 99"):
        make_strategy(DistributionSettings(virtual_cpus=99))


@pytest.mark.parametrize("value", [None, "{", json.dumps({"cluster": {}})])
def test_multi_worker_without_a_cluster_says_what_to_set(monkeypatch, value):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value:
        monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(UserError, match="TF_CONFIG"):
        make_strategy(DistributionSettings(strategy="multi_worker"))
