"""A disturbed run, repeated with the same command, ends in the bits of an undisturbed one."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.reliability.runs import KILLS, KINDS, argv_of, assert_same, command
from vse_tf import train
from vse_tf.errors import Interrupted
from vse_tf.training.callbacks import StepTracker


def stopped_at(monkeypatch, argv, step, stop):
    """Train here and call `stop` when a step is done."""
    done = StepTracker.on_train_batch_end

    def after_step(self, batch, logs=None):
        done(self, batch, logs)
        if self.progress.position.step >= step:
            stop()

    with monkeypatch.context() as patch:
        patch.setattr(StepTracker, "on_train_batch_end", after_step)
        train.main(argv)


class Crash(BaseException):
    """Nothing handles it."""


def crash():
    raise Crash


@pytest.mark.lowest
def test_interrupted_then_killed_by_the_real_command(tmp_path):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    changed = {"train__epochs": 2}
    argv = argv_of("files", tmp_path, run, **changed)
    interrupted = command(argv, disturbed=("int", 2))
    assert interrupted.returncode == 130
    assert "Traceback" not in interrupted.stderr
    last = interrupted.stderr.strip().splitlines()[-1]
    assert last.startswith("stopped by Ctrl-C; saved at step 2")
    # The checkpoint of step 6, in the middle of the second epoch, is half written.
    killed = command(argv, disturbed=("saving", 6))
    assert killed.returncode == -signal.SIGKILL
    assert "continuing" in killed.stdout
    train.main(argv)
    train.main(argv_of("files", tmp_path, undisturbed, **changed))
    assert_same(run, undisturbed)
    assert not list((run / "checkpoints").glob(".*"))


def test_sigterm_on_two_replicas(tmp_path, monkeypatch):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    changed = {"train__epochs": 2}
    argv = argv_of("shapes, two replicas", tmp_path, run, **changed)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"SIGTERM; saved at step 8 in .*run; the same command continues") as stop:
        stopped_at(monkeypatch, argv, 8, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stop.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    train.main(argv)
    train.main(argv_of("shapes, two replicas", tmp_path, undisturbed, **changed))
    assert_same(run, undisturbed)


def test_cached_features_go_on_after_a_crash_while_measuring(tmp_path, monkeypatch):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    changed = {"train__epochs": 2, "train__checkpoint_steps": 5}
    argv = argv_of("cached features", tmp_path, run, **changed)
    with monkeypatch.context() as patch:
        patch.setattr("vse_tf.training.callbacks.measure", lambda *_: crash())
        with pytest.raises(Crash):
            train.main(argv)
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-000000005"]
    train.main(argv)
    train.main(argv_of("cached features", tmp_path, undisturbed, **changed))
    assert_same(run, undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Undisturbed runs by kind, each trained once by the real command."""
    folder = tmp_path_factory.mktemp("undisturbed")
    there = {}

    def of(kind):
        if kind not in there:
            there[kind] = folder / f"run-{len(there)}"
            trained = command(argv_of(kind, folder, there[kind]))
            assert trained.returncode == 0, trained.stderr
        return folder, there[kind]

    return of


@pytest.mark.evidence
@pytest.mark.parametrize("where", KILLS)
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_bad_moment(kind, where, undisturbed, tmp_path):
    data, expected = undisturbed(kind)
    argv = argv_of(kind, data, tmp_path / "run")
    step = random.SystemRandom().randint(2, 12)
    print(f"killed: {kind}, {where}, step {step}")
    assert command(argv, disturbed=(where, step)).returncode == -signal.SIGKILL
    again = command(argv)
    assert again.returncode == 0, again.stderr
    assert_same(tmp_path / "run", expected)


@pytest.mark.evidence
@pytest.mark.parametrize("kind", KINDS)
def test_killed_again_and_again_at_random_moments(kind, undisturbed, tmp_path):
    data, expected = undisturbed(kind)
    run = tmp_path / "run"
    argv = argv_of(kind, data, run, train__checkpoint_steps=1)
    kills = 0
    while kills < 5:
        process = subprocess.Popen(
            [sys.executable, "-m", "vse_tf.train", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        there = set(run.glob("checkpoints/step-*"))
        # At the earliest when it has got a step further, then at any moment of the next second.
        while process.poll() is None and not set(run.glob("checkpoints/step-*")) - there:
            time.sleep(0.01)
        time.sleep(random.SystemRandom().uniform(0, 1))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    print(f"{kind}: survived {kills} kills")
    assert kills >= 1
    again = command(argv)
    assert again.returncode == 0, again.stderr
    assert_same(run, expected)
