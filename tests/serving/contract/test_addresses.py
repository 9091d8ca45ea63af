"""Addresses: models, versions, labels, status, metadata, and everything that is none of these."""

from __future__ import annotations

import pytest

from tests.serving.contract.substance import assert_names

VERSION_1 = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
VERSION_2 = {**VERSION_1, "version": "2"}


def test_status(server):
    assert server.get("/v1/models/dual").json == {"model_version_status": [VERSION_2, VERSION_1]}
    assert server.get("/v1/models/dual/versions/1").json == {"model_version_status": [VERSION_1]}
    # Labels do not matter to the status.
    assert server.get("/v1/models/dual/labels/nope").json == {"model_version_status": [VERSION_2, VERSION_1]}


@pytest.mark.parametrize(
    ("where", "first"),
    [
        ("dual", 7.2),
        ("dual/versions/1", 3.6),
        ("dual/versions/2", 7.2),
        ("dual/labels/stable", 3.6),
        ("dual/labels/canary", 7.2),
    ],
)
def test_versions_and_labels(server, where, first):
    got = server.predict(where, {"instances": ["a"]})
    assert got.json["predictions"][0][0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("method", "target", "status", "error"),
    [
        ("POST", "/v1/models/dual/versions/7:predict", 404, "Servable not found for request: Specific(dual, 7)"),
        ("POST", "/v1/models/dual/labels/zz:predict", 400, "Unrecognized servable version label: zz"),
        ("POST", "/v1/models/nope:predict", 404, "Servable not found for request: Latest(nope)"),
        ("GET", "/v1/models/nope", 404, "Could not find any versions of model nope"),
        ("GET", "/v1/models/dual/versions/9", 404, "Could not find version 9 of model dual"),
        ("GET", "/v1/models/dual/versions/9/metadata", 404, "Servable not found for request: Specific(dual, 9)"),
        ("GET", "/v1/models/dual?x=1", 404, "Could not find any versions of model dual?x=1"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/", 400, "Malformed request: GET /v1/models/"),
        ("GET", "/v1/models/dual/", 400, "Malformed request: GET /v1/models/dual/"),
        ("GET", "/v1/models/dual/versions/abc", 400, "Malformed request: GET /v1/models/dual/versions/abc"),
        ("GET", "/v1/models/dual:predict", 400, "Malformed request: GET /v1/models/dual:predict"),
        ("GET", "/v1/models/dual/labels/stable/versions/1", 400, "Malformed request"),
        ("GET", "/v1/somewhere", 400, "Malformed request: GET /v1/somewhere"),
        ("POST", "/v1/models/dual", 400, "Malformed request: POST /v1/models/dual"),
        ("POST", "/v1/models/dual:Predict", 400, "Malformed request: POST /v1/models/dual:Predict"),
        ("POST", "/v1/models/dual:foo", 400, "Malformed request: POST /v1/models/dual:foo"),
        ("POST", "/v1/models/dual:predict/", 400, "Malformed request: POST /v1/models/dual:predict/"),
        ("POST", "/v1/models/dual:predict?x=1", 400, "Malformed request: POST /v1/models/dual:predict?x=1"),
        ("PUT", "/v1/models/dual:predict", 400, "Malformed request: PUT /v1/models/dual:predict"),
        ("DELETE", "/v1/models/dual", 400, "Malformed request: DELETE /v1/models/dual"),
    ],
)
def test_what_is_not_there(server, method, target, status, error):
    got = server.call(method, target, b'{"instances": ["a"]}' if method in ("POST", "PUT") else None)
    assert got.status == status
    assert got.headers["Content-Type"] == "application/json"
    assert list(got.json) == ["error"]
    assert got.error.startswith(error)


@pytest.mark.parametrize("target", ["/", "/v1", "/v2/models/dual", "/index.html", "/models", "/favicon.ico"])
def test_outside_there_is_a_page_that_says_so(server, target):
    got = server.get(target)
    assert got.status == 404
    assert got.headers["Content-Type"].startswith("text/html")
    assert b"Not Found" in got.body


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/..%2f..%2fetc",
        "/v1/models/%2e%2e",
        "/v1/models/../dual/1/saved_model.pb",
        "/v1/models/dual/../../etc/passwd",
        "/v1/models/dual%2f1",
        "/v1/models/dual%00",
        "/../../../etc/passwd",
        "/v1/models/%ff%fe",
    ],
)
def test_no_path_leads_out_of_the_models(server, target):
    got = server.get(target)
    assert got.status in (400, 404)
    assert b"root:" not in got.body
    assert server.call("POST", f"{target}:predict", b'{"instances": ["a"]}').status in (400, 404)


def test_the_address_is_read_in_any_case_and_unquoted(server):
    assert server.get("/V1/Models/dual/versions/1").json == {"model_version_status": [VERSION_1]}
    assert server.get("/v1/models/sp%20ace").json == {"model_version_status": [VERSION_1]}
    assert server.call("POST", "/v1/models/sp%20ace:predict", b'{"instances": ["a"]}').status == 200
    # The last word is known in lower case only: this is the status.
    assert "model_version_status" in server.get("/v1/models/dual/Metadata").json


@pytest.mark.parametrize(("target", "version"), [("dual", "2"), ("dual/versions/1", "1"), ("dual/labels/stable", "1")])
def test_metadata(server, target, version):
    got = server.get(f"/v1/models/{target}/metadata").json
    assert got.keys() == {"model_spec", "metadata"}
    assert got["model_spec"] == {"name": "dual", "version": version, "signature_name": ""}
    signatures = got["metadata"]["signature_def"]["signature_def"]
    assert signatures.keys() >= {"serving_default", "item", "topk", "echo", "types", "__saved_model_init_op"}
    item = signatures["item"]
    assert item["method_name"] == "tensorflow/serving/predict"
    assert item["inputs"].keys() == {"feats", "title"}
    feats = item["inputs"]["feats"]
    assert feats["dtype"] == "DT_FLOAT"
    dims = [{"size": "-1", "name": ""}, {"size": "2", "name": ""}]
    assert feats["tensor_shape"] == {"dim": dims, "unknown_rank": False}
    assert item["inputs"]["title"]["dtype"] == "DT_STRING"
    assert item["outputs"]["norm"]["tensor_shape"]["dim"] == dims[:1]


def test_a_signature_without_inputs_cannot_be_asked(server):
    got = server.predict("dual", {"signature_name": "__saved_model_init_op", "instances": ["a"]})
    assert got.status == 400
    assert got.error == "Failed to get input map for signature: __saved_model_init_op"


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_examples_are_not_served(server, method):
    got = server.call("POST", f"/v1/models/keras:{method}", b'{"examples": [{"x": 1}]}')
    kind = {"classify": "classification", "regress": "regression"}[method]
    assert got.status == 400
    assert got.error.startswith(f"No {kind} inputs found in SignatureDef: ")
    got = server.call("POST", f"/v1/models/dual:{method}", b"{}")
    assert got.status == 400
    assert_names(got.error, method, "examples", "not", "found")


def test_methods_without_an_answer(server):
    for method in ("HEAD", "OPTIONS"):
        got = server.call(method, "/v1/models/dual")
        assert (got.status, got.body) == (400, b"")
