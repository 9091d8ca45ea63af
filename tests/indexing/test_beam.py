"""Embedding with Apache Beam: several worker processes make the same index, byte for byte."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.indexing.collections import BytesModel, draw
from vse_tf import embed as command
from vse_tf.artifacts.index import Index
from vse_tf.errors import UserError
from vse_tf.indexing.beam import LocalSpans, _part_names, beam_runner
from vse_tf.indexing.embedding import SpanEmbedder, embed
from vse_tf.indexing.items import caption_items, image_items

SEVERAL = "--direct_running_mode=multi_processing --direct_num_workers=3"
ONE = "--direct_running_mode=in_memory"


@pytest.fixture
def folder(tmp_path):
    pytest.importorskip("apache_beam", reason="the Beam test needs pip install 'vse_tf[beam]'")
    for i in range(23):
        draw(tmp_path / "images" / f"{i:02d}.png", i)
    (tmp_path / "images" / "11.png").write_text("bad")
    return tmp_path / "images"


def contents(index):
    return {path.name: path.read_bytes() for path in index.iterdir()}


def test_several_workers_make_the_same_index(folder, tmp_path):
    embed(image_items(folder), BytesModel(), tmp_path / "local", shard_rows=3)
    runner = beam_runner("DirectRunner", SEVERAL)
    result = embed(image_items(folder), BytesModel(), tmp_path / "beam", shard_rows=3, runner=runner)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    assert (result.new, result.skipped) == (22, 1)
    draw(folder / "07.png", 200)
    (folder / "20.png").unlink()
    for name, runner in (("local", None), ("beam", beam_runner("DirectRunner", ONE))):
        result = embed(image_items(folder), BytesModel(), tmp_path / name, shard_rows=3, runner=runner)
        assert (result.changed, result.deleted, result.unchanged) == (1, 1, 20)
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")


def test_a_user_error_of_a_worker_is_raised(folder, tmp_path):
    with pytest.raises(UserError, match=r"^.*11\.png: bad; --on_bad skip$"):
        embed(image_items(folder), BytesModel(), tmp_path / "i", on_bad="fail", runner=beam_runner("DirectRunner", ONE))
    with pytest.raises(UserError, match="no index here"):
        Index.open(tmp_path / "i")


SLOW = """
import sys, time
from tests.indexing.collections import BytesModel
from vse_tf.indexing.beam import beam_runner
from vse_tf.indexing.embedding import embed
from vse_tf.indexing.items import image_items

class SlowModel(BytesModel):
    def encode_files(self, *arguments):
        time.sleep(0.5)
        return super().encode_files(*arguments)

runner = beam_runner("DirectRunner", sys.argv[3])
embed(image_items(sys.argv[1]), SlowModel(), sys.argv[2], shard_rows=3, runner=runner)
"""


def test_a_killed_call_is_continued(folder, tmp_path):
    index = tmp_path / "index"
    command = [sys.executable, "-c", SLOW, str(folder), str(index), SEVERAL]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while len(list(index.glob(".embed/part-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    assert len(list(index.glob(".embed/part-*"))) >= 2
    assert list(index.glob(".embed/results/*.json"))
    embed(image_items(folder), BytesModel(), index, shard_rows=3, runner=beam_runner("DirectRunner", SEVERAL))
    embed(image_items(folder), BytesModel(), tmp_path / "local", shard_rows=3)
    assert contents(index) == contents(tmp_path / "local")


def test_lost_results_are_called_lost(tmp_path):
    with pytest.raises(UserError, match=r"--runner Dask: 3 of 3 results are lost"):
        _part_names(lambda number: None, 3, "Dask")


def test_an_unknown_runner_is_one_line(folder, tmp_path):
    with pytest.raises(UserError, match="--runner NoRunner: Beam has no such runner"):
        beam_runner("NoRunner")


def test_what_a_killed_call_left_is_removed(tmp_path):
    place = LocalSpans(SpanEmbedder(tmp_path / "i", caption_items(__file__), (), BytesModel(), "skip"))
    place.begin([])
    place.write(0, "{}")
    assert place.read(0) == "{}"
    place.begin([])
    assert place.read(0) is None
    # A stranger's index may have a link there.
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.json").write_text("stays")
    place.folder.rmdir()
    place.folder.symlink_to(tmp_path / "elsewhere")
    place.begin([])
    assert (tmp_path / "elsewhere" / "0.json").read_text() == "stays" and place.read(0) is None


def test_a_runner_whose_package_is_missing_names_it(folder, tmp_path):
    with pytest.raises(UserError, match="no_such_package"):
        beam_runner("no_such_package.runner.Runner")


def test_without_beam_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    draw(tmp_path / "images" / "a.png", 0)
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"pip install 'vse_tf\[beam\]'"):
        argv = ["--run", str(tmp_path), "--images", str(tmp_path / "images"), "--output", str(tmp_path / "index")]
        command.main([*argv, "--runner", "DirectRunner"])
