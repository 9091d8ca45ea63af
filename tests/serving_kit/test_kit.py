"""The serving kit's files: what a container would read is parsed here as the container would."""

from __future__ import annotations

import re

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from tests.serving.servers import local
from tests.serving_kit.proxies import KIT, compose, volumes
from vse_tf.exporting import batching
from vse_tf.serving.model_config import read_models_config

# The options of tensorflow_model_server that the kit may use: tensorflow_serving/model_servers/main.cc of 2.20.0.
OPTIONS = {
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "monitoring_config_file",
    "enable_batching",
    "batching_parameters_file",
    "enable_per_model_batching_parameters",
    "rest_api_timeout_in_ms",
    "rest_api_num_threads",
}


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


def test_the_kits_batching_file_is_one_that_was_seen_to_load():
    """With these values tensorflow_model_server 2.20.0 loaded the text tower and answered 1 to 1,024 inputs."""
    found = batching.parse(batching.read_batching(KIT / batching.FILE_NAME))
    assert list(found.allowed_batch_sizes) == []
    assert (found.max_batch_size.value, found.max_execution_batch_size.value) == (1024, 32)
    assert found.enable_large_batch_splitting.value
    # Each input is one string: there is nothing to pad.
    assert not found.pad_variable_length_inputs


def test_the_threads_of_all_batches_are_set():
    shared = batching.parse((KIT / "batching.config").read_bytes())
    assert shared.num_batch_threads.value >= 1
    assert shared.thread_pool_name.value


def test_monitoring_is_on():
    text = re.sub(r"#.*", "", (KIT / "monitoring.config").read_text(encoding="utf-8"))
    assert " ".join(text.split()) == 'prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }'


def test_compose_shows_the_proxy_only():
    services = compose()["services"]
    server, proxy = services["model-server"], services["proxy"]
    assert "ports" not in server
    assert server["networks"] == ["inside"]
    assert compose()["networks"]["inside"]["internal"] is True
    assert [port.startswith("${BIND:-127.0.0.1}:") for port in proxy["ports"]] == [True]
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]


def test_compose_mounts_folders_with_all_that_is_named():
    """A single file that is mounted keeps its old contents for ever when an editor replaces it."""
    services = compose()["services"]
    for service in services.values():
        mounted = volumes(service)
        for source in mounted.values():
            assert source.startswith("${MODELS") or (KIT / source).is_dir()
        named = re.findall(r"/config/\S+", " ".join(service["command"]))
        assert named
        for path in named:
            assert (KIT / mounted["/config"] / path.removeprefix("/config/")).is_file()
    for path in re.findall(r"/config/([^\s;]+)", (KIT / "nginx.conf").read_text(encoding="utf-8")):
        assert (KIT / path).is_file()


def test_the_model_server_knows_its_options():
    options = dict(each.removeprefix("--").split("=") for each in compose()["services"]["model-server"]["command"])
    assert options.keys() == OPTIONS
    # Each request waits in a thread of its own, so these bound how many are joined: 4 per core unless it is set.
    assert int(options["rest_api_num_threads"]) >= 64


def test_the_proxy_limits_the_size_above_what_the_client_sends():
    from export.client import Client  # noqa: PLC0415

    text = (KIT / "nginx.conf").read_text(encoding="utf-8")
    limits = [int(size) * 2**20 for size in re.findall(r"client_(?:max_body|body_buffer)_size (\d+)m;", text)]
    assert len(limits) == 2
    assert max(limits) == min(limits) > Client().max_request_bytes * 4 / 3
