"""The learning rate that each step applies is the documented one, and TensorBoard shows it."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import arguments, rows_of
from vse_tf import train
from vse_tf.config import TrainSettings
from vse_tf.training.optimizer import TowerAdam, loss_scaling
from vse_tf.training.schedules import WarmUp, learning_rate


class Recorder(TowerAdam):
    """Records the rates that its steps apply."""

    def update_step(self, gradient, variable, learning_rate):
        self.applied.append(float(learning_rate))
        super().update_step(gradient, variable, learning_rate)


def recorder(rate):
    optimizer = Recorder(rate)
    optimizer.applied = []
    optimizer.build([keras.Variable(1.0)])
    return optimizer


def documented(settings, steps_per_epoch, step):
    """The rate of a step, counted from 0, by the words of `--help`."""
    epoch, rate = step // steps_per_epoch, settings.learning_rate
    if settings.schedule == "step":
        rate *= settings.decay_factor ** sum(drop <= epoch for drop in settings.decay_epochs)
    elif settings.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * step / (settings.epochs * steps_per_epoch))) / 2
    warm_up = round(settings.warmup_epochs * steps_per_epoch)
    return rate * min(1, (step + 1) / warm_up) if warm_up else rate


@st.composite
def runs(draw):
    epochs, steps_per_epoch = draw(st.integers(1, 50)), draw(st.integers(1, 3000))
    drops = draw(st.sets(st.integers(1, 60), max_size=4))
    settings = TrainSettings(
        epochs=epochs,
        learning_rate=draw(st.sampled_from([2e-4, 1.0])),
        schedule=draw(st.sampled_from(["constant", "step", "cosine"])),
        warmup_epochs=draw(st.sampled_from([0.0, 0.3, 1.0, 2.5])),
        decay_epochs=sorted(drops),
        decay_factor=draw(st.sampled_from([0.1, 0.5, 1.0])),
    )
    # The steps at which something changes, and any others.
    ends = {epoch * steps_per_epoch + offset for epoch in {0, 1, 2, *drops, epochs} for offset in (-2, -1, 0, 1)}
    steps = ends | draw(st.sets(st.integers(0, epochs * steps_per_epoch - 1), max_size=3))
    return settings, steps_per_epoch, sorted(step for step in steps if 0 <= step < epochs * steps_per_epoch)


@settings(deadline=None, max_examples=25)
@given(runs())
def test_every_step_applies_the_documented_rate(run):
    train_settings, steps_per_epoch, steps = run
    optimizer = recorder(learning_rate(train_settings, steps_per_epoch))
    for step in steps:
        optimizer.iterations.assign(step)
        optimizer.apply([tf.constant(1.0)])
    wanted = [documented(train_settings, steps_per_epoch, step) for step in steps]
    assert optimizer.applied == pytest.approx(wanted, rel=1e-5, abs=1e-6 * train_settings.learning_rate)


def test_the_rate_drops_with_the_first_step_after_the_epochs():
    rate = learning_rate(TrainSettings(learning_rate=1.0, warmup_epochs=0, decay_epochs=[2, 3], decay_factor=0.1), 10)
    assert [float(rate(step)) for step in (0, 19, 20, 29, 30)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_epochs_far_beyond_the_run_are_no_error():
    rate = learning_rate(
        TrainSettings(learning_rate=1.0, warmup_epochs=0, decay_epochs=[1, 10**6], decay_factor=0.1), 10**5
    )
    steps = [tf.constant(step, tf.int64) for step in (10**5 - 1, 10**5, 10**11 - 1, 10**11)]
    assert [float(rate(step)) for step in steps] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_skipped_steps_of_mixed_float16_do_not_count():
    inner = recorder(
        learning_rate(TrainSettings(learning_rate=1.0, warmup_epochs=0, decay_epochs=[1, 2], decay_factor=0.1), 2)
    )
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build(inner._trainable_variables)
    for overflows in (True, False, True, True, False, False):
        # Eagerly, `apply` runs one of its branches.
        optimizer.apply([tf.constant(math.inf if overflows else 1.0)])
    assert inner.applied == pytest.approx([1, 1, 0.1])
    assert loss_scaling(optimizer) == {"applied_steps": 3.0, "loss_scale": 1.0}
    assert loss_scaling(inner) == {}


def scalar_events(run, tag):
    """A tag's values by step."""
    found = {}
    for file in run.glob("logs/*/events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                if value.tag == tag:
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found


@pytest.mark.parametrize("replicas", [1, 2])
def test_tensorboard_shows_the_rates_that_were_applied(tmp_path, replicas):
    changed = {"train__schedule": "step", "train__decay_epochs": "[1,2]", "train__warmup_epochs": 0.5}
    argv = arguments(tmp_path / "run", **changed, train__epochs=3, train__log_steps=1)
    train.main([*argv, "--distribution.virtual_cpus", str(replicas if replicas > 1 else 0)])
    rates = scalar_events(tmp_path / "run", "train/learning_rate")
    # 64 scenes in batches of 16; the peak is the built-in set's.
    wanted = np.array([0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01]) * 4e-3
    assert list(rates) == list(range(1, 13))
    assert list(rates.values()) == pytest.approx(wanted)


def test_a_run_in_mixed_float16_counts_its_applied_steps(tmp_path):
    changed = {"model__precision": "mixed_float16", "train__schedule": "step", "train__decay_epochs": "[1]"}
    train.main(arguments(tmp_path / "run", **changed, train__epochs=3, train__warmup_epochs=0, train__log_steps=1))
    applied = scalar_events(tmp_path / "run", "train/applied_steps")
    rates = scalar_events(tmp_path / "run", "train/learning_rate")
    # The first scale of the loss is too large for half precision.
    assert 4 < applied[12] < 12
    assert rows_of(tmp_path / "run")[-1]["train"]["applied_steps"] == applied[12]
    # The rate of a step follows the number of steps applied before it.
    before = {step: applied.get(step - 1, 0) for step in rates}
    assert rates == {step: pytest.approx(4e-3 if count < 4 else 4e-4) for step, count in before.items()}


def test_cosine_ends_at_zero_and_is_half_way_down_in_the_middle():
    schedule = learning_rate(TrainSettings(learning_rate=2.0, warmup_epochs=0, schedule="cosine", epochs=4), 10)
    assert [float(schedule(s)) for s in (0, 20, 40)] == pytest.approx([2, 1, 0], abs=1e-6)


def test_warm_up_is_linear_and_starts_above_zero():
    schedule = learning_rate(TrainSettings(learning_rate=1.0, schedule="constant", warmup_epochs=0.5), 8)
    assert [float(schedule(s)) for s in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_no_decay_epochs_is_constant():
    assert learning_rate(TrainSettings(learning_rate=0.3, warmup_epochs=0, decay_epochs=[]), 5) == 0.3


@pytest.mark.parametrize("inner", [0.5, keras.optimizers.schedules.CosineDecay(0.5, 10)])
def test_warm_up_survives_serialisation(inner):
    schedule = WarmUp(inner, 4)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [float(again(s)) for s in range(9)] == pytest.approx([float(schedule(s)) for s in range(9)])
