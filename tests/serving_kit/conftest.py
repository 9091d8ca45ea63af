"""A local server with stand-ins of an export's three models."""

from __future__ import annotations

import pytest
from PIL import Image

from tests.serving import models
from tests.serving.servers import local
from vse_tf.serving.model_config import models_below, with_labels


@pytest.fixture(scope="session")
def export_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    models.write_towers(root)
    return root


@pytest.fixture(scope="session")
def server(export_folder):
    # The proxy names the model server as compose does.
    with local(with_labels(models_below(export_folder), ["stable=1"]), hosts=["model_server"]) as running:
        yield running


@pytest.fixture
def photos(tmp_path):
    """Three image files, and one that is none."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    paths = {name: tmp_path / f"{name}.png" for name in [*colours, "broken"]}
    for name, colour in colours.items():
        Image.new("RGB", (32, 32), colour).save(paths[name])
    paths["broken"].write_text("this is no photo")
    return paths
