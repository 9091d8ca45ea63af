"""Predict: formats, types, bytes, and what is refused. The cases that matter most, without any file."""

from __future__ import annotations

import base64
import gzip
import json

import numpy as np
import pytest

from tests.serving.contract.substance import assert_names


def vectors(version, *rows):
    table = np.arange(40, dtype=np.float32).reshape(10, 4) * np.float32(0.1) * version
    return table[[{"a": 9, "b": 2}[row] for row in rows]]


def predictions(reply):
    assert reply.status == 200, reply.body
    assert list(reply.json) == ["predictions"]
    return reply.json["predictions"]


def outputs(reply):
    assert reply.status == 200, reply.body
    assert list(reply.json) == ["outputs"]
    return reply.json["outputs"]


@pytest.mark.parametrize("items", [["a", "b"], [{"query": "a"}, {"query": "b"}], [{"b64": "YQ=="}, "b"]])
def test_instances_give_predictions(server, items):
    np.testing.assert_allclose(predictions(server.predict("dual", {"instances": items})), vectors(2, "a", "b"))


@pytest.mark.parametrize("value", [["a", "b"], {"query": ["a", "b"]}])
def test_inputs_give_outputs(server, value):
    np.testing.assert_allclose(outputs(server.predict("dual", {"inputs": value})), vectors(2, "a", "b"))


def test_several_inputs_and_outputs_are_objects(server):
    items = [{"title": "a", "feats": [1, 2.5]}, {"title": "b", "feats": [3, 4]}]
    got = predictions(server.predict("dual", {"signature_name": "item", "instances": items}))
    assert [item.keys() for item in got] == [{"embedding", "norm"}] * 2
    assert [item["norm"] for item in got] == [3.5, 7.0]
    columns = {"title": ["a", "b"], "feats": [[1, 2.5], [3, 4]]}
    got = outputs(server.predict("dual", {"signature_name": "item", "inputs": columns}))
    np.testing.assert_allclose(got["embedding"], vectors(2, "a", "b"))
    assert got["norm"] == [3.5, 7.0]


def test_no_items(server):
    assert outputs(server.predict("dual", {"inputs": []})) == []
    got = server.predict("dual", {"instances": []})
    assert got.status == 400
    assert_names(got.error, "instances")


def test_bytes_go_in_and_come_out(server):
    every = bytes(range(256))
    items = [{"b64": base64.b64encode(every).decode()}, {"b64": ""}, "plain", {"b64": "aGk"}]
    got = predictions(server.predict("dual", {"signature_name": "echo", "instances": items}))
    assert [base64.b64decode(item["b64"]) for item in got] == [every, b"", b"plain", b"hi"]


def test_only_outputs_named_bytes_are_base64(server):
    got = predictions(server.predict("dual", {"signature_name": "topk", "instances": ["a"]}))[0]
    assert got["ids"] == ["doc-9", "doc-8", "doc-7"]
    assert [base64.b64decode(each["b64"]).decode() for each in got["ids_bytes"]] == got["ids"]
    assert all(set(each) == {"b64"} for each in got["ids_bytes"])


@pytest.mark.parametrize("text", ["", 'héllo 你 "q" \n\t', "\U0001f600", "a\u0000b", " ", "x" * 100_000])
def test_texts_survive(server, text):
    for ascii_only in (True, False):
        body = json.dumps({"signature_name": "echo_str", "instances": [text]}, ensure_ascii=ascii_only).encode()
        assert predictions(server.predict("dual", body)) == [text]


def test_bytes_that_are_no_utf8_leave_as_they_came(server):
    body = b'{"signature_name": "echo_str", "instances": ["\xff\xfe", {"b64": "AAH/"}]}'
    got = server.predict("dual", body)
    assert got.status == 200
    assert b'"\xff\xfe"' in got.body
    assert b'"\\u0000\\u0001\xff"' in got.body


def test_types(server):
    item = {"i32": -(2**31), "i64": 2**53 + 1, "b": True, "u8": 300, "d": 0.1}
    got = predictions(server.predict("dual", {"signature_name": "types", "instances": [item]}))[0]
    assert got == {"i32": -(2**31), "i64": 2**53 + 1, "b": True, "u8": 44, "d": 0.1}
    assert isinstance(got["d"], float)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("i32", 1.0, "1 0 int32"),
        ("i32", 2**31, "2147483648 int32"),
        ("i64", "2", "2 int64"),
        ("b", 1, "1 bool"),
        ("d", None, "double"),
        ("u8", True, "True uint8"),
        ("d", {"b64": "aGk="}, "double"),
    ],
)
def test_wrong_types(server, name, value, words):
    columns = {"i32": [1], "i64": [2], "b": [True], "u8": [1], "d": [1], name: [value]}
    got = server.predict("dual", {"signature_name": "types", "inputs": columns})
    assert got.status == 400
    assert_names(got.error, *words.split())


def test_what_is_no_number(server):
    got = server.predict("dual", {"signature_name": "div", "inputs": [0, 0, 0]})
    assert got.status == 200
    assert b"Infinity" in got.body
    assert b"NaN" in got.body
    np.testing.assert_array_equal(got.json["outputs"], [np.inf, -np.inf, np.nan])
    body = b'{"signature_name": "div", "inputs": [NaN, Infinity, -Infinity]}'
    np.testing.assert_array_equal(outputs(server.predict("dual", body)), [np.nan, -0.0, -0.0])


