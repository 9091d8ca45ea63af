"""From settings to the loss that trains: what moves, what is logged, what a continued run finds."""

import dataclasses
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import arguments, rows_of, tiny_settings
from vse_tf import train
from vse_tf.config import LossSettings
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.losses import LOSSES, ConVSE, SigmoidPairwise, TripletMax
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.training.objective import make_loss, make_temperature
from vse_tf.training.schedules import Hardness


@pytest.mark.parametrize("name", LOSSES)
def test_every_setting_reaches_its_loss(name):
    own = {
        "convse": {"multiple_positives": True},
        "convse++": {"hardest": 3},
        "sigmoid": {"bias": -3.0},
    }.get(name, {})
    given = {"temperature": 0.3, "margin": 0.4, "mask_same_image": True, **own}
    config = make_loss(LossSettings(name=name, **given), tf.Variable(0), 10).get_config()
    taken = set(config) & set(given)
    assert taken >= {"mask_same_image", *own}
    assert {key: config[key] for key in taken} == {key: given[key] for key in taken}


def test_the_hardness_rises_with_the_optimizers_steps():
    step = tf.Variable(0, dtype=tf.int64)
    loss = make_loss(LossSettings(name="convse++", hardness_epochs=2.0), step, steps_per_epoch=10)
    found = []
    for at in (0, 5, 10, 20, 500):
        step.assign(at)
        found.append(loss.get_config()["hardness"])
    assert found == pytest.approx([0.0, 0.25, 0.5, 1.0, 1.0])
    assert Hardness(step, 1000)() == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "simclr", "multiple_positives": True}, r"loss\.multiple_positives: .*convse, but .*simclr"),
        ({"multiple_positives": True, "mask_same_image": False}, r"loss\.multiple_positives: needs loss\.mask_same"),
        ({"hardest": 3}, r"loss\.hardest: only used with loss\.name convse\+\+"),
        ({"name": "convse++", "hardest": 0}, r"loss\.hardest: 0"),
        ({"hardness_epochs": 1}, r"loss\.hardness_epochs: only used with loss\.name convse\+\+"),
        ({"name": "convse++", "hardness_epochs": -1}, r"loss\.hardness_epochs: -1"),
        ({"bias": -3}, r"loss\.bias: only used with loss\.name sigmoid"),
        ({"name": "convse++", "learn_temperature": True}, r"loss\.learn_temperature: convse\+\+ .*a larger one"),
        ({"name": "triplet_max", "learn_temperature": True}, r"loss\.learn_temperature: triplet_max .*has none"),
        ({"learn_temperature": True, "temperature": 2}, r"loss\.temperature_limits: .*\(2\.0\)"),
        ({"nested_dims": "[4, 2]"}, r"loss\.nested_dims: \[4, 2\] are not rising numbers below model\.dim \(8\)"),
        ({"nested_dims": "[4, 8]"}, r"loss\.nested_dims: \[4, 8\] are not rising numbers below model\.dim \(8\)"),
        ({"nested_dims": "[0, 4]"}, r"loss\.nested_dims"),
        ({"name": "sigmoid", "temperature_limits": "[0.2, 0.1]"}, r"loss\.temperature_limits: 0\.2, 0\.1"),
    ],
)
def test_settings_that_contradict_each_other(changed, message):
    with pytest.raises(UserError, match=message):
        tiny_settings("unused", **{f"loss__{key}": value for key, value in changed.items()})


def test_all_negatives_are_null_on_the_command_line():
    assert tiny_settings("unused", loss__name="convse++", loss__hardest="null").loss.hardest is None


def test_pieces_have_to_divide_the_batch():
    with pytest.raises(UserError, match=r"train\.micro_batch: 5 .*16"):
        tiny_settings("unused", train__micro_batch=5)


