"""The objective on the first dimensions too, against the mean of the objective's own values."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import oracle
from tests.losses.cases import EVERY, Case, names
from vse_tf import losses
from vse_tf.config import LossSettings
from vse_tf.losses.nested import Nested
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.training.objective import make_loss

IMAGE_ID = [0, 1, 1, 2, 0, 3]


@pytest.fixture
def pair():
    return oracle.unit(np.random.default_rng(5), 6, 8)


def shortened(vectors, dim):
    first = vectors[:, :dim].astype(np.float64)
    return first / np.linalg.norm(first, axis=1, keepdims=True)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_the_value_is_the_mean_over_the_dimensions(case: Case, pair):
    loss = Nested(case.loss(**case.arguments), [2, 5])
    found = loss.call(np.float32(IMAGE_ID), np.stack(pair, axis=1))
    every = [case.oracle(*pair, IMAGE_ID, **case.arguments)]
    every += [case.oracle(*(shortened(each, dim) for each in pair), IMAGE_ID, **case.arguments) for dim in (2, 5)]
    np.testing.assert_allclose(found, np.mean(every, axis=0), rtol=1e-4, atol=1e-4)
    assert loss.collapse_value(6) == case.loss(**case.arguments).collapse_value(6)


def test_each_dimension_has_a_gradient_and_the_first_ones_more(pair):
    vectors = tf.constant(np.stack(pair, axis=1))
    with tf.GradientTape() as tape:
        tape.watch(vectors)
        value = Nested(losses.ConVSE(), [2])(np.float32(IMAGE_ID), vectors)
    sizes = np.abs(tape.gradient(value, vectors)).mean(axis=(0, 1))
    assert (sizes > 0).all() and sizes[:2].min() > sizes[2:].max()


def test_it_serialises_and_comes_back(pair):
    loss = Nested(losses.ConVSEPlusPlus(hardest=2), [3], name="mine")
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert again.get_config() == loss.get_config() and again.name == "mine"
    stacked = np.stack(pair, axis=1)
    np.testing.assert_array_equal(again(IMAGE_ID, stacked), loss(IMAGE_ID, stacked))


@pytest.mark.parametrize("dims", [[], [0], [4, 4], [-1]])
def test_dimensions_are_different_numbers_above_0(dims):
    with pytest.raises(ValueError, match="dims must be different numbers"):
        Nested(losses.ConVSE(), dims)


def test_dimensions_are_below_those_of_the_embeddings(pair):
    with pytest.raises(ValueError, match="below the 8 dimensions"):
        Nested(losses.ConVSE(), [8])(np.float32(IMAGE_ID), np.stack(pair, axis=1))


def test_a_learned_temperature_reaches_the_objective(pair):
    loss, temperature = Nested(losses.ConVSE(temperature=0.3), [4]), LearnedTemperature(0.5)
    temperature.bind(loss)
    stacked = np.stack(pair, axis=1)
    expected = Nested(losses.ConVSE(temperature=0.5), [4])(IMAGE_ID, stacked)
    np.testing.assert_allclose(loss(IMAGE_ID, stacked), expected, rtol=1e-6)
    assert float(loss.scalars()["temperature"]) == pytest.approx(0.5)


def test_a_runs_settings_make_it():
    assert isinstance(make_loss(LossSettings(), tf.Variable(0), 10), losses.ConVSE)
    loss = make_loss(LossSettings(nested_dims=[2, 4], temperature=0.2), tf.Variable(0), 10)
    assert (type(loss), loss.dims, loss.loss.temperature, loss.name) == (Nested, [2, 4], 0.2, losses.ConVSE().name)
