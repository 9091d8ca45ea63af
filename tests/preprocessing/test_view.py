"""The view of an image: one rule for arrays of the encoder's own size, whatever the aspect."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.config import ImageSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.order import Order
from vse_tf.data.pipeline import array_batches, training_batches
from vse_tf.data.records import Record, Split
from vse_tf.preprocessing import graph_headers
from vse_tf.preprocessing.images import centre_view
from vse_tf.preprocessing.view import ImageView


class Arrays:
    """Images that are arrays in memory."""

    kind = "pixels"

    def __init__(self, pixels):
        self.pixels = pixels

    def __len__(self):
        return len(self.pixels)

    def load(self, rows):
        return self.pixels[rows]


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("size", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("flip", [False, True])
def test_arrays_of_the_own_size_are_taken_as_they_are(size, flip):
    """In training, in evaluation, in `encode_images` and in the exported `pixels`, which share `of_pixels`."""
    arrays = noise(8, *size, 3)
    view = ImageView.of(ImageSettings(random_crop=False, flip=flip), size, 10**8, size)
    bad = BadImages("fail", 10**8)
    (encoded,) = array_batches(Arrays(arrays), view, 8).as_numpy_iterator()
    np.testing.assert_array_equal(encoded, arrays)
    for array in arrays:
        np.testing.assert_array_equal(view.of_pixels(tf.constant(array), None), array)
    split = Split("train", [Record("", ("a dog",), "train", row) for row in range(8)], Arrays(arrays))
    order = Order(split.records, 8, "captions", seed=0)
    batch, rows = next(iter(training_batches(split, order, view, lambda caption: caption[:, None], bad)))
    for image, row in zip(batch["image"].numpy(), rows.numpy(), strict=True):
        same, mirrored = (np.array_equal(image, seen) for seen in (arrays[row], arrays[row][:, ::-1]))
        assert same or (flip and mirrored)


def test_a_given_resize_is_kept_for_arrays_too():
    view = ImageView.of(ImageSettings(resize=24), (12, 20), 10**8, (12, 20))
    assert view.resize == 24
    assert ImageView.of(ImageSettings(), (12, 20), 10**8, (12, 21)).resize is None


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_the_covering_view_covers(height, width, wanted_height, wanted_width):
    """The centre of the smallest image of this aspect that covers the size: nothing is added, one side is complete."""
    image, size = np.full([height, width, 3], 7, np.uint8), (wanted_height, wanted_width)
    np.testing.assert_allclose(centre_view(image, size, 0), np.full([*size, 3], 7), atol=1e-4)
    ramp = np.broadcast_to(np.linspace(0, 255, width)[None, :, None], [height, width, 3]).astype(np.float32)
    if height * wanted_width >= width * wanted_height:
        # The width is complete: the view is as wide as the image.
        expected = tf.image.resize(ramp, [max(1, height * wanted_width // width), wanted_width], antialias=True)[0]
        np.testing.assert_allclose(centre_view(ramp, size, 0)[0], expected, atol=0.5)


def test_the_covering_view_cuts_the_centre_of_what_is_longer():
    image = noise(12, 30, 3)
    np.testing.assert_array_equal(centre_view(image, (12, 20), 0), image[:, 5:25])
    np.testing.assert_array_equal(centre_view(image.transpose(1, 0, 2), (20, 12), 0), image.transpose(1, 0, 2)[5:25])


def test_the_header_is_traced_once_for_all_views(monkeypatch):
    traced, jpeg = [], graph_headers.jpeg
    monkeypatch.setattr(graph_headers, "jpeg", lambda contents: traced.append("jpeg") or jpeg(contents))
    graph_headers._read.cache_clear()
    for size in ((8, 8), (9, 9)):
        view = ImageView(size, random_crop=True)
        tf.data.Dataset.from_tensors(b"").map(lambda contents, view=view: view.of_file(contents, None))
        tf.data.Dataset.from_tensors(b"").map(lambda contents, view=view: view.of_file(contents, tf.constant([0, 1])))
    assert traced == ["jpeg"]
