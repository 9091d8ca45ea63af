"""Embedding shards: the vectors of the same files, and pictures of what is found."""

import re

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.data.sources.shard_files import write_tar
from vse_tf import embed, search
from vse_tf.artifacts.index import Index
from vse_tf.data.records import Problem
from vse_tf.indexing.shard_items import shard_items


@pytest.fixture(scope="module")
def embedded(tiny_run, noise_images, tmp_path_factory):
    """Indexes of the same images as files, tar shards and Parquet."""
    folder = tmp_path_factory.mktemp("embedded")
    paths = sorted(noise_images.iterdir())
    for number in range(2):
        mine = paths[6 * number : 6 * number + 6]
        write_tar(folder / "shards" / f"{number}.tar", {path.name: path.read_bytes() for path in mine})
    cells = [{"image": {"bytes": path.read_bytes(), "path": path.name}, "caption": "x"} for path in paths]
    (folder / "parquet").mkdir()
    parquet.write_table(pa.Table.from_pylist(cells), folder / "parquet" / "0.parquet")
    for name, images in {"files": noise_images, "shards": folder / "shards", "parquet": folder / "parquet"}.items():
        embed.main(["--run", str(tiny_run), "--images", str(images), "--output", str(folder / f"{name}.index")])
    return folder


@pytest.mark.parametrize("name", ["shards", "parquet"])
def test_the_vectors_are_those_of_the_files(embedded, name):
    index, files = Index.open(embedded / f"{name}.index"), Index.open(embedded / "files.index")
    assert (index.matrix() == files.matrix()).all()
    assert [item.id.rpartition("/")[2] for item in index.all_items()] == [item.id for item in files.all_items()]


def test_an_image_of_a_shard_is_read_from_the_index(embedded, noise_images):
    index = Index.open(embedded / "shards.index")
    for item, path in zip(index.all_items(), sorted(noise_images.iterdir()), strict=True):
        assert index.contents(item) == path.read_bytes()
        assert item.path in ("0.tar", "1.tar")


def test_a_search_shows_pictures_of_shards(embedded, tmp_path, capsys):
    page = tmp_path / "hits.html"
    search.main(["a red circle", "--index", str(embedded / "shards.index"), "--top_k", "3", "--html", str(page)])
    assert page.read_text().count("<img") == 3
    assert len(re.findall(rf"{embedded}/shards/[01]\.tar: \d\d\.png$", capsys.readouterr().out, re.MULTILINE)) == 3


def test_repeating_the_command_embeds_what_is_new(embedded, tiny_run, capsys):
    write_tar(embedded / "shards" / "2.tar", {"x.png": (embedded / "shards" / "0.tar").read_bytes()[512:1200]})
    argv = ["--run", str(tiny_run), "--images", str(embedded / "shards"), "--output", str(embedded / "shards.index")]
    embed.main(argv)
    assert "0 new, 0 changed, 0 deleted, 12 unchanged" in capsys.readouterr().out
    (embedded / "shards" / "2.tar").unlink()


def test_what_is_no_shard_is_left_to_files(tmp_path, noise_images):
    assert shard_items(noise_images) is None
    assert shard_items(tmp_path / "none") is None
    write_tar(tmp_path / "x.tar", {"a.png": b"no image"})
    (found,) = shard_items(tmp_path / "x.tar")
    assert isinstance(found, Problem)
    (tmp_path / "photo.jpg").touch()
    assert shard_items(tmp_path) is None
