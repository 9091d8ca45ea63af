"""Real version folders: hashes, warm-up requests, operations that are not registered."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tests.serving import models
from vse_tf.errors import UserError
from vse_tf.serving.loading import load_version, warm_up
from vse_tf.serving.request_error import RequestError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "1"
    models.save(models.Dual(1), folder, "serving_default", "item", "scalar")
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "1")


def with_manifest(folder):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    hashes = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": hashes}))


def write_warmup(folder, *requests):
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def test_a_version_is_loaded_and_run(folder):
    model = load_version(7, folder)
    assert model.version == 7
    assert model.inputs("item") == {"title": "string", "feats": "float"}
    got = model.run("scalar", {"x": np.array([1, 2], np.float32)})
    assert got["total"].shape == ()
    assert got["total"] == 3
    with pytest.raises(RequestError, match="not found in signature def"):
        model.inputs("nope")


def test_every_file_has_to_be_the_manifests(folder):
    with_manifest(folder)
    load_version(1, folder)
    weights = next(folder.glob("variables/variables.data*"))
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(UserError, match=r"variables\.data"):
        load_version(1, folder)


def test_what_is_no_model(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no SavedModel here"):
        load_version(1, tmp_path / "empty")
    shutil.rmtree(folder / "variables")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_version(1, folder)
    for contents in (b"", b"\xff" * 100):
        (folder / "saved_model.pb").write_bytes(contents)
        with pytest.raises(UserError, match=r"saved_model\.pb"):
            load_version(1, folder)


def test_warm_up_requests_are_replayed(folder):
    texts = {"query": np.array([b"a"], object)}
    write_warmup(folder, ("serving_default", texts), ("", texts), ("scalar", {"x": np.ones(2, np.float32)}))
    assert warm_up(load_version(1, folder), folder) == 3


@pytest.mark.parametrize(
    "request_",
    [("nope", {}), ("serving_default", {"other": np.array([b"a"], object)}), ("serving_default", {"query": [1.0]})],
    ids=["signature", "input", "type"],
)
def test_a_warm_up_request_that_fails_is_told(folder, request_):
    write_warmup(folder, request_)
    with pytest.raises(UserError, match="warm-up request 0 fails"):
        load_version(1, folder)


def test_a_broken_warm_up_file_is_told(folder):
    write_warmup(folder, ("serving_default", {"query": np.array([b"a"], object)}))
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="tf_serving_warmup_requests"):
        load_version(1, folder)
    path.write_bytes(b"this is no file of records")
    with pytest.raises(UserError, match="tf_serving_warmup_requests"):
        load_version(1, folder)


def test_an_unknown_operation_is_named(folder):
    path = folder / "saved_model.pb"
    contents = path.read_bytes()
    assert b"StringToHashBucketFast" in contents
    path.write_bytes(contents.replace(b"StringToHashBucketFast", b"StringToHashBucketXxxx"))
    with pytest.raises(UserError, match="StringToHashBucketXxxx"):
        load_version(1, folder)
