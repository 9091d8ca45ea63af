"""The model as Keras keeps it: saved, loaded, trained on."""

import subprocess

import keras
import numpy as np
import pytest

from tests.tiny import tiny_settings
from tests.warm_python import warm_python
from vse_tf.losses import ConVSE, SigmoidPairwise, TripletMax
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.temperature import LearnedTemperature

RNG = np.random.default_rng(0)
INPUTS = {name: RNG.normal(size=(8, 6)).astype(np.float32) for name in ("image", "text")}
IMAGE_ID = np.arange(8)


def dual_encoder(temperature=None, **changed):
    settings = tiny_settings("unused", data__source="precomp", image__encoder="features")
    towers = (
        image_tower_from_settings(settings.image, settings.model, (6,), name=f"{n}_tower") for n in ("image", "text")
    )
    return DualEncoder(*towers, temperature=temperature, **changed)


def test_a_saved_model_has_its_temperature_and_trains_on(tmp_path):
    model = dual_encoder(LearnedTemperature(0.2, bias=-3.0), clip_norm=1.0, micro_batch=4)
    model.compile(keras.optimizers.Adam(0.01), SigmoidPairwise())
    model.fit(INPUTS, IMAGE_ID, batch_size=8, epochs=2, verbose=0, shuffle=False)
    path = tmp_path / "model.keras"
    model.save(path)
    code = f"import keras, vse_tf.models.dual_encoder; print(keras.saving.load_model({str(path)!r}).loss.name)"
    done = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["sigmoid"], done.stderr[-2000:]
    again = keras.saving.load_model(path)
    np.testing.assert_allclose(again(INPUTS), model(INPUTS), atol=1e-6)
    assert (again.clip_norm, again.micro_batch, again.temperature.limits) == (1.0, 4, (0.01, 1.0))
    assert float(again.temperature.now()) == pytest.approx(float(model.temperature.now()), rel=1e-6)
    assert float(again.temperature.now()) != pytest.approx(0.2, rel=1e-4)
    for each in (model, again):
        each.fit(INPUTS, IMAGE_ID, batch_size=8, verbose=0, shuffle=False)
    np.testing.assert_allclose(again.temperature.bias_now(), model.temperature.bias_now(), rtol=1e-6)
    assert again.loss.get_config()["temperature"] == pytest.approx(float(again.temperature.now()))


def test_the_weights_have_names_that_a_rebuilt_model_has_too():
    model = dual_encoder(LearnedTemperature(0.2))
    assert list(model.parts) == ["image_tower", "text_tower", "temperature"]
    again = DualEncoder.from_config(model.get_config())
    assert [v.path for v in again.temperature.weights] == [v.path for v in model.temperature.weights]
    assert list(dual_encoder().parts) == ["image_tower", "text_tower"]


def test_a_loss_without_temperature_cannot_learn_one():
    with pytest.raises(ValueError, match="triplet_max has no temperature"):
        dual_encoder(LearnedTemperature(0.2)).compile("adam", TripletMax())
    model = dual_encoder(LearnedTemperature(0.2))
    model.compile("adam", ConVSE(0.1))
    assert model.loss.get_config()["temperature"] == pytest.approx(0.2)
