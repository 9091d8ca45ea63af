import keras
import pytest

from vse_tf.config import TrainSettings
from vse_tf.training.schedules import WarmUp, learning_rate


def rate(schedule, step):
    return float(schedule(step)) if callable(schedule) else schedule


def test_step_decay_drops_after_the_named_epochs():
    schedule = learning_rate(TrainSettings(learning_rate=1.0, decay_epochs=[2, 3], decay_factor=0.1), 10)
    # PiecewiseConstantDecay keeps the old value at the bound itself
    assert [rate(schedule, s) for s in (0, 19, 21, 29, 31)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_ends_at_zero_and_is_half_way_down_in_the_middle():
    schedule = learning_rate(TrainSettings(learning_rate=2.0, schedule="cosine", epochs=4), 10)
    assert [rate(schedule, s) for s in (0, 20, 40)] == pytest.approx([2, 1, 0], abs=1e-6)


def test_warm_up_is_linear_and_starts_above_zero():
    schedule = learning_rate(TrainSettings(learning_rate=1.0, schedule="constant", warmup_epochs=0.5), 8)
    assert [rate(schedule, s) for s in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_no_decay_epochs_is_constant():
    assert learning_rate(TrainSettings(learning_rate=0.3, decay_epochs=[]), 5) == 0.3


@pytest.mark.parametrize("inner", [0.5, keras.optimizers.schedules.CosineDecay(0.5, 10)])
def test_warm_up_survives_serialisation(inner):
    schedule = WarmUp(inner, 4)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert [rate(again, s) for s in range(9)] == pytest.approx([rate(schedule, s) for s in range(9)])
