"""Cached features are of the pixels that the present code makes, or their key says that they are not."""

import pytest
import tensorflow as tf

from tests.preprocessing.pixels import differences, pixels, read_stored
from vse_tf.preprocessing import images, view

ADVICE = (
    "Where that is meant, raise PIXELS_VERSION in vse_tf/preprocessing/images.py, so that cached features are computed "
    "again, and run `python -m tests.preprocessing.pixels`"
)


@pytest.fixture(autouse=True)
def traced_anew():
    """Graphs of views are cached; the cache must not hold graphs of changed code."""
    yield
    view._traced.cache_clear()


def check_pixels():
    view._traced.cache_clear()
    version, stored = read_stored()
    assert version == images.PIXELS_VERSION, "run `python -m tests.preprocessing.pixels`"
    found = pixels()
    assert found.keys() == stored.keys()
    changed = differences(found, stored)
    assert not changed, f"pixels differ by {changed} grey levels. {ADVICE}"


def test_pixels_are_those_of_their_version():
    check_pixels()


def test_other_pixels_need_another_version(monkeypatch):
    resampled, stored_pixels = images._resampled, images.stored_pixels
    with monkeypatch.context() as patched, pytest.raises(AssertionError, match=r"centre.*raise PIXELS_VERSION"):
        # Half a pixel to the right.
        patched.setattr(images, "_resampled", lambda image, size, ratio, at: resampled(image, size, ratio, at + 0.5))
        check_pixels()
    with monkeypatch.context() as patched, pytest.raises(AssertionError, match=r"plain\.png.*raise PIXELS_VERSION"):
        # The brightest levels are cut off.
        patched.setattr(images, "stored_pixels", lambda *args: tf.minimum(stored_pixels(*args), 200))
        check_pixels()
