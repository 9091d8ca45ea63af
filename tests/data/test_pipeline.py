import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from vse_tf.config import TextSettings
from vse_tf.data import pipeline
from vse_tf.data.bad_images import BadImages
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.order import CAPTION, ROW, Order
from vse_tf.data.pipeline import text_reader, training_batches
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.errors import UserError
from vse_tf.preprocessing.view import ImageView

COUNT, BATCH = 23, 4
VIEW = ImageView((6, 6), resize=6)


class Pixels:
    kind = "pixels"

    def __init__(self, shape):
        self.array = np.random.default_rng(0).integers(0, 255, (COUNT, *shape), np.uint8)

    def __len__(self):
        return COUNT

    def load(self, rows):
        return self.array[rows]


class Features:
    kind = "features"

    def __init__(self, shape):
        self.array = np.random.default_rng(0).normal(size=(COUNT, *shape)).astype(np.float32)

    def __len__(self):
        return COUNT

    def load(self, rows):
        return self.array[rows]


def split_of(images):
    records = [Record(str(i), tuple(f"c{i}{j}" for j in range(1 + i % 3)), "train", i) for i in range(COUNT)]
    return Split("train", tuple(records), images)


@pytest.fixture(params=[0, pipeline.IN_FLIGHT_BYTES], ids=["in_chunks", "in_batches"])
def both_ways(request, monkeypatch):
    """Calls read a part of a batch, or all of it."""
    monkeypatch.setattr(pipeline, "IN_FLIGHT_BYTES", request.param)


@pytest.fixture
def files(tmp_path):
    """Images whose grey level is their row."""
    paths = []
    for row in range(COUNT):
        paths.append(str(tmp_path / f"{row}.png"))
        Image.new("RGB", (9, 7), (row * 10,) * 3).save(paths[-1])
    return split_of(FileImages(tuple(paths)))


def reader(split):
    """Each caption's tokens are its index, as often as its length of 1 to 7."""
    tokens = tf.ragged.constant([[i] * (1 + i % 7) for i in range(len(split.captions))], dtype=tf.int32)
    return text_reader(split, lambda captions: tokens, TextSettings(buckets=[2, 4, 8], max_tokens=8))


def made(split, bad=None, view=VIEW, epoch_over="captions", **where):
    order = Order(split.records, BATCH, epoch_over, seed=1)
    bad = bad or BadImages("fail", 10**6)
    return order, training_batches(split, order, view, reader(split), bad, workers=3, **where)


def taken(dataset, count):
    return [(x["image"].numpy(), x["text"].numpy(), row.numpy()) for x, row in dataset.take(count)]


