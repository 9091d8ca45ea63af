"""The serving kit's files: what a container would read is parsed here as the container would."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from tests.serving.servers import Server, free_port, local, until
from vse_tf.serving.model_config import read_models_config

KIT = Path(__file__).resolve().parents[2] / "export"

# The messages that tensorflow-serving-api leaves out, by the names of the server's own definitions. Text form knows
# names only, so the numbers are free.
BATCHING = {
    "max_batch_size": "Int64Value",
    "batch_timeout_micros": "Int64Value",
    "max_enqueued_batches": "Int64Value",
    "num_batch_threads": "Int64Value",
    "thread_pool_name": "StringValue",
    "allowed_batch_sizes": "repeated int64",
    "pad_variable_length_inputs": "bool",
    "enable_large_batch_splitting": "BoolValue",
    "max_execution_batch_size": "Int64Value",
}
MONITORING = {"prometheus_config": {"enable": "bool", "path": "string"}}


def message(name, fields):
    """A message class of the given fields."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package="kit", syntax="proto3")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)

    def add(into, name, fields):
        into.name = name
        for number, (key, kind) in enumerate(fields.items(), 1):
            field = into.field.add(name=key, number=number, label=field_type.LABEL_OPTIONAL)
            plain = {"int64": field_type.TYPE_INT64, "bool": field_type.TYPE_BOOL, "string": field_type.TYPE_STRING}
            if isinstance(kind, dict):
                add(into.nested_type.add(), key.title(), kind)
                field.type, field.type_name = field_type.TYPE_MESSAGE, key.title()
            elif kind.split()[-1] in plain:
                field.type = plain[kind.split()[-1]]
                field.label = field_type.LABEL_REPEATED if " " in kind else field_type.LABEL_OPTIONAL
            else:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".google.protobuf.{kind}"

    add(file.message_type.add(), name, fields)
    pool = descriptor_pool.DescriptorPool()
    for each in (wrappers_pb2.DESCRIPTOR.serialized_pb, file.SerializeToString()):
        pool.AddSerializedFile(each)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kit.{name}"))


def parsed(file, fields):
    kind = message(re.sub(r"\W", "_", file), fields)
    return text_format.Parse((KIT / file).read_text(encoding="utf-8"), kind())


def test_models_config_is_the_servers():
    text = (KIT / "models.config").read_text(encoding="utf-8")
    with_gallery = re.sub(r"^  # (?=config \{|  |\})", "  ", text, flags=re.MULTILINE)
    for each, names in (
        (text, ["image_tower", "text_tower"]),
        (with_gallery, ["image_tower", "text_tower", "retrieval"]),
    ):
        config = text_format.Parse(each, model_server_config_pb2.ModelServerConfig())
        models = config.model_config_list.config
        assert [model.name for model in models] == names
        assert [model.base_path for model in models] == [f"/models/{name}" for name in names]
        assert all(model.model_platform == "tensorflow" for model in models)
        assert all(dict(model.version_labels) == {"stable": 1} for model in models)
        assert all(model.model_version_policy.latest.num_versions == 2 for model in models)


def test_models_config_serves_locally_too(export_folder):
    models = read_models_config(KIT / "models.config", export_folder)
    with local(models) as server:
        assert server.predict("text_tower/labels/stable", {"instances": ["a"]}).status == 200


def test_batching_is_consistent():
    shared = parsed("batching.config", BATCHING)
    assert shared.num_batch_threads.value >= 1
    own = parsed("batching_params.pbtxt", BATCHING)
    sizes = list(own.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    # The server's own rule: the last is the most that is executed at once.
    assert sizes[-1] == own.max_execution_batch_size.value
    assert own.enable_large_batch_splitting.value
    assert own.max_batch_size.value > own.max_execution_batch_size.value
    # Both sides of a batch are strings of one shape: nothing to pad.
    assert not own.pad_variable_length_inputs


def test_monitoring_is_on():
    assert parsed("monitoring.config", MONITORING).prometheus_config.enable


def test_a_wrong_name_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.serving_kit.test_kit.KIT", tmp_path)
    (tmp_path / "batching.config").write_text("num_batch_thread { value: 2 }")
    with pytest.raises(text_format.ParseError):
        parsed("batching.config", BATCHING)


def test_compose_mounts_what_is_there_and_shows_the_proxy_only():
    compose = yaml.safe_load((KIT / "compose.yaml").read_text(encoding="utf-8"))
    server, proxy = (compose["services"][name] for name in ("model_server", "proxy"))
    assert "ports" not in server
    assert server["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] is True
    assert [port.startswith("${BIND:-127.0.0.1}:") for port in proxy["ports"]] == [True]
    mounted = {}
    for service in (server, proxy):
        for volume in service["volumes"]:
            source, target, mode = re.fullmatch(r"(\$\{.*?\}|[^:]+):(/[^:]+):(\w+)", volume).groups()
            assert mode == "ro"
            mounted[target] = source
            if not source.startswith("${MODELS"):
                assert (KIT / source).is_file()
    named = [flag.split("=")[1] for flag in server["command"] if "_file=" in flag] + [proxy["command"][2]]
    assert set(named) <= mounted.keys()
    assert all(flag.startswith("--") for flag in server["command"])


def size_limit():
    text = (KIT / "nginx.conf").read_text(encoding="utf-8")
    return int(re.search(r"client_max_body_size (\d+)m;", text)[1]) * 2**20


def test_the_proxy_limits_the_size_above_what_the_client_sends():
    from export.client import Client  # noqa: PLC0415

    assert Client().max_request_bytes < size_limit() * 3 / 4


@pytest.mark.skipif(not shutil.which("nginx"), reason="no nginx on the PATH to try the proxy's configuration with")
def test_the_proxy(server, tmp_path):
    port = free_port()
    text = (KIT / "nginx.conf").read_text(encoding="utf-8")
    text = text.replace("model_server:8501", f"127.0.0.1:{server.address[1]}").replace("listen 8501", f"listen {port}")
    text = text.replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "nginx.conf").write_text(text)
    command = ["nginx", "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path), "-g", "daemon off;"]
    subprocess.run([*command[:-2], "-t"], check=True, capture_output=True)
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            proxy = Server("proxy", f"http://127.0.0.1:{port}")
            until(lambda: answers(proxy) or process.poll() is not None)
            assert process.poll() is None
            assert proxy.predict("text_tower", {"instances": ["a"]}).json["predictions"]
            assert proxy.get("/v1/models/text_tower/metadata").status == 200
            assert proxy.get("/v1/models/sp%20ace%2f").error.endswith("of model sp ace/")
            assert proxy.predict("text_tower", b"x" * (size_limit() + 1)).status == 413
            packed = gzip.compress(json.dumps({"instances": ["a"]}).encode())
            assert proxy.predict("text_tower", packed, Content_Encoding="gzip").status == 415
            assert proxy.call("DELETE", "/v1/models/text_tower").status == 405
            for path in ("/", "/monitoring/prometheus/metrics", "/v2/models/text_tower"):
                assert proxy.get(path).status == 404
        finally:
            process.terminate()


def answers(server):
    with contextlib.suppress(OSError):
        return server.get("/v1/models/text_tower").status == 200
    time.sleep(0.02)
    return False
