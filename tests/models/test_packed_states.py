"""Tensors of several kinds packed into one feature come back as they were."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.models.packed_states import PackStates, UnpackStates, can_be_packed, spec_of

DTYPES = st.sampled_from(["float32", "bool", "int32"])
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def values(rng, shape, dtype):
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype == "int32":
        return rng.integers(0, 2**22, shape).astype(np.int32)
    return rng.normal(size=shape).astype(np.float16).astype(np.float32)


def round_trip(specs, tensors, rounding="float16"):
    packed = PackStates(specs, rounding)([keras.ops.convert_to_tensor(x) for x in tensors])
    return packed, UnpackStates(specs)(packed)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(SHAPES, DTYPES), min_size=1, max_size=4), st.integers(0, 99))
def test_what_is_packed_comes_back(specs, seed):
    rng = np.random.default_rng(seed)
    tensors = [values(rng, (3, *shape), dtype) for shape, dtype in specs]
    packed, found = round_trip(specs, tensors)
    assert packed.shape == (3, sum(int(np.prod(shape)) * (1 + (dtype == "int32")) for shape, dtype in specs))
    for tensor, one, (_, dtype) in zip(tensors, found, specs, strict=True):
        assert keras.backend.standardize_dtype(one.dtype) == dtype
        np.testing.assert_array_equal(one, tensor)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([(None,), (None, 3), (2,), ()]), DTYPES), max_size=4), st.integers(0, 99))
def test_states_of_tokens_come_back(others, seed):
    """What belongs to no token is the same at every one; zeros after a caption's end change nothing before it."""
    specs = [((None, 5), "float32"), *(spec for spec in others if spec != ((None, 3), "int32"))]
    rng = np.random.default_rng(seed)
    tensors = [values(rng, (3, *(7 if side is None else side for side in shape)), dtype) for shape, dtype in specs]
    packed, found = round_trip(specs, tensors)
    assert packed.shape[:2] == (3, 7)
    for tensor, one in zip(tensors, found, strict=True):
        np.testing.assert_array_equal(one, tensor)
    padded = UnpackStates(specs)(keras.ops.pad(packed, [[0, 0], [0, 2], [0, 0]]))
    for tensor, one, (shape, _) in zip(tensors, padded, specs, strict=True):
        before = np.asarray(one)[:, :7] if None in shape else np.asarray(one)
        np.testing.assert_array_equal(before, tensor)
        assert None not in shape or not np.asarray(one)[:, 7:].any()


def test_states_are_rounded_to_half_precision_or_not():
    states = np.float32([[1 / 3, 1e-3, 300.123]])
    _, (half,) = round_trip([((3,), "float32")], [states])
    np.testing.assert_array_equal(half, states.astype(np.float16))
    _, (full,) = round_trip([((3,), "float32")], [states], "float32")
    np.testing.assert_array_equal(full, states)


def test_a_symbolic_call_knows_its_shapes_and_a_rebuilt_layer():
    tensors = [keras.Input((None, 4)), keras.Input((None,), dtype="int32"), keras.Input((6,))]
    specs = [spec_of(tensor) for tensor in tensors]
    pack = PackStates.from_config(PackStates(specs, name="pack").get_config())
    packed = pack(tensors)
    assert packed.shape == (None, None, 12) and packed.dtype == "float16"
    found = UnpackStates.from_config(UnpackStates(specs).get_config())(packed)
    assert [spec_of(each) for each in found] == specs


@pytest.mark.parametrize(
    ("shape", "dtype", "good"),
    [((None, 3), "float32", True), ((None, 3, 2), "float32", False), ((2, None), "float32", False)],
)
def test_what_cannot_be_packed(shape, dtype, good):
    assert can_be_packed([keras.Input(shape, dtype=dtype)]) == good