def test_whole_numbers_stay_floats(server):
    assert b"7.0" in server.predict("dual", {"signature_name": "scalar", "inputs": [3, 4]}).body


def test_a_scalar_has_no_batch(server):
    assert outputs(server.predict("dual", {"signature_name": "scalar", "inputs": [1, 2]})) == 3.0
    got = server.predict("dual", {"signature_name": "scalar", "instances": [1, 2]})
    assert got.status == 400
    assert_names(got.error, "total", "shape")


def test_shapes_are_the_graphs_business(server):
    got = predictions(server.predict("dual", {"instances": [["a"], ["b"]]}))
    np.testing.assert_allclose(got, vectors(2, "a", "b")[:, None])
    got = server.predict("keras", {"instances": [[1, 2]]})
    assert got.status == 400
    assert got.error.startswith("Matrix size-incompatible: In[0]: [1,2], In[1]: [3,2]")


def test_half_precision_cannot_be_written(server):
    got = server.predict("dual", {"signature_name": "half", "inputs": [1]})
    assert got.status == 400
    assert_names(got.error, "JSON", "half")


def test_an_assertion_in_the_graph_is_reported(server):
    got = server.predict("dual", {"signature_name": "fail", "inputs": [-1]})
    assert got.status == 400
    assert got.error.startswith("assertion failed: [x must be positive")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "JSON Parse error"),
        (b"  \n", "JSON Parse error"),
        (b"{", "JSON Parse error offset 1"),
        (b'{"instances": [}', "JSON Parse error offset 15"),
        (b'{"instances": ["a', "JSON Parse error offset"),
        (b'{"instances" ["a"]}', "JSON Parse error offset 13"),
        (b'{"instances": ["\\ud800"]}', "JSON Parse error surrogate"),
        (b"[]", "JSON object"),
        (b"{}", "inputs instances key"),
        (b'{"instances": "a"}', "instances list"),
        (b'{"instances": ["a"], "inputs": ["a"]}', "only one inputs instances"),
        (b'{"signature_name": "nope", "instances": ["a"]}', "signature nope not found"),
        (b'{"signature_name": 5, "instances": ["a"]}', "signature_name must string"),
        (b'{"instances": [1]}', "instances 1 string"),
        (b'{"instances": ["a", ["b"]]}', "instances"),
        (b'{"instances": ["a", {"query": "b"}]}', "value object item 1"),
        (b'{"instances": [{"query": "a"}, "b"]}', "object item 1"),
        (b'{"instances": [{"quary": "a"}]}', "instances quary"),
        (b'{"inputs": {"quary": ["a"]}}', "query inputs"),
        (b'{"inputs": ["a", ["b"]]}', "1"),
        (b'{"inputs": [["a"], "b"]}', "b"),
        (b'{"inputs": [["a"], ["b", "c"]]}', "list size 1"),
    ],
)
def test_wrong_requests(server, body, words):
    got = server.predict("dual", body)
    assert got.status == 400
    assert_names(got.error, *words.split())


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"b64": "%%%"}, "base64"),
        ({"b64": "-_8="}, "base64"),
        ({"b64": "aGk=="}, "base64"),
        ({"b64": "a"}, "base64"),
        ({"image_bytes": {"b64": 5}}, "base64"),
        ({"b64": "aGk=", "x": 1}, "instances b64"),
    ],
)
def test_wrong_base64(server, item, words):
    got = server.predict("dual", {"signature_name": "echo", "instances": [item]})
    assert got.status == 400
    assert_names(got.error, *words.split())


def test_one_wrong_item_is_named(server):
    items = [{"title": "a", "feats": [1, 2]}, {"title": "b", "feats": [1, 2, 3]}]
    got = server.predict("dual", {"signature_name": "item", "instances": items})
    assert got.status == 400
    assert_names(got.error, "1", "feats", "2", "3")
    got = server.predict("dual", {"signature_name": "item", "instances": [{"title": "a"}]})
    assert got.status == 400
    assert_names(got.error, "keys", "feats", "title")


def test_several_inputs_need_names(server):
    for key in ("instances", "inputs"):
        got = server.predict("dual", {"signature_name": "item", key: ["a"]})
        assert got.status == 400
        assert_names(got.error, key)


def test_what_stands_behind_the_json_is_ignored(server):
    assert server.predict("dual", b'{"instances": ["a"]} trailing').status == 200
    assert server.predict("dual", {"instances": ["a"], "extra": 1}).status == 200


def test_gzip(server):
    body = gzip.compress(json.dumps({"instances": ["a"]}).encode())
    got = server.predict("dual", body, Content_Encoding="gzip", Content_Type="text/plain")
    np.testing.assert_allclose(predictions(got), vectors(2, "a"))


def test_the_content_type_does_not_matter(server):
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", "image/jpeg"):
        assert server.predict("dual", {"instances": ["a"]}, Content_Type=kind).status == 200


def test_chunked_bodies(server):
    parts = iter([b'{"instances"', b': ["a"', b"]}"])
    got = server.call("POST", "/v1/models/dual:predict", parts)
    np.testing.assert_allclose(predictions(got), vectors(2, "a"))
