"""Every objective against its slow oracle: values, gradients, masks, ranges, dtypes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.losses import oracle
from tests.losses.cases import CASES, EVERY, Case, names, without
from vse_tf import losses

IMAGE_ID = {"distinct": list(range(7)), "duplicates": [0, 1, 1, 2, 0, 3, 1], "one image": [5] * 7}


@pytest.fixture
def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Seven pairs; 1, 2 and 6 look alike, so that masking them matters to the hardest negative."""
    image, text = oracle.unit(np.random.default_rng(3), 7, 5)
    for like, share in ((2, 0.9), (6, 0.8)):
        for x in (image, text):
            x[like] = share * x[1] + (1 - share) * x[like]
            x[like] /= np.linalg.norm(x[like])
    return image, text


@pytest.mark.parametrize("image_id", [None, *IMAGE_ID.values()], ids=["no ids", *IMAGE_ID])
@pytest.mark.parametrize("case", CASES, ids=names)
def test_values_are_the_formula(case: Case, image_id: list[int] | None, pairs) -> None:
    given_id = None if image_id is None else np.array(image_id)
    result = case.function(*pairs, given_id, **case.arguments)
    assert result.shape == (7,)
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, case.oracle(*pairs, image_id, **case.arguments), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("image_id", IMAGE_ID.values(), ids=IMAGE_ID)
def test_all_captions_of_an_image_as_positives(image_id: list[int], pairs) -> None:
    result = losses.convse(*pairs, np.array(image_id), multiple_positives=True)
    np.testing.assert_allclose(result, oracle.convse(*pairs, image_id, multiple_positives=True), rtol=1e-6, atol=1e-6)


