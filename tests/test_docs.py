"""The commands and code of README.md and the guides, run as they stand but for reduced settings."""

import ast
import contextlib
import importlib
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import vse_tf
from tests.tiny import TINY
from tests.warm_python import warm_python
from vse_tf.config import Settings
from vse_tf.evaluation.report import table
from vse_tf.settings_parser import flat

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", DOCS / "index.md", DOCS / "scaling.md", *sorted((DOCS / "guides").glob("*.md"))]
    if path.name
    # tests/test_guides.py, tests/stores and tests/remote have them
    not in {"own_keras_model.md", "offline.md", "stores.md", "clip.md", "bucket.md"}
}
README = PAGES["README.md"]
# What makes training commands small; the built-in set's own keys fit no other source.
PHOTOS = {key: value for key, value in TINY.items() if not key.startswith(("data.shapes", "image"))}
PHOTOS |= {"data.source": "table", "text.min_count": "1", "data.val_fraction": "0.4"}
# A pretrained backbone would have to be downloaded.
SMALL_CNN = {"image.encoder": "cnn", "image.size": "16", "image.channels": "[4, 8]", "image.units": "16"}
RANDOM_WEIGHTS = {"image.weights": "none", "image.size": "32", "image.random_crop": "false", "train.epochs": "1"}
RANDOM_WEIGHTS |= {"data.features": "true"}
# Run by .ci/run, or in need of a cluster.
NOT_RUN = ("pip install", "python -m pytest", "FlinkRunner")


def blocks(page):
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)


