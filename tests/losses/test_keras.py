"""The objectives as ordinary Keras losses: build, validate, serialise, compile and fit."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.losses import oracle
from tests.losses.cases import EVERY, ONE_EACH, Case, names
from vse_tf import losses
from vse_tf.errors import UserError

IMAGE_ID = np.float32([0, 1, 1, 2, 0, 3])


@pytest.fixture
def stacked() -> np.ndarray:
    return np.stack(oracle.unit(np.random.default_rng(2), 6, 4), axis=1)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_serialises_and_comes_back(case: Case, stacked) -> None:
    loss = case.loss(**case.arguments, name="mine", mask_same_image=True)
    for form in (keras.saving.serialize_keras_object(loss), keras.losses.serialize(loss)):
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(form)))
        assert type(again) is case.loss
        assert again.get_config() == loss.get_config()
        np.testing.assert_array_equal(again(IMAGE_ID, stacked), loss(IMAGE_ID, stacked))


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_constructor_arguments_are_attributes_and_config_keys(case: Case) -> None:
    loss = case.loss(**case.arguments)
    config = loss.get_config()
    assert losses.build("convse").get_config()["name"] == "convse"
    for key, value in config.items():
        assert getattr(loss, key) == value
    for key, value in case.arguments.items():
        assert config[key] == value


@pytest.mark.parametrize("kind", ["tf", "keras", "function"])
def test_bound_variables_are_stored_as_floats(kind: str, stacked) -> None:
    value = {"tf": tf.Variable, "keras": keras.Variable, "function": lambda x: lambda: tf.constant(x)}[kind](0.5)
    loss = losses.ConVSE()
    loss.temperature = value
    np.testing.assert_allclose(loss(IMAGE_ID, stacked), losses.ConVSE(temperature=0.5)(IMAGE_ID, stacked), rtol=1e-6)
    config = json.loads(json.dumps(loss.get_config()))
    assert config["temperature"] == 0.5
    assert losses.ConVSEPlusPlus(temperature=value, hardness=value).get_config()["hardness"] == 0.5
    assert losses.ConVSEPlusPlus(temperature=value).collapse_value(4) == pytest.approx(0.8)
    assert losses.SigmoidPairwise(bias=value).get_config()["bias"] == 0.5


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("convse", losses.ConVSE),
        ("convse++", losses.ConVSEPlusPlus),
        ("triplet_sum", losses.TripletSum),
        ("triplet_max", losses.TripletMax),
        ("simclr", losses.NTXent),
        ("npairs_angular", losses.NPairsAngular),
        ("sigmoid", losses.SigmoidPairwise),
    ],
)
def test_build_takes_a_runs_settings(name: str, cls: type) -> None:
    loss = losses.build(name, temperature=0.3, margin=0.4, mask_same_image=False)
    assert type(loss) is cls
    assert loss.mask_same_image is False
    assert getattr(loss, "temperature", 0.3) == 0.3
    assert getattr(loss, "margin", 0.4) == 0.4


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match=r"loss\.name: .*'conves'.*convse\+\+"):
        losses.build("conves")
    with pytest.raises(TypeError, match="temprature"):
        losses.build("convse", temprature=0.1)


@pytest.mark.parametrize("value", [0, 0.0, -0.1, float("nan"), float("inf"), np.float32(-1)])
def test_temperatures_are_positive(value) -> None:
    x = np.zeros([2, 3], np.float32)
    for cls in (losses.ConVSE, losses.ConVSEPlusPlus, losses.NTXent, losses.SigmoidPairwise):
        with pytest.raises(ValueError, match=f"temperature.*temperature={value}"):
            cls(temperature=value)
    for function in (losses.convse, losses.convse_plus_plus, losses.nt_xent, losses.sigmoid_pairwise):
        with pytest.raises(ValueError, match=f"temperature.*temperature={value}"):
            function(x, x, temperature=value)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_margins_are_not_negative(value) -> None:
    x = np.zeros([2, 3], np.float32)
    for cls in (losses.ConVSEPlusPlus, losses.TripletSum, losses.TripletMax):
        with pytest.raises(ValueError, match=f"margin.*margin={value}"):
            cls(margin=value)
    for function in (losses.convse_plus_plus, losses.triplet_sum, losses.triplet_max):
        with pytest.raises(ValueError, match=f"margin.*margin={value}"):
            function(x, x, margin=value)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (losses.ConVSEPlusPlus, {"hardest": 0}),
        (losses.ConVSEPlusPlus, {"hardest": 1.5}),
        (losses.ConVSEPlusPlus, {"hardest": True}),
        (losses.ConVSEPlusPlus, {"hardness": 1.1}),
        (losses.ConVSEPlusPlus, {"hardness": -0.1}),
        (losses.NPairsAngular, {"angle": 90}),
        (losses.NPairsAngular, {"angle": 0}),
        (losses.ConVSE, {"multiple_positives": True, "mask_same_image": False}),
    ],
)
def test_other_arguments_out_of_range(cls, arguments) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        cls(**arguments)


def test_wrong_shapes_are_named(stacked) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 2, dim\).*\(6, 4\)"):
        losses.ConVSE()(IMAGE_ID, stacked[:, 0])
    with pytest.raises(ValueError, match=r"same shape.*\(6, 4\).*\(5, 4\)"):
        losses.convse(stacked[:, 0], stacked[:5, 1])
    with pytest.raises(ValueError, match=r"\(batch, dim\)"):
        losses.convse(stacked, stacked)


@pytest.mark.parametrize("case", ONE_EACH, ids=names)
def test_compile_and_fit(case: Case) -> None:
    """A tiny model learns through `fit`, with batches of unknown size, a smaller last one included."""
    generator = np.random.default_rng(0)
    images = generator.normal(size=(40, 6)).astype(np.float32)
    texts = images @ generator.normal(size=(6, 5)).astype(np.float32)
    inputs = {"image": keras.Input([6], name="image"), "text": keras.Input([5], name="text")}
    towers = [keras.layers.UnitNormalization()(keras.layers.Dense(4)(x)) for x in inputs.values()]
    model = keras.Model(inputs, keras.ops.stack(towers, axis=1))
    model.compile(optimizer=keras.optimizers.Adam(0.03), loss=case.loss(**case.arguments))
    data = tf.data.Dataset.from_tensor_slices(({"image": images, "text": texts}, np.arange(40) % 37)).batch(16)
    history = model.fit(data, epochs=4, shuffle=False, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < history[0]


def test_mixed_precision_model() -> None:
    inputs = keras.Input([2, 6])
    layer = keras.layers.Dense(4, dtype="mixed_float16")
    model = keras.Model(inputs, keras.layers.UnitNormalization(dtype="float16")(layer(inputs)))
    model.compile(optimizer="sgd", loss=losses.ConVSE(temperature=0.005))
    data = np.random.default_rng(0).normal(size=(8, 2, 6)).astype(np.float32)
    history = model.fit(data, np.arange(8), batch_size=8, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(history).all()


def test_floatx_does_not_lower_the_precision(stacked) -> None:
    before = keras.config.floatx()
    keras.config.set_floatx("float16")
    try:
        value = losses.ConVSE(temperature=0.005)(IMAGE_ID, stacked)
    finally:
        keras.config.set_floatx(before)
    assert value.dtype == tf.float32
    np.testing.assert_array_equal(value, losses.ConVSE(temperature=0.005)(IMAGE_ID, stacked))
