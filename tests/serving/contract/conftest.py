"""The two servers that every test of the contract runs against."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.serving import models
from tests.serving.servers import Server, real_binary, start

NO_REAL_SERVER = (
    "no real server: set TF_SERVING_URL (serving the models of python -m tests.serving.models) or "
    "TENSORFLOW_MODEL_SERVER, or put tensorflow_model_server on the PATH"
)


@pytest.fixture(scope="session")
def config(tmp_path_factory):
    """models.config of the contract's models."""
    return models.write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session", params=["local", "real"])
def server(request, config, tmp_path_factory) -> Iterator[Server]:
    url = os.environ.get("TF_SERVING_URL")
    if request.param == "real" and url:
        yield Server("real", url.rstrip("/"), owned=False)
        return
    if request.param == "real" and not real_binary():
        pytest.skip(NO_REAL_SERVER)
    with start(request.param, config, tmp_path_factory.mktemp("log")) as running:
        yield running


@pytest.fixture(params=["local", "real"])
def kind(request) -> str:
    """Kind of server for tests that start their own."""
    if request.param == "real" and not real_binary():
        pytest.skip("no real server to start: set TENSORFLOW_MODEL_SERVER or put tensorflow_model_server on the PATH")
    return request.param
