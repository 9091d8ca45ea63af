"""Images that are parts of files: read by position, each worker its own part."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.sources.source_files import image_bytes
from vse_tf.data.bad_images import BadImages
from vse_tf.data.order import Order
from vse_tf.data.packed_images import PackedFile, PackedImages
from vse_tf.data.pipeline import training_batches
from vse_tf.data.records import Record, Split
from vse_tf.preprocessing.view import ImageView

COUNT = 24


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Images of two files, with something before, between and after them."""
    folder = tmp_path_factory.mktemp("packed")
    parts = [image_bytes(seed=number, size=(8, 8)) for number in range(COUNT)]
    starts, numbers = [], []
    for number in range(2):
        with (folder / f"{number}.tar").open("wb") as file:
            for part in parts[number * COUNT // 2 : (number + 1) * COUNT // 2]:
                file.write(b"header")
                starts.append(file.tell())
                numbers.append(number)
                file.write(part)
            file.write(b"end")
    files = [PackedFile.of(str(folder / f"{number}.tar")) for number in range(2)]
    packed = PackedImages([f"{row}.jpg" for row in range(COUNT)], files, numbers, starts, [len(part) for part in parts])
    return packed, parts


def test_images_are_read_by_position(images):
    packed, parts = images
    assert [packed.read(row) for row in range(COUNT)] == parts
    assert [packed.read(row, -7) for row in range(COUNT)] == [part[-7:] for part in parts]
    assert packed.read(3, -(10**6)) == parts[3] and packed.read(3, 5) == parts[3][5:] and packed.read(3, 10**6) == b""
    assert packed.sizes().tolist() == [len(part) for part in parts]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, COUNT - 1), max_size=30))
def test_chosen_images_are_images(images, rows):
    packed, parts = images
    chosen = packed.chosen(rows)
    assert [chosen.read(place) for place in range(len(rows))] == [parts[row] for row in rows]
    assert list(chosen.names) == [f"{row}.jpg" for row in rows]


def test_two_workers_read_each_its_part(images):
    packed, _ = images
    records = tuple(Record(name, ("a", "b"), "train", row) for row, name in enumerate(packed.names))
    split, order = Split("train", records, packed), Order(records, 8, "captions", seed=0)
    read: list[int] = []
    packed_read = PackedImages.read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PackedImages, "read", lambda self, row, start=0: read.append(row) or packed_read(self, row, start)
        )
        whole, parts = _rows(split, order, (0, 1)), []
        for worker in range(2):
            read.clear()
            parts.append(_rows(split, order, (worker, 2)))
            steps = order.steps_per_epoch
            wanted = np.concatenate([order.epoch(epoch) for epoch in range(3)])[:, 4 * worker : 4 * worker + 4, 0]
            # The batches of the epoch, and some that are read ahead.
            assert read[: 4 * steps] == wanted[:steps].ravel().tolist()
            assert read == wanted.ravel().tolist()[: len(read)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def _rows(split, order, shard):
    view, bad = ImageView((8, 8)), BadImages("fail", 10**6)
    batches = training_batches(split, order, view, lambda text: text[:, None], bad, shard=shard, workers=1)
    return np.stack([rows.numpy() for _, rows in batches.take(order.steps_per_epoch)])


def test_a_file_that_changes_stops_the_run_with_a_reason(images, tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(image_bytes())
    packed = PackedImages(["a", "b"], [PackedFile.of(str(path))], [0, 0], [0, 0], [path.stat().st_size, 10])
    bad = BadImages("fail", 10**6)
    assert bad.reason(packed, 1).startswith("undecodable")
    path.write_bytes(image_bytes(seed=1) + b" ")
    records = tuple(Record(name, ("a",), "train", row) for row, name in enumerate(packed.names))
    with pytest.raises(tf.errors.OpError) as error:
        _rows_of(Split("train", records, packed), records, bad)
    assert "a: cannot be read: " in str(bad.raised(error.value)) or "b: cannot be read: " in str(
        bad.raised(error.value)
    )
    assert "has changed since this command began" in str(bad.raised(error.value))


def _rows_of(split, records, bad):
    order = Order(records, 2, "captions", seed=0)
    return list(training_batches(split, order, ImageView((8, 8)), lambda text: text[:, None], bad).take(1))