def test_positives_of_distinct_images_are_plain_convse(pairs) -> None:
    plain = losses.convse(*pairs)
    np.testing.assert_allclose(
        losses.convse(*pairs, np.arange(7), multiple_positives=True), plain, rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(losses.convse(*pairs, multiple_positives=True), plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("image_id", IMAGE_ID.values(), ids=IMAGE_ID)
@pytest.mark.parametrize("case", EVERY, ids=names)
def test_gradients_are_the_finite_differences(case: Case, image_id: list[int], pairs) -> None:
    image, text = (tf.constant(x) for x in pairs)
    with tf.GradientTape() as tape:
        tape.watch([image, text])
        total = tf.reduce_sum(case.function(image, text, np.array(image_id), **case.arguments))
    found = tape.gradient(total, [image, text], unconnected_gradients="zero")
    expected = oracle.gradient(case.oracle, *pairs, image_id, **case.arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    case=st.sampled_from(CASES),
    batch=st.integers(1, 9),
    dim=st.integers(1, 6),
    images=st.integers(1, 9),
    masked=st.booleans(),
    temperature=st.floats(0.05, 2.0),
    seed=st.integers(0, 2**20),
)
def test_any_shape_and_temperature(case: Case, batch, dim, images, masked, temperature, seed) -> None:
    generator = np.random.default_rng(seed)
    pairs = oracle.unit(generator, batch, dim)
    image_id = generator.integers(0, images, batch) if masked else None
    arguments = dict(case.arguments)
    if "temperature" in case.oracle.__code__.co_varnames:
        arguments["temperature"] = temperature
    expected = case.oracle(*pairs, None if image_id is None else image_id.tolist(), **arguments)
    np.testing.assert_allclose(case.function(*pairs, image_id, **arguments), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_the_class_reduces_the_function(case: Case, pairs) -> None:
    loss = case.loss(**case.arguments)
    image_id = np.array(IMAGE_ID["duplicates"])
    stacked = np.stack(pairs, axis=1)
    per_pair = case.function(*pairs, image_id=image_id, **case.arguments)
    vector = loss.call(image_id, stacked)
    assert vector.shape == (7,)
    np.testing.assert_array_equal(vector, per_pair)
    reduced = tf.reduce_sum(per_pair) if loss.reduction == "sum" else tf.reduce_mean(per_pair)
    np.testing.assert_allclose(loss(image_id, stacked), reduced, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=names)
def test_the_mask_can_be_switched_off(case: Case, pairs) -> None:
    stacked, image_id = np.stack(pairs, axis=1), np.array(IMAGE_ID["duplicates"])
    off = case.loss(**case.arguments, mask_same_image=False).call(image_id, stacked)
    np.testing.assert_array_equal(off, case.function(*pairs, None, **case.arguments))
    assert np.abs(off - case.loss(**case.arguments).call(image_id, stacked)).max() > 1e-3


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_image_ids_as_keras_passes_them(case: Case, pairs) -> None:
    loss, stacked = case.loss(**case.arguments), np.stack(pairs, axis=1)
    image_id = np.array(IMAGE_ID["duplicates"]) + 2**24 - 8
    expected = loss.call(image_id, stacked)
    floats, integers = image_id.astype(np.float32), image_id.astype(np.int64)
    for form in (floats, floats[:, None], integers, integers[:, None]):
        np.testing.assert_array_equal(loss.call(form, stacked), expected)


@pytest.mark.parametrize("image_id", [None, *IMAGE_ID.values()], ids=["no ids", *IMAGE_ID])
@pytest.mark.parametrize("case", without("triplet_sum", "triplet_max", "npairs_angular"), ids=names)
def test_small_temperatures_stay_finite(case: Case, image_id, pairs) -> None:
    image, text = (tf.constant(x) for x in pairs)
    opposed = -image
    for captions in (text, image, opposed):
        with tf.GradientTape() as tape:
            tape.watch([image, captions])
            arguments = {**case.arguments, "temperature": 0.005}
            per_pair = case.function(image, captions, None if image_id is None else np.array(image_id), **arguments)
        assert np.isfinite(per_pair).all()
        for part in tape.gradient(per_pair, [image, captions], unconnected_gradients="zero"):
            assert np.isfinite(part).all()


# The other two have a term without negatives.
@pytest.mark.parametrize("case", without("sigmoid", "convse positives"), ids=names)
def test_nothing_to_tell_apart(case: Case, pairs) -> None:
    """All pairs of one image, or a single pair: no negative is left, and there is nothing to learn from."""
    for image, text, image_id in ((*pairs, np.full(7, 5)), (pairs[0][:1], pairs[1][:1], None)):
        anchors = tf.constant(image)
        with tf.GradientTape() as tape:
            tape.watch(anchors)
            per_pair = case.function(anchors, text, image_id, **case.arguments)
        np.testing.assert_array_equal(per_pair, np.zeros(len(image)))
        np.testing.assert_array_equal(tape.gradient(per_pair, anchors, unconnected_gradients="zero"), 0 * image)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64])
@pytest.mark.parametrize("case", EVERY, ids=names)
def test_half_and_double_inputs_are_computed_in_float32(case: Case, dtype, pairs) -> None:
    image_id = np.array(IMAGE_ID["duplicates"])
    image, text = (tf.cast(x, dtype) for x in pairs)
    result = case.function(image, text, image_id, **case.arguments)
    assert result.dtype == tf.float32
    exact = case.oracle(
        tf.cast(image, tf.float64).numpy(), tf.cast(text, tf.float64).numpy(), image_id.tolist(), **case.arguments
    )
    np.testing.assert_allclose(result, exact, rtol=1e-5, atol=1e-5)
    with tf.GradientTape() as tape:
        stacked = tf.stack([image, text], axis=1)
        tape.watch(stacked)
        value = case.loss(**case.arguments)(image_id, stacked)
    assert value.dtype == tf.float32
    assert tape.gradient(value, stacked).dtype == dtype


def test_convse_plus_plus_is_triplet_max_scaled(pairs) -> None:
    stacked = np.stack(pairs, axis=1)
    for image_id in IMAGE_ID.values():
        for temperature, margin in ((0.1, 0.2), (0.005, 0.05), (1.0, 0.5)):
            plus_plus = losses.ConVSEPlusPlus(temperature=temperature, margin=margin)(np.array(image_id), stacked)
            max_hinge = losses.TripletMax(margin=margin)(np.array(image_id), stacked)
            np.testing.assert_allclose(plus_plus, max_hinge / (temperature * 7), rtol=1e-6)


def test_convse_plus_plus_is_the_clamped_exponential_form(pairs) -> None:
    s = pairs[0].astype(np.float64) @ pairs[1].astype(np.float64).T
    off = s - 10 * np.eye(7)
    expected = sum(
        np.maximum(0, -np.log(np.exp(np.diag(s) / 0.1) / np.exp((0.2 + off.max(axis)) / 0.1))) for axis in (0, 1)
    )
    np.testing.assert_allclose(losses.convse_plus_plus(*pairs), expected, rtol=1e-6, atol=1e-6)


COLLAPSE = {
    "convse": 2 * math.log(8),
    "triplet_sum": 2 * 8 * 7 * 0.2,
    "triplet_max": 2 * 8 * 0.2,
    "simclr": math.log(15),
    "npairs_angular": 2 * math.log(1 + 7 * math.exp(4)),
    "sigmoid": math.log1p(math.exp(-8)) + 7 * (8 + math.log1p(math.exp(-8))),
    "convse positives": 2 * math.log(8),
}


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_collapse_values(case: Case) -> None:
    one_point = np.tile(np.float32([0.6, 0.8]), (8, 2, 1))
    loss = case.loss(**case.arguments)
    expected = COLLAPSE.get(case.name, 2 * 0.2 / 0.1)
    assert loss.collapse_value(8) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(loss(np.arange(8), one_point), expected, rtol=1e-5)
    for reduction, factor in (("sum", 8), ("sum_over_batch_size", 1)):
        other = case.loss(**case.arguments, reduction=reduction)
        np.testing.assert_allclose(other(np.arange(8), one_point), other.collapse_value(8), rtol=1e-5)
        assert other.collapse_value(8) == pytest.approx(loss.collapsed_pair(8) * factor)


def test_angular_collapse_near_a_right_angle_does_not_overflow() -> None:
    assert math.isfinite(losses.NPairsAngular(angle=89.0).collapse_value(8))


def test_hardness_moves_while_a_graph_lives(pairs) -> None:
    hardness = tf.Variable(0.0, trainable=False)
    loss = losses.ConVSEPlusPlus(hardness=hardness)
    stacked = np.stack(pairs, axis=1)
    image_id = np.array(IMAGE_ID["duplicates"])
    graph = tf.function(loss.call)
    for value in (0.0, 0.3, 1.0):
        hardness.assign(value)
        expected = oracle.convse_plus_plus(*pairs, image_id.tolist(), hardness=value)
        np.testing.assert_allclose(graph(image_id, stacked), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_a_nan_shows_in_the_loss(case: Case, pairs) -> None:
    image, text = (x.copy() for x in pairs)
    text[2] = np.nan
    assert np.isnan(case.function(image, text, np.array(IMAGE_ID["distinct"]), **case.arguments)).any()


@pytest.mark.parametrize(
    "case", [case for case in EVERY if "temperature" in case.oracle.__code__.co_varnames], ids=names
)
def test_a_learned_temperature_gets_its_gradient(case: Case, pairs) -> None:
    image_id = IMAGE_ID["duplicates"]
    log_temperature = tf.Variable(math.log(0.2))
    loss = case.loss(**{**case.arguments, "temperature": lambda: tf.exp(log_temperature)})
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss.call(np.array(image_id), np.stack(pairs, axis=1)))
    above, below = (
        case.oracle(*pairs, image_id, **{**case.arguments, "temperature": 0.2 * math.exp(step)}).sum()
        for step in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(tape.gradient(value, log_temperature), (above - below) / 2e-5, rtol=1e-4)
    assert loss.get_config()["temperature"] == pytest.approx(0.2)


def test_a_learned_bias_gets_its_gradient(pairs) -> None:
    bias = tf.Variable(-2.0)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(losses.SigmoidPairwise(bias=bias).call(np.arange(7), np.stack(pairs, axis=1)))
    above, below = (oracle.sigmoid_pairwise(*pairs, bias=-2.0 + step).sum() for step in (1e-5, -1e-5))
    np.testing.assert_allclose(tape.gradient(value, bias), (above - below) / 2e-5, rtol=1e-4)
