"""Two workers, each a process, through the command: MultiWorkerMirroredStrategy against one device."""

import json
import os
import socket
import subprocess

import numpy as np
import pytest

from tests.tiny import arguments, rows_of
from tests.training.default_steps import assert_same_steps, recorded
from tests.warm_python import warm_python
from vse_tf import train
from vse_tf.embedder import load

# The workers hear of a signal at the end of its epoch at the latest, which must not be the last one.
COMMON = {"train__schedule": "constant", "train__patience": 2, "train__learning_rate": 0.02, "train__micro_batch": 8}
# 64 scenes in batches of 16.
STEPS = 4


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def on_two_workers(folders, disturbed=(None, None), **changed):
    """Run the command in two processes, disturbed as `tests.reliability.runs` has it; what each printed."""
    modules = [["tests.reliability.runs", *how] if how else ["vse_tf.train"] for how in disturbed]
    pairs = zip(modules, folders, strict=True)
    return as_two_workers([[*module, *arguments(folder, **{**COMMON, **changed})] for module, folder in pairs])


def as_two_workers(commands):
    """Run two modules with their arguments as the workers of a cluster; code and output of each."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    processes = []
    for index, command in enumerate(commands):
        config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
        environment = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": ""}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        processes.append(subprocess.Popen([*warm_python(), "-m", *command], env=environment, **pipes))
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of two workers, of which one got a signal in the second epoch, continued; the same on one device."""
    folder = tmp_path_factory.mktemp("workers")
    both, one = folder / "both", folder / "one"
    outputs = [on_two_workers([both, both], how, train__epochs=9) for how in ((None, ("term", "6")), (None, None))]
    train.main(arguments(one, **COMMON, train__epochs=9))
    return both, one, outputs


def test_two_workers_train_what_one_device_trains(runs):
    both, one, outputs = runs
    assert [code for code, _ in outputs[1]] == [0, 0], outputs
    assert [row["metrics"] for row in rows_of(both)] == [row["metrics"] for row in rows_of(one)]
    for mine, other in zip(rows_of(both), rows_of(one), strict=True):
        assert mine["train"] == pytest.approx(other["train"], rel=1e-5, abs=1e-5)
    for mine, other in zip(load(both, "last").model.weights, load(one, "last").model.weights, strict=True):
        assert np.linalg.norm(mine - other) <= 1e-5 * np.linalg.norm(other) + 1e-6, mine.path


def test_the_chief_alone_writes_and_both_stop_early(runs):
    both, _, outputs = runs
    epochs = [row["epoch"] for row in rows_of(both)]
    assert epochs == list(range(1, len(epochs) + 1)) and 1 < len(epochs) < 9
    chief, other = (text for _, text in outputs[1])
    assert f"continuing {both} after epoch" in chief and "stopped early" in chief
    assert "the chief has written" in other and "R@1" not in other and "continuing" not in other
    assert len(list(both.glob("logs/*/events.*"))) == 2, outputs


def lines_of(outputs):
    """Each worker's code and the one line that it says of its end; TensorFlow may log of the other's after it."""
    assert not [text for _, text in outputs if "Traceback" in text]
    said = [[line for line in text.splitlines() if line.startswith(("stopped by", "error:"))] for _, text in outputs]
    assert all(len(lines) == (code >= 0) for (code, _), lines in zip(outputs, said, strict=True)), outputs
    return [(code, "".join(lines)) for (code, _), lines in zip(outputs, said, strict=True)]


def assert_saved(outputs, run, by, code, first):
    """Both workers have left after the same step: `first`, or a later one of its epoch."""
    lines = lines_of(outputs)
    step = int(lines[0][1].split("saved at step ")[1].split()[0])
    assert first <= step <= -(-first // STEPS) * STEPS
    for line, where in zip(lines, (f"in {run}", "by the chief"), strict=True):
        assert line == (code, f"stopped by {by}; saved at step {step} {where}; the same command continues from there")


def test_a_signal_to_any_worker_ends_all_after_the_same_step(runs):
    both, _, outputs = runs
    assert_saved(outputs[0], both, "SIGTERM", 143, 6)


@pytest.mark.evidence
def test_every_step_at_default_settings_is_one_devices(tmp_path):
    one, *found = (str(tmp_path / f"{name}.npz") for name in ("one", "chief", "other"))
    np.savez(one, **recorded(16))
    outputs = as_two_workers([["tests.training.default_steps", file, "16", "--follow", one] for file in found])
    assert [code for code, _ in outputs] == [0, 0], outputs
    for file in found:
        assert_same_steps(np.load(file), np.load(one))


@pytest.mark.evidence
def test_signals_and_losses_at_other_moments(tmp_path):
    run, settings = tmp_path / "run", {"train__epochs": 4, "train__patience": 0}
    lost = "error: another worker of this run has stopped or cannot be reached; start all workers again with the same"
    everyone = on_two_workers([run, run], (("int", "1"), ("int", "1")), **settings)
    assert_saved(everyone, run, "Ctrl-C", 130, 1)
    # The chief has heard of it from the other worker, and is saving when its own signal arrives.
    late = on_two_workers([run, run], (("term-saving", "5"), ("term", "5")), **settings)
    assert_saved(late, run, "SIGTERM", 143, 5)
    measuring = on_two_workers([run, run], (("term-measuring", "8"), None), **settings)
    assert_saved(measuring, run, "SIGTERM", 143, 8)
    killed, (code, line) = lines_of(on_two_workers([run, run], (("step", "10"), None), **settings))
    assert (killed[0], code) == (-9, 2) and line.startswith(lost)
    (code, line), killed = lines_of(on_two_workers([run, run], (None, ("step", "11")), **settings))
    assert (killed[0], code) == (-9, 2) and line.startswith(lost)
    assert [code for code, _ in on_two_workers([run, run], **settings)] == [0, 0]
    train.main(arguments(tmp_path / "one", **{**COMMON, **settings}))
    assert [row["metrics"] for row in rows_of(run)] == [row["metrics"] for row in rows_of(tmp_path / "one")]


@pytest.mark.evidence
def test_a_folder_that_the_workers_do_not_share_ends_both(tmp_path):
    train.main(arguments(tmp_path / "chief", **COMMON, train__epochs=1))
    for code, output in on_two_workers([tmp_path / "chief", tmp_path / "elsewhere"], train__epochs=2):
        assert code == 2
        assert "the workers do not see the same" in output
