"""Two workers, each a process, through the command: MultiWorkerMirroredStrategy against one device."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.tiny import arguments, rows_of
from vse_tf import train
from vse_tf.embedder import load

COMMON = {"train__schedule": "constant", "train__patience": 1, "train__learning_rate": 0.02, "train__micro_batch": 8}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def on_two_workers(folders, **changed):
    """Run the command in two processes; returns what each printed."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index, folder in enumerate(folders):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "vse_tf.train", *arguments(folder, **{**COMMON, **changed})]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        told = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two workers that was stopped after an epoch and continued, and the same on one device."""
    folder = tmp_path_factory.mktemp("workers")
    both, one = folder / "both", folder / "one"
    told = [on_two_workers([both, both], train__epochs=epochs) for epochs in (1, 9)]
    train.main(arguments(one, **COMMON, train__epochs=9))
    return both, one, told


def test_two_workers_train_what_one_device_trains(runs):
    both, one, told = runs
    assert [code for each in told for code, _ in each] == [0] * 4, told
    assert [row["metrics"] for row in rows_of(both)] == [row["metrics"] for row in rows_of(one)]
    for mine, other in zip(rows_of(both), rows_of(one), strict=True):
        assert mine["train"] == pytest.approx(other["train"], rel=1e-5, abs=1e-5)
    for mine, other in zip(load(both, "last").model.weights, load(one, "last").model.weights, strict=True):
        assert np.linalg.norm(mine - other) <= 1e-5 * np.linalg.norm(other) + 1e-6, mine.path


def test_the_chief_alone_writes_and_both_stop_early(runs):
    both, _, told = runs
    epochs = [row["epoch"] for row in rows_of(both)]
    assert epochs == list(range(1, len(epochs) + 1)) and 1 < len(epochs) < 9
    chief, other = (text for _, text in told[1])
    assert f"continuing {both} after epoch 1" in chief and "stopped early" in chief
    assert "the chief has written" in other and "R@1" not in other and "continuing" not in other
    assert len(list((both / "logs").glob("events.*"))) == 2


@pytest.mark.evidence
def test_a_folder_that_the_workers_do_not_share_ends_both(tmp_path):
    train.main(arguments(tmp_path / "chief", **COMMON, train__epochs=1))
    for code, told in on_two_workers([tmp_path / "chief", tmp_path / "elsewhere"], train__epochs=2):
        assert code == 2
        assert "the workers do not see the same" in told