def test_batches_follow_the_order_and_match_images_with_captions(files):
    order, dataset = made(files)
    steps = order.steps_per_epoch
    for index, (image, text, row) in enumerate(taken(dataset, 2 * steps)):
        samples = order.epoch(index // steps)[index % steps]
        np.testing.assert_array_equal(row, samples[:, ROW])
        np.testing.assert_allclose(image[:, 0, 0, 0], samples[:, ROW] * 10)
        np.testing.assert_array_equal(text[:, 0], samples[:, CAPTION])
        lengths = (text >= 0).sum(1)
        np.testing.assert_array_equal(lengths, 1 + samples[:, CAPTION] % 7)
        assert text.shape[1] == next(b for b in (2, 4, 8) if b >= lengths.max())


@pytest.mark.parametrize("images", [Pixels((6, 6, 3)), Pixels((9, 12, 3)), Features((5,)), Features((3, 5))])
def test_pixels_and_features_come_by_row(images):
    view = ImageView((6, 6)) if images.kind == "pixels" else ImageView(None)
    order, dataset = made(split_of(images), view=view)
    (image, _, row), *_ = taken(dataset, 1)
    np.testing.assert_array_equal(row, order.epoch(0)[0][:, ROW])
    if images.array.shape[1:] == image.shape[1:]:
        np.testing.assert_array_equal(image, images.array[row])
    assert image.dtype == np.float32


@pytest.mark.parametrize("kind", ["files", "pixels"])
def test_any_position_is_reached_at_once(files, kind):
    split = files if kind == "files" else split_of(Pixels((6, 6, 3)))
    view = ImageView((6, 6), random_crop=True, flip=True)
    order, dataset = made(split, view=view)
    steps = order.steps_per_epoch
    straight = taken(dataset, 2 * steps + 3)
    _, later = made(split, view=view, epoch=1, step=2)
    for mine, other in zip(taken(later, steps + 1), straight[steps + 2 :], strict=True):
        for a, b in zip(mine, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_shards_and_replicas_share_out_each_global_batch(files, both_ways):
    _, single = made(files)
    expected = taken(single, 5)
    parts = [taken(made(files, shard=(worker, 2), replicas=2)[1], 10) for worker in range(2)]
    for step, (_, _, rows) in enumerate(expected):
        mine = np.concatenate([parts[w][2 * step + r][2] for w in range(2) for r in range(2)])
        np.testing.assert_array_equal(mine, rows)


def test_views_differ_between_epochs_and_not_between_runs(files):
    split = split_of(Pixels((12, 12, 3)))
    view = ImageView((6, 6), random_crop=True, crop_scale=(0.2, 0.9))
    order, first = made(split, view=view, epoch_over="images")
    first, again = taken(first, 2 * order.steps_per_epoch), taken(made(split, view=view, epoch_over="images")[1], 1)
    np.testing.assert_array_equal(first[0][0], again[0][0])
    by_row = {}
    for image, _, rows in first:
        for row, one in zip(rows, image, strict=True):
            by_row.setdefault(int(row), []).append(one)
    twice = [views for views in by_row.values() if len(views) == 2]
    assert twice
    assert any((a != b).any() for a, b in twice)


def test_evaluation_reads_every_image_once_in_order(files):
    batches = list(ImageReader(VIEW, workers=4).batches(files.images, 10, BadImages("fail", 10**6)))
    assert [len(rows) for _, rows in batches] == [10, 10, 3]
    rows = np.concatenate([rows for _, rows in batches])
    np.testing.assert_array_equal(rows, np.arange(COUNT))
    np.testing.assert_allclose(np.concatenate([image for image, _ in batches])[:, 0, 0, 0], rows * 10)


@pytest.fixture
def broken(files, both_ways):
    """Two of the images have broken since they were verified: one cut short, one gone."""
    cut, gone = Path(files.images.paths[3]), Path(files.images.paths[8])
    cut.write_bytes(cut.read_bytes()[:40])
    gone.unlink()
    return files, {str(cut), str(gone)}


def test_a_broken_image_stops_the_run_with_its_name(broken):
    split, paths = broken
    bad = BadImages("fail", 10**6)
    with pytest.raises(tf.errors.OpError) as error:
        taken(made(split, bad)[1], 12)
    raised = bad.raised(error.value)
    assert isinstance(raised, UserError)
    assert any(path in str(raised) for path in paths)
    assert "--data.on_bad skip" in str(raised)


def test_a_broken_image_is_replaced_and_the_epoch_stays_the_same(broken):
    split, paths = broken
    noted = []
    bad = BadImages("skip", 10**6, noted.append)
    order, dataset = made(split, bad)
    batches = taken(dataset, order.steps_per_epoch)
    assert len(batches) == order.steps_per_epoch
    rows = np.concatenate([rows for *_, rows in batches])
    assert not {3, 8} & set(rows.tolist())
    for image, text, row in batches:
        np.testing.assert_allclose(image[:, 0, 0, 0], row * 10)
        owner = np.repeat(np.arange(COUNT), [len(r.captions) for r in split.records])
        np.testing.assert_array_equal(owner[text[:, 0]], row)
    assert {problem.where for problem in noted} == paths == set(bad.problems)
    assert "missing" in bad.problems[split.images.paths[8]].what
    assert "undecodable" in bad.problems[split.images.paths[3]].what


def test_when_nothing_can_be_read_the_run_stops_even_under_skip(files):
    shutil.rmtree(Path(files.images.paths[0]).parent)
    bad = BadImages("skip", 10**6)
    with pytest.raises(tf.errors.OpError) as error:
        taken(made(files, bad)[1], 1)
    assert "neither it nor" in str(bad.raised(error.value))


def test_evaluation_leaves_out_what_cannot_be_read(broken):
    split, paths = broken
    bad = BadImages("skip", 10**6)
    reader = ImageReader(VIEW)
    rows = np.concatenate([rows for _, rows in reader.batches(split.images, 10, bad)])
    np.testing.assert_array_equal(rows, [row for row in range(COUNT) if row not in (3, 8)])
    assert set(bad.problems) == paths
    stopping = BadImages("fail", 10**6)
    with pytest.raises(UserError, match=r"--data\.on_bad skip"):
        list(reader.batches(split.images, 10, stopping))
