"""JSON to arrays and back, against a slow reading of the rules."""

from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.serving import outputs as writing
from vse_tf.serving.inputs import parse, read_inputs, signature_name
from vse_tf.serving.outputs import write_outputs
from vse_tf.serving.request_error import RequestError

KINDS = ["string", "bool", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "float", "double"]
leaf = st.one_of(
    st.text(max_size=3),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 3),
    st.floats(),
    st.none(),
    st.just({"b64": "aGk="}),
    st.just({"b64": "%"}),
    st.dictionaries(st.sampled_from(["x", "b64"]), st.integers(0, 1), max_size=2),
)
nested = st.recursive(leaf, lambda inner: st.lists(inner, max_size=3), max_leaves=8)


def slow_shape(value):
    """The shape by first elements, as the server's code takes it."""
    return [len(value), *(slow_shape(value[0]) if value else [])] if isinstance(value, list) else []


def slow_leaves(value, shape):
    """All leaves in reading order; None where a list is missing, superfluous or of another length."""
    if not isinstance(value, list):
        return [value] if not shape else None
    if not shape or len(value) != shape[0]:
        return None
    parts = [slow_leaves(item, shape[1:]) for item in value]
    return None if None in parts else [leaf for part in parts for leaf in part]


def slow_leaf(value, kind):
    """One value as its type has it, or None."""
    if kind == "string":
        if isinstance(value, dict):
            good = len(value) == 1 and value.get("b64") == "aGk="
            return b"hi" if good else None
        return value.encode() if isinstance(value, str) else None
    if kind == "bool":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return slow_decimal(value, kind) if kind in ("float", "double") else slow_integer(value, kind)


def slow_decimal(value, kind):
    digits, largest = (24, np.finfo(np.float32).max) if kind == "float" else (53, np.finfo(np.float64).max)
    if isinstance(value, int):
        return float(value) if abs(value) < 2**digits else None
    return value if not math.isfinite(value) or abs(value) <= largest else None


def slow_integer(value, kind):
    bits = {"int64": 64, "uint64": 64}.get(kind, 32)
    low, high = (0, 2**bits) if kind in ("uint32", "uint64") else (-(2 ** (bits - 1)), 2 ** (bits - 1))
    return value if isinstance(value, int) and low <= value < high else None


NUMPY = {"string": object, "bool": np.bool_, "float": np.float32, "double": np.float64}


@settings(deadline=None)
@given(nested, st.sampled_from(KINDS))
def test_reading_agrees_with_the_rules(value, kind):
    # An object that is no base64 names inputs.
    named = isinstance(value, dict) and not (len(value) == 1 and isinstance(value.get("b64"), str))
    meant = value.get("x") if named else value
    shape = slow_shape(meant)
    leaves = slow_leaves(meant, shape)
    read = None if leaves is None else [slow_leaf(each, kind) for each in leaves]
    try:
        arrays, form = read_inputs({"inputs": value}, {"x": kind})
    except RequestError as error:
        assert read is None or None in read
        assert error.message
        return
    assert form == "inputs"
    assert read is not None
    assert None not in read
    assert list(arrays["x"].shape) == shape
    assert arrays["x"].dtype == NUMPY.get(kind, kind if kind in KINDS else None)
    for got, expected in zip(arrays["x"].reshape(-1).tolist(), read, strict=True):
        if kind == "float":
            np.testing.assert_equal(got, float(np.float32(expected)))
        elif kind in ("int8", "uint8", "int16"):
            assert got == np.array(expected).astype(kind)
        else:
            np.testing.assert_equal(got, expected)


@settings(deadline=None)
@given(st.lists(nested, min_size=1, max_size=4), st.sampled_from(KINDS))
def test_instances_are_read_like_inputs(items, kind):
    objects = [isinstance(item, dict) for item in items]
    try:
        expected = read_inputs({"inputs": items}, {"x": kind})[0]["x"]
    except RequestError:
        expected = None
    try:
        got = read_inputs({"instances": items}, {"x": kind})[0]["x"]
    except RequestError as error:
        assert expected is None
        assert "instances" in error.message or "levels" in error.message
        return
    if not any(objects):
        assert expected is not None
        np.testing.assert_equal(got.tolist(), expected.tolist())


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 3)), st.data())
def test_named_instances_need_all_names_and_no_others(first, data):
    items = [first, *data.draw(st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3)), max_size=2))]
    good = all(item.keys() == {"a", "b"} for item in items)
    try:
        arrays, _ = read_inputs({"instances": items}, {"a": "int32", "b": "int64"})
    except RequestError:
        assert not good
        return
    assert good
    for name in ("a", "b"):
        assert arrays[name].tolist() == [item[name] for item in items]


@settings(deadline=None)
@given(st.lists(st.floats(width=32), max_size=20))
def test_single_precision_comes_back_exactly_and_stays_a_float(values):
    array = np.array(values, np.float32)
    got = json.loads(write_outputs({"x": array}, "inputs"))["outputs"]
    assert all(isinstance(value, float) for value in got)
    np.testing.assert_array_equal(np.array(got, np.float32), array)
    numbers = ~np.isnan(array)
    np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(array)[numbers])


@settings(deadline=None)
@given(st.lists(st.floats(), max_size=20))
def test_double_precision_comes_back_exactly(values):
    got = json.loads(write_outputs({"x": np.array(values, np.float64)}, "inputs"))["outputs"]
    assert all(isinstance(value, float) for value in got)
    np.testing.assert_array_equal(got, values)