def commands(body):
    lines = body.replace("\\\n", " ").splitlines()
    return [command.strip() for line in lines if line.strip() for command in line.split(" && ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working directory with what a reader has: photos, a caption table, the recipes."""
    folder = tmp_path_factory.mktemp("docs")
    rng = np.random.default_rng(0)
    lines = ["image,caption"]
    (folder / "photos").mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(folder / "photos" / f"{i}.jpg")
        lines += [f"{i}.jpg,{word} number {i}" for word in ("a photo", "the picture")]
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    cells = [{"bytes": (folder / "photos" / f"{i}.jpg").read_bytes(), "path": f"{i}.jpg"} for i in range(40)]
    (folder / "parquet").mkdir()
    table = pa.table({"image": cells, "caption": [f"a photo number {i}" for i in range(40)]})
    parquet.write_table(table, folder / "parquet" / "train-00000-of-00001.parquet", row_group_size=9)
    (folder / "part-0001.txt").write_text("photos/0.jpg\nphotos/1.jpg\n")
    for name in ("beach.jpg", "other.png"):
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(folder / name)
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


@pytest.fixture(scope="module")
def readers(place):
    """Runs each command once, wherever it stands."""
    reader = Reader()
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(place)
        patched.setenv("VSE_TF_CACHE", str(place / "cache"))
        reader.type_in("python -m vse_tf.train")
        reader.type_in("python -m vse_tf.train --data.annotations captions.csv --data.images photos")
        # The same settings as those of the command: the run is finished, and loaded.
        patched.setattr(vse_tf, "fit", lambda settings, fit=vse_tf.fit: fit({**settings, **PHOTOS, **SMALL_CNN}))
        yield reader


class Reader:
    """Somebody who types what the pages say, in one working directory."""

    def __init__(self):
        self.done = set()

    def type_in(self, command, full=False, while_serving=()):
        if command in self.done or any(name in command for name in NOT_RUN):
            return
        self.done.add(command)
        found = re.match(r"(?:python -m vse_tf\.|vse-tf )(\w+) ?(.*)", command)
        if found:
            self.product(found[1], [*self.expanded(found[2])], full, while_serving)
        elif found := re.match(r"python docs/(\w+)\.py ?(.*)", command):
            few = ["--count", "4", "--size", "16", "--images", "drawn", "--captions", "drawn.csv"]
            runpy.run_path(str(DOCS / f"{found[1]}.py"))["main"]([*shlex.split(found[2]), *few])
        elif command.startswith("tensorboard "):
            with serving("tensorboard.main", [*shlex.split(command)[1:], "--port", "0"]):
                pass
        else:
            raise AssertionError(f"not a command that this test can run: {command}")

    def expanded(self, arguments):
        for argument in shlex.split(arguments):
            found = sorted(map(str, Path().glob(argument))) if "*" in argument else []
            yield from found or ["runs/table-convse-0" if argument == "RUN" else argument]

    def product(self, name, argv, full, while_serving):
        if name == "serve":
            with serving("vse_tf.serve", [*argv, "--port", "0"]) as address:
                with urllib.request.urlopen(address + "/v1/models/text_tower", timeout=60) as answer:
                    assert answer.status == 200
                for command in while_serving:
                    answer = subprocess.check_output(
                        ["sh", "-c", command.replace("http://127.0.0.1:8501", address)], text=True
                    )
                    assert "predictions" in answer or "outputs" in answer, answer
            return
        if name == "train" and not {"--help", "--print_config"} & set(argv) and not full:
            argv += [part for key, value in reduced(argv).items() for part in (f"--{key}", value)]
        try:
            importlib.import_module(f"vse_tf.{name}").main(argv)
        except SystemExit as done:  # of --help
            assert not done.code


def reduced(argv):
    """The settings that make a training small."""
    if "--data.annotations" not in argv:
        return TINY
    found = PHOTOS | (RANDOM_WEIGHTS if "--image.encoder" in argv else SMALL_CNN)
    # Shards tell what they are.
    return found if "captions.csv" in argv else {**found, "data.source": "auto"}


@contextlib.contextmanager
def serving(module, argv):
    """Run a server until it says where it listens, and while the block runs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [*warm_python(), "-m", module, *argv]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        try:
            said = []
            for line in server.stdout:
                said.append(line)
                if found := re.search(r"http://(?:[\d.]+|localhost):\d+(?=/? )", line):
                    break
            else:
                raise AssertionError("".join(said))
            yield found[0]
        finally:
            server.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("page", [name for name in PAGES if blocks(name)])
def test_commands_and_code_run(readers, page):
    # What code of the pages takes for given.
    scope = {"upsert": lambda ids, vectors: None, "queries": np.eye(8, dtype=np.float32)[:2]}
    curls = [line for kind, body in blocks(page) if kind == "sh" for line in commands(body) if line.startswith("curl ")]
    if curls and not shutil.which("curl"):
        pytest.skip("no curl on the path")
    for kind, body in blocks(page):
        if kind == "sh":
            for command in commands(body):
                if command not in curls:
                    readers.type_in(command, while_serving=curls)
        elif kind == "python":
            exec(compile(body, page, "exec"), scope)
        else:
            assert kind in {"csv", "text"}


@pytest.mark.evidence
def test_the_first_command_in_full(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Reader().type_in("python -m vse_tf.train", full=True)
    assert "run folder: runs/shapes-convse-0" in capsys.readouterr().out


def test_the_readme_is_short_and_opens_with_two_commands():
    assert len(README.splitlines()) <= 120
    shell = [line for kind, body in blocks("README.md") if kind == "sh" for line in body.splitlines()]
    assert shell[:2] == ["pip install -e . && python -m vse_tf.train", "pip install -e '.[dev]' && python -m pytest"]


def test_what_the_readme_links_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert len(links) > 12
    assert not [link for link in links if not (ROOT / link).exists()]


@pytest.mark.parametrize("page", ["docs/index.md", "docs/guides/first_run.md"])
def test_printed_tables_look_like_todays(page):
    lines = [line.split() for line in PAGES[page].splitlines()]
    for line in table({"val": {}}).splitlines()[:2]:
        assert line.split() in lines


@pytest.mark.parametrize("page", PAGES)
def test_settings_that_pages_name_exist(page):
    known = set(flat(Settings()))
    sections = "|".join(sorted({key.split(".")[0] for key in known}))
    named = set(re.findall(rf"(?:--|`)((?:{sections})\.[a-z_.]+[a-z_])\b(?<!\.json)", PAGES[page]))
    assert not {name for name in named if name not in known and not any(key.startswith(f"{name}.") for key in known)}


def test_recipes_that_pages_name_exist():
    named = {name for text in PAGES.values() for name in re.findall(r"`(?:configs/)?(\w+\.yaml)`", text)}
    assert {"shapes.yaml", "flickr8k_best.yaml"} <= named
    assert not [name for name in named - {"compose.yaml", "config.yaml"} if not (ROOT / "configs" / name).exists()]


def test_public_names_have_a_place_in_the_api():
    pages = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: (\S+)$", pages, re.MULTILINE))
    wanted = {f"vse_tf.{name}" for name in vse_tf.__all__}
    wanted |= {f"vse_tf.losses.{name}" for name in set(vse_tf.losses.__all__) - set(vse_tf.__all__)}
    assert not wanted - listed
    assert "vse_tf.evaluation.metrics" in listed


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)) == pages


def test_scripts_of_the_docs_say_how_they_are_called():
    for path in DOCS.glob("*_*.py"):
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert f"python docs/{path.name}" in text or "mkdocs.yml" in text, path
