"""Adam with a learning rate and a weight decay per variable."""

import keras
import numpy as np
import pytest

from tests.tiny import tiny_settings
from vse_tf.models.cnn import cnn_encoder
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.gru import gru_encoder
from vse_tf.models.image_tower import build_image_tower
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.models.text_tower import build_text_tower
from vse_tf.training.optimizer import TowerAdam, is_decayed, make_optimizer


def oracle(value, gradients, rate, decay, first=0.9, second=0.999, epsilon=1e-7):
    """AdamW in float64: algorithm 2 of arXiv 1711.05101, the decay scaled by the rate as in Keras and PyTorch."""
    value, mean, square = np.float64(value), 0.0, 0.0
    for step, gradient in enumerate(np.float64(gradients), 1):
        value = value - rate * decay * value
        mean = first * mean + (1 - first) * gradient
        square = second * square + (1 - second) * gradient**2
        value = value - rate * mean / (1 - first**step) / (np.sqrt(square / (1 - second**step)) + epsilon)
    return value


@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_steps_are_those_of_adamw(amsgrad):
    # The mean squares rise with every step, so that their maximum is the last one.
    size, rng = 3, np.random.default_rng(0)
    # Not near zero, where Keras' epsilon is another one.
    start, gradients = rng.normal(size=[size, size]), rng.uniform(0.5, 1, [3, size, size])
    plain, decayed = (keras.Variable(start, dtype="float32") for _ in range(2))
    optimizer = TowerAdam(0.01, rates=[1.0, 0.5], decays=[0.0, 0.2], amsgrad=amsgrad)
    optimizer.build([plain, decayed])
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")] * 2)
    np.testing.assert_allclose(plain, oracle(start, gradients, 0.01, 0.0), atol=2e-5)
    np.testing.assert_allclose(decayed, oracle(start, gradients, 0.005, 0.2), atol=2e-5)
    same = TowerAdam.from_config(optimizer.get_config())
    assert (same.rates, same.decays) == ([1.0, 0.5], [0.0, 0.2])


@pytest.fixture(scope="module")
def model():
    return DualEncoder(
        build_image_tower(cnn_encoder((4, 8), 8), (16, 16, 3), 8),
        build_text_tower(gru_encoder(20, embedding_dim=8, units=8, packed=False), 8),
        temperature=LearnedTemperature(0.1),
    )


def test_kernels_and_embeddings_are_decayed_and_no_others(model):
    decayed = {v.path: is_decayed(v) for v in model.trainable_variables}
    kinds = {path.rpartition("/")[2] for path, decays in decayed.items() if decays}
    assert kinds == {"kernel", "recurrent_kernel", "embeddings"}
    # A GRU's bias is a matrix.
    assert {path.rpartition("/")[2] for path, decays in decayed.items() if not decays} >= {"bias", "log_temperature"}


def test_without_the_setting_it_is_adam(model, tmp_path):
    optimizers = [
        make_optimizer(tiny_settings(tmp_path, train__weight_decay=decay).train, model, 10) for decay in (0, 0.1)
    ]
    assert optimizers[0].decays is None
    assert set(optimizers[1].decays) == {0.0, 0.1}


@pytest.mark.parametrize("size", [3, 1200])
def test_a_variable_that_joins_later_takes_first_steps(size):
    """Its averages begin with zeros at its own first step."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=[size, size]), rng.uniform(0.5, 1, [6, size, size])
    first, later = (keras.Variable(start, dtype="float32") for _ in range(2))
    optimizer = TowerAdam(0.01, decays=[0.0, 0.2], delays=[0, 3])
    optimizer.build([first, later])
    for step, gradient in enumerate(gradients):
        variables = [first] if step < 3 else [first, later]
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")] * len(variables), variables)
        if step == 2:
            np.testing.assert_array_equal(later, start.astype(np.float32))
    np.testing.assert_allclose(first, oracle(start, gradients, 0.01, 0.0), atol=2e-5)
    np.testing.assert_allclose(later, oracle(start, gradients[3:], 0.01, 0.2), atol=2e-5)
    assert TowerAdam.from_config(optimizer.get_config()).delays == [0, 3]
