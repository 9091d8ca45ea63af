"""What setup.cfg declares: every import, bounds that fit together, and a wheel that is complete and enough."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.tiny import TINY

ROOT = Path(__file__).parent.parent
FOLDERS = ("vse_tf", "tests", "benchmarks", "docs", "export")
CODE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
# What an import is called where its distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "apache_beam": "apache-beam",
    "docstring_parser": "jsonargparse",  # its extra [signatures]
    "faiss": "faiss-cpu",
    "google": "protobuf",
    "griffe": "griffelib",
    "keras_hub": "keras-hub",
    "pillow_heif": "pillow-heif",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_serving": "tensorflow-serving-api",
    "tensorflow_text": "tensorflow-text",
    "yaml": "PyYAML",
}
# The repository's own, and what tests import by the name of a file: a neighbour, the kit's client.
OWN = set(FOLDERS)
OWN |= {path.stem for folder in ("tests", "export") for path in (ROOT / folder).rglob("*.py")}


def requirements():
    """Each declared distribution and its lower bound, the optional ones too."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options"]["install_requires"].splitlines()
    lines += [line for extra in settings["options.extras_require"].values() for line in extra.splitlines()]
    found = (re.match(r"([\w.-]+)(?:\[.*\])?(?:>=([\w.]+))?", line.strip()) for line in lines)
    return {match[1]: match[2] for match in found if match}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def test_every_import_is_declared():
    names = {name.partition(".")[0]: path for path in CODE for name in imported(path)}
    assert len(names) > 30
    declared = requirements()
    missing = {
        name: str(path)
        for name, path in names.items()
        if name not in sys.stdlib_module_names | OWN and DISTRIBUTIONS.get(name, name) not in declared
    }
    assert missing == {}


def test_the_bounds_of_what_belongs_together_are_one():
    bounds = requirements()
    tensorflow = {name for name in bounds if name.startswith("tensor") and name != "tensorflow-datasets"}
    assert tensorflow == {"tensorboard", "tensorflow", "tensorflow-serving-api", "tensorflow-text"}
    assert {bounds[name] for name in tensorflow} == {"2.20"}
    assert bounds["keras-nlp"] == bounds["keras-hub"]


def test_the_lowest_versions_are_those_of_setup_cfg():
    command = [sys.executable, str(ROOT / ".ci" / "lowest.py")]
    told = subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout
    lowest = dict(line.split("==") for line in told.splitlines())
    assert lowest.items() <= requirements().items()
    assert {"tensorflow", "numpy", "filelock", "pytest"} <= lowest.keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, since building leaves its own files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "vse_tf", folder / "source" / "vse_tf", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True)
    return next(folder.glob("*.whl"))


@pytest.mark.wheel
def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        about = next(file.read(name).decode() for name in file.namelist() if name.endswith("/METADATA"))
    package = [path for path in (ROOT / "vse_tf").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {path.relative_to(ROOT).as_posix() for path in package}
    assert {"vse_tf/py.typed", "vse_tf/serving/page/page.js"} <= names
    assert "Requires-Python: <3.14,>=3.11" in about


# Modules of optional packages excepted: they say which extra brings them.
IMPORT_ALL = """
import importlib, pkgutil, vse_tf
for module in pkgutil.walk_packages(vse_tf.__path__, "vse_tf."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert error.name in {"apache_beam", "faiss", "eccv_caption"}, (module.name, error)
print(vse_tf.__file__)
"""


@pytest.mark.wheel
def test_the_wheel_alone_runs_the_first_command(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "empty")], check=True)
    python = str(tmp_path / "empty" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel)], check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "VSE_TF_CACHE": str(tmp_path / "cache")}

    def run(*argv):
        done = subprocess.run(
            [python, *argv], cwd=elsewhere, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("-c", IMPORT_ALL).strip().startswith(str(tmp_path / "empty"))
    told = run("-m", "vse_tf.train", *[part for key, value in TINY.items() for part in (f"--{key}", value)])
    assert "run folder: runs/shapes-convse-0" in told
    assert (elsewhere / "runs" / "shapes-convse-0" / "results.json").exists()