def test_only_sigmoid_learns_its_temperature_by_itself():
    assert make_temperature(LossSettings()) is None
    assert make_temperature(LossSettings(name="sigmoid", learn_temperature=False)) is None
    both = make_temperature(LossSettings(name="sigmoid", temperature=0.2, bias=-5.0))
    assert [float(both.now()), float(both.bias_now())] == pytest.approx([0.2, -5.0])
    assert make_temperature(LossSettings(learn_temperature=True)).bias is None


def test_the_temperature_stays_within_its_limits_and_turns_round():
    learned = LearnedTemperature(0.1, limits=(0.05, 0.2))
    optimizer = keras.optimizers.SGD(1.0)
    for gradient, expected in ((-5.0, 0.2), (-5.0, 0.2), (0.1, 0.2 * math.exp(-0.1)), (9.0, 0.05)):
        optimizer.apply([tf.constant(gradient)], learned.trainable_variables)
        assert float(learned.now()) == pytest.approx(expected, rel=1e-5)


def test_a_bound_loss_computes_and_serialises_with_the_weights():
    learned = LearnedTemperature(0.25, bias=-4.0)
    loss = SigmoidPairwise()
    learned.bind(loss)
    rows, pairs = np.arange(4), tf.math.l2_normalize(np.random.default_rng(0).normal(size=(4, 2, 3)), axis=-1)
    np.testing.assert_allclose(loss(rows, pairs), SigmoidPairwise(0.25, -4.0)(rows, pairs), rtol=1e-6)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.saving.serialize_keras_object(learned))))
    assert again.get_config() == learned.get_config()
    for other in (TripletMax(), ConVSE()):
        with pytest.raises(ValueError, match=r"has no (temperature|bias) that could be learned"):
            learned.bind(other)
    with pytest.raises(ValueError, match="limits"):
        LearnedTemperature(2.0)


def test_a_learned_temperature_moves_is_logged_and_continues(tmp_path):
    argv = {"loss__name": "sigmoid", "train__schedule": "constant", "train__learning_rate": 1e-2}
    after = []
    for epochs in (1, 2):
        train.main(arguments(tmp_path, **argv, train__epochs=epochs))
        learned = load(tmp_path, "last").model.temperature
        after.append({"temperature": float(learned.now()), "bias": float(learned.bias_now())})
    means = [row["train"] for row in rows_of(tmp_path)]
    path = [0.07, means[0]["temperature"], after[0]["temperature"], means[1]["temperature"], after[1]["temperature"]]
    # It rises all the way: what is not continued would stand back at the start.
    assert path == sorted(path) and len(set(path)) == 5, path
    assert len({-10.0, means[0]["bias"], means[1]["bias"], after[0]["bias"], after[1]["bias"]}) == 5


def test_a_hardness_schedule_is_logged_and_continues(tmp_path):
    argv = {"loss__name": "convse++", "loss__hardness_epochs": 2.5, "train__schedule": "constant"}
    for epochs in (1, 3):
        train.main(arguments(tmp_path / "run", **argv, train__epochs=epochs))
    found = [row["train"] for row in rows_of(tmp_path / "run")]
    # Four steps an epoch: the means of 0 .1 .2 .3, of .4 .5 .6 .7 and of .8 .9 1 1.
    assert [row["hardness"] for row in found] == pytest.approx([0.15, 0.55, 0.925])
    assert [row["temperature"] for row in found] == pytest.approx([0.07] * 3)


def test_training_in_pieces_through_the_command(tmp_path):
    losses = {}
    for micro_batch in (0, 4):
        train.main(arguments(tmp_path / str(micro_batch), train__micro_batch=micro_batch, train__epochs=1))
        losses[micro_batch] = [row["train"]["loss"] for row in rows_of(tmp_path / str(micro_batch))]
    assert losses[4] == pytest.approx(losses[0], rel=1e-4)


def test_defaults_are_the_methods():
    defaults = dataclasses.asdict(LossSettings())
    assert defaults["hardest"] == 1 and defaults["hardness_epochs"] == 0.0 and not LossSettings().learned
