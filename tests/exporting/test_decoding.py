"""Batches of encoded images: the pixels of evaluation, or an error that names the bad ones."""

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.pictures import bomb, encoded, every_kind, picture
from vse_tf.exporting.decoding import check_all_read, decode_readable
from vse_tf.preprocessing.view import ImageView

VIEW = ImageView((20, 24), max_pixels=10_000)
GOOD = encoded(picture(50, 40))


def decode_batch(image_bytes, view):
    read, decoded = decode_readable(image_bytes, view)
    with tf.control_dependencies([check_all_read(image_bytes, read, view)]):
        return tf.identity(decoded)


@pytest.fixture(scope="module")
def decode():
    traced = tf.function(lambda batch: decode_batch(batch, VIEW), input_signature=[tf.TensorSpec([None], tf.string)])
    return lambda files: traced(tf.constant(files, tf.string, [len(files)])).numpy()


def test_a_batch_is_decoded_as_in_evaluation(decode):
    files = every_kind()
    expected = [VIEW.of_file(tf.constant(contents), None).numpy() for contents in files]
    np.testing.assert_array_equal(decode(files), np.stack(expected))
    np.testing.assert_array_equal(decode(files[::-1]), np.stack(expected[::-1]))


def test_no_images_give_no_rows(decode):
    assert decode([]).shape == (0, 20, 24, 3)


@pytest.mark.parametrize(
    ("files", "reasons"),
    [
        ([GOOD, b"hello", GOOD], ["image_bytes[1]: not a JPEG"]),
        ([b""], ["image_bytes[0]: not a JPEG"]),
        ([GOOD, GOOD, GOOD[:-200]], ["image_bytes[2]: broken or truncated image data"]),
        ([GOOD, bomb(20_000)], ["image_bytes[1]: the header announces more pixels", "20000 x 20000, at most 10000"]),
        ([bomb(3), GOOD, b"GIF89a"], ["image_bytes[0]: broken", "; image_bytes[2]: truncated or broken image header"]),
    ],
)
def test_bad_images_are_named_each_with_its_reason(decode, files, reasons):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode(files)
    for part in reasons:
        assert part in caught.value.message
    good = [number for number, contents in enumerate(files) if contents == GOOD]
    assert not any(f"image_bytes[{number}]" in caught.value.message for number in good)


def test_animated_webp_is_refused_by_name(decode):
    frames = [picture(30, 20, seed) for seed in (5, 6)]
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0\]: animated WebP"):
        decode([encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])])


def test_too_large_a_header_is_refused_before_decoding(decode):
    # Decoding would find that the pixels are missing; the limit comes first.
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0\]: the header announces"):
        decode([bomb(101)])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"image_bytes\[0\]: broken"):
        decode([bomb(100)])


def test_an_error_names_the_first_ten_and_counts_the_rest(decode):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode([b"none"] * 10)
    assert caught.value.message.count("image_bytes[") == 10
    assert "more" not in caught.value.message
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        decode([GOOD, *[b"none"] * 3000, GOOD])
    assert "image_bytes[1]: not a JPEG" in caught.value.message
    assert caught.value.message.count("image_bytes[") == 10
    assert "image_bytes[10]: not a JPEG, PNG, GIF, BMP or WebP image; and 2990 more" in caught.value.message
    assert len(caught.value.message) < 2000
