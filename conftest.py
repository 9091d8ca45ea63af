"""`python -m pytest --doctest-modules` runs the examples of the modules that need no TensorFlow."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
HEAVY = {"tensorflow", "keras", "keras_hub", "tensorflow_datasets", "tensorflow_text", "tensorboard", "apache_beam"}


def pytest_ignore_collect(collection_path):
    """Leave out the package's modules that import TensorFlow, directly or through others."""
    package = ROOT / "vse_tf"
    return (package in collection_path.parents and collection_path.suffix == ".py" and heavy(collection_path)) or None


@pytest.fixture(autouse=True)
def nothing_written(request, tmp_path_factory, monkeypatch):
    """An example writes nothing into the current directory, where a reader may try it."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    folder = tmp_path_factory.mktemp("example")
    monkeypatch.chdir(folder)
    yield
    assert not list(folder.iterdir()), "the example writes into the current directory"


@cache
def heavy(path):
    """Whether importing a file of the package imports TensorFlow."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    if any(name.partition(".")[0] in HEAVY for name in names):
        return True
    files = [ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in names if name.startswith("vse_tf")]
    return any(heavy(file) for file in files if file.is_file())
