"""Image files on their way to a model: only regular files are opened, and few large ones at a time."""

import os

import pytest

from tests.indexing.collections import draw
from vse_tf.data.bad_images import BadImages
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.records import FileImages
from vse_tf.indexing import embedding_models
from vse_tf.preprocessing.view import ImageView


@pytest.fixture
def paths(tmp_path):
    draw(tmp_path / "a.png", 0)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    names = ("a.png", "pipe.png", "loop.png", "huge.png", "gone.png")
    return [*(str(tmp_path / name) for name in names), "/dev/zero", "file:///etc/hostname"]


REASONS = ("not a regular file but a pipe", "symbolic links", "more than the limit", "missing", "a device", "missing")


def test_a_run_opens_regular_files_only(paths):
    bad = BadImages("skip", 10**8)
    (images, rows), *more = ImageReader(ImageView((8, 8), 8)).batches(FileImages(paths), 8, bad)
    assert not more
    assert images.shape == (1, 8, 8, 3)
    assert rows.tolist() == [0]
    for path, reason in zip(paths[1:], REASONS, strict=True):
        assert reason in bad.problems[path].what


def test_exported_models_get_regular_files_only(paths):
    ((start, contents),) = embedding_models._read_ahead(FileImages(paths), 8)
    assert start == 0
    assert contents[0].startswith(b"\x89PNG")
    assert all(isinstance(one, OSError) for one in contents[1:])


@pytest.mark.parametrize("limit", [1, 150, 10**6])
def test_files_are_read_in_order_and_few_large_ones_at_a_time(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(embedding_models, "BATCH_BYTES", limit)
    paths = [str(draw(tmp_path / f"{i}.png", i)) for i in range(7)]
    batches = list(embedding_models._read_ahead(FileImages(paths), 3))
    assert [one for _, batch in batches for one in batch] == [open(path, "rb").read() for path in paths]  # noqa: PTH123, SIM115
    sizes = [len(batch) for _, batch in batches]
    assert [start for start, _ in batches] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sizes == {1: [1] * 7, 10**6: [3, 3, 1]}.get(limit, sizes)
    assert list(embedding_models._read_ahead(FileImages([]), 3)) == []