def test_single_precision_takes_nine_digits_at_most():
    texts = write_outputs({"x": np.linspace(0.1, 1, 1000, dtype=np.float32)}, "inputs").decode()[13:-2].split(", ")
    assert max(len(text) for text in texts) <= len("0.") + 9


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(["int64", "bool", "uint8", "float32", "object"]),
    st.sampled_from(["inputs", "instances"]),
)
def test_shapes_are_written_as_nested_lists(shape, dtype, form):
    size = math.prod(shape)
    array = np.arange(size) % 2
    array = np.array([str(each).encode() for each in array], object) if dtype == "object" else array.astype(dtype)
    array = array.reshape(shape)
    if form == "instances" and not shape:
        with pytest.raises(RequestError, match="no shape information"):
            write_outputs({"x": array}, form)
        return
    (got,) = json.loads(write_outputs({"x": array}, form)).values()
    expected = np.vectorize(bytes.decode, otypes=[object])(array) if dtype == "object" else array
    assert got == expected.tolist()


def test_several_outputs_of_one_batch_are_objects_by_item():
    outputs = {"a": np.array([1, 2]), "b_bytes": np.array([b"\xff", b""], object)}
    got = json.loads(write_outputs(outputs, "instances"))["predictions"]
    assert got == [{"a": 1, "b_bytes": {"b64": "/w=="}}, {"a": 2, "b_bytes": {"b64": ""}}]
    with pytest.raises(RequestError, match="inconsistent batch size"):
        write_outputs({"a": np.zeros(2), "b": np.zeros(3)}, "instances")


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_base64_with_and_without_padding(data):
    text = base64.b64encode(data).decode()
    for written in (text, text.rstrip("="), "\n".join([text[:5], text[5:]])):
        array = read_inputs({"inputs": [{"b64": written}]}, {"x": "string"})[0]["x"]
        assert array.tolist() == [data]


@settings(deadline=None)
@given(st.text(st.characters(categories=["L", "N", "P", "S", "Z"]), max_size=6))
def test_base64_of_other_alphabets_is_refused(text):
    standard = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")
    if set("".join(text.split())) - standard:
        with pytest.raises(RequestError, match="base64"):
            read_inputs({"inputs": [{"b64": text}]}, {"x": "string"})


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_body_is_parsed_or_refused(body):
    try:
        assert isinstance(parse(body), dict)
    except RequestError as error:
        assert error.message.startswith("JSON ")


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), nested, max_size=3))
def test_what_python_writes_is_parsed(document):
    got = parse(json.dumps(document).encode() + b" tail")
    np.testing.assert_equal(got, document)


def test_a_byte_order_mark_is_passed_over():
    assert parse(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


def test_deep_nesting_and_endless_digits_are_refused():
    for body in (b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}"):
        with pytest.raises(RequestError, match="JSON Parse error"):
            parse(body)


@pytest.mark.parametrize("depth", [40, 65, 300, 900])
def test_values_of_very_many_levels_are_refused(depth):
    lists = b'{"inputs": ' + b"[" * depth + b'"a"' + b"]" * depth + b"}"
    with pytest.raises(RequestError, match="levels"):
        read_inputs(parse(lists), {"x": "string"})
    objects = b'{"instances": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
    with pytest.raises(RequestError, match="list"):
        read_inputs(parse(objects), {"x": "string"})


def test_long_values_are_cut_in_messages():
    branches = "leaf"
    for _ in range(5):
        branches = [branches] * 16
    for value in ({"x": "a" * 10_000}, {str(key): key for key in range(1000)}, ["a" * 10_000] * 1000, branches):
        for document in ({"instances": [{"x": value}]}, {"inputs": {"x": value}}, {"instances": [{"y": value}]}):
            with pytest.raises(RequestError) as caught:
                read_inputs(document, {"x": "int32"})
            assert len(caught.value.message) < 1000


def test_numbers_of_hundreds_of_digits_are_refused():
    for number in ("1" * 401, "-" + "9" * 309, "1" * 5000):
        for kind in KINDS:
            for values in (number, f"[{number}]", f"[0.5, {number}]", f"[[1, 2], [{number}, 4]]"):
                with pytest.raises(RequestError) as caught:
                    read_inputs(parse(f'{{"inputs": {values}}}'.encode()), {"x": kind})
                assert caught.value.status == 400


def test_half_a_pair_is_found_wherever_it_stands():
    for body in (b'{"a": ["\\ud800"]}', b'{"a": {"\\uD83D": 1}}', b'{"a": [[{"b": "x\\uDE00y"}]]}'):
        with pytest.raises(RequestError, match="surrogate pair"):
            parse(body)
    assert parse(b'{"a": ["\\ud83d\\ude00", "\\\\ud800"]}') == {"a": ["\U0001f600", "\\ud800"]}


@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_answers_in_several_parts_are_one(form, monkeypatch):
    outputs = {
        "vectors": np.arange(42, dtype=np.float32).reshape(7, 3, 2) / 8,
        "ids": np.array([f"ä{at}".encode() for at in range(7)], object),
    }
    for chosen in (outputs, {"vectors": outputs["vectors"]}, {"ids": outputs["ids"]}, {"none": np.zeros([0, 3])}):
        expected = write_outputs(chosen, form)
        json.loads(expected)
        for part in (1, 6, 7, 40):
            monkeypatch.setattr(writing, "PART", part)
            assert write_outputs(chosen, form) == expected


def test_the_default_signature():
    assert signature_name({}) == signature_name({"signature_name": ""}) == "serving_default"
    with pytest.raises(RequestError, match="must be a string"):
        signature_name({"signature_name": None})


def test_types_without_a_json_form_are_refused():
    with pytest.raises(RequestError, match="to type: half") as caught:
        read_inputs({"inputs": [1]}, {"x": "half"})
    assert caught.value.status == 501
    for dtype in (np.float16, np.complex64, np.uint16):
        with pytest.raises(RequestError, match="Failed to write JSON value"):
            write_outputs({"x": np.zeros(1, dtype)}, "inputs")
