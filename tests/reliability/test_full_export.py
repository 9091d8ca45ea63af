"""The disk fills up during an export, at every moment: one line and exit code 2, and the server goes on as before."""

import errno
import os
import resource
from pathlib import Path

import pytest
import tensorflow as tf

from tests.exporting.test_writing import model
from tests.serving.runs import write_run
from tests.serving.servers import local, until
from vse_tf import export
from vse_tf.artifacts import versions
from vse_tf.errors import run_command
from vse_tf.exporting import towers, writing
from vse_tf.serving.model_config import models_below

FULL = os.strerror(errno.ENOSPC)
# The second of the towers: the first is whole by then, and must not appear alone.
LAST = "text_tower"
LIMIT = 200_000


def full(*_, **__):
    raise OSError(errno.ENOSPC, FULL)


def at_the_folder(patch, root):
    mkdir = Path.mkdir

    def make_until_full(self, *given, **named):
        return full() if root in self.parents else mkdir(self, *given, **named)

    patch.setattr("pathlib.Path.mkdir", make_until_full)


def at_the_graph(patch, root):
    save = tf.saved_model.save

    def save_until_full(module, folder, **options):
        save(module, folder, **options)
        if LAST in folder:
            written = Path(folder) / "saved_model.pb"
            written.write_bytes(written.read_bytes()[:1000])
            raise tf.errors.ResourceExhaustedError(None, None, f"{written}; {FULL}")

    patch.setattr("tensorflow.saved_model.save", save_until_full)


def at_the_warm_up(patch, root):
    warm_up = writing.write_warmup

    def write_until_full(folder, model, requests):
        return full() if model == LAST else warm_up(folder, model, requests)

    patch.setattr(writing, "write_warmup", write_until_full)


def at_the_manifest(patch, root):
    patch.setattr("vse_tf.artifacts.manifest.write_json", full)


def at_the_disk_itself(patch, root):
    sync = versions.sync
    patch.setattr(versions, "sync", lambda path: full() if path.name == "saved_model.pb" else sync(path))


def at_the_name(patch, root):
    rename = Path.rename

    def rename_until_full(self, target):
        return full() if self.parent.name == LAST else rename(self, target)

    patch.setattr("pathlib.Path.rename", rename_until_full)


MOMENTS = [at_the_folder, at_the_graph, at_the_warm_up, at_the_manifest, at_the_disk_itself, at_the_name]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module", autouse=True)
def small_towers(loaded_once):
    """Towers that are written in a moment; the last one's weights are above LIMIT."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(towers, "tower_models", lambda _: [model("image_tower"), model(LAST, size=LIMIT)])
        yield


@pytest.fixture(scope="module")
def root(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "models"
    export.main(["--run", str(run), "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def server(root):
    with local(models_below(root, 1)) as server:
        yield server


def contents(root):
    return {path: path.is_file() and path.read_bytes() for path in root.rglob("*")}


def served(server):
    """The versions that the server has, and what it says of them."""
    told = server.get(f"/v1/models/{LAST}").json["model_version_status"]
    return {each["version"]: each["state"] for each in told}


def told_by(argv, capfd):
    """The line on which the command ends, with its exit code 2."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as end:
        run_command(lambda: export.main(argv))
    assert end.value.code == 2
    told = capfd.readouterr().err
    assert "Traceback" not in told
    # A bar may stand before it.
    errors = [line for line in told.splitlines() if "error:" in line]
    assert errors == [told.splitlines()[-1]]
    return errors[0]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_up_takes_nothing_from_what_is_served(run, root, server, moment, monkeypatch, capfd):
    before = contents(root)
    with monkeypatch.context() as patch:
        moment(patch, root)
        told = told_by(["--run", str(run), "--output", str(root)], capfd)
    assert told.startswith(f"error: --output: cannot write to {root}")
    assert FULL in told and told.endswith("; nothing was published")
    assert contents(root) == before
    assert served(server) == {"1": "AVAILABLE"}
    assert server.predict(LAST, {"instances": ["a dog"]}).status == 200


def test_a_limit_of_the_system_and_then_space_again(run, root, server, capfd):
    before = contents(root)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        told = told_by(["--run", str(run), "--output", str(root)], capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in told and told.endswith("; nothing was published")
    assert contents(root) == before
    assert served(server) == {"1": "AVAILABLE"}
    export.main(["--run", str(run), "--output", str(root)])
    until(lambda: served(server).get("2") == "AVAILABLE")
    assert {path: found for path, found in contents(root).items() if path in before} == before
