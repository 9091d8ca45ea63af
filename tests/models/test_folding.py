"""The folded correction against its definition, in float64 and item by item."""

import hypothesis.extra.numpy as arrays
import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vse_tf.models.folding import EXTRA, fold, plain, search_queries
from vse_tf.models.hubness import NEAREST, corrections

DIM = 5


def unit(rows, seed, dim=DIM):
    values = np.random.default_rng(seed).standard_normal((rows, dim))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def hubness_oracle(vector, bank, nearest):
    similarities = sorted(sum(float(a) * float(b) for a, b in zip(vector, row, strict=True)) for row in bank)
    return sum(similarities[-nearest:]) / min(nearest, len(bank))


def vectors(rows):
    values = arrays.arrays(np.float64, (rows, DIM), elements=st.floats(-1, 1, width=32))
    return values


@settings(max_examples=100, deadline=None)
@given(vectors(3), vectors(4), arrays.arrays(np.float32, 7, elements=st.floats(-0.984375, 0.984375, width=32)))
def test_a_dot_product_is_the_corrected_score(images, captions, hubness):
    lengths = [np.linalg.norm(values, axis=1, keepdims=True) for values in (images, captions)]
    assume(min(length.min() for length in lengths) > 1e-3)
    images, captions = (
        (values / length).astype(np.float32) for values, length in zip((images, captions), lengths, strict=True)
    )
    of_images, of_captions = hubness[:3], hubness[3:]
    folded = fold(images, of_images, "image"), fold(captions, of_captions, "caption")
    for each in folded:
        assert each.dtype == np.float32
        assert each.shape[1] == DIM + EXTRA
        np.testing.assert_allclose(np.linalg.norm(np.float64(each), axis=1), 1, atol=1e-6)
    corrected = np.float64(images) @ np.float64(captions).T - 0.5 * of_images[:, None] - 0.5 * of_captions[None]
    np.testing.assert_allclose(folded[0] @ folded[1].T, 4 / 9 * corrected, atol=1e-6)
    for each, values, kind, other in zip(folded, (images, captions), ("images", "captions"), folded[::-1], strict=True):
        np.testing.assert_allclose(plain(each, DIM), values, atol=1e-6)
        # Queries of the items' modality are compared by the cosine, the others as they are.
        np.testing.assert_allclose(search_queries(each, kind, DIM) @ each.T, values @ values.T, atol=1e-6)
        np.testing.assert_array_equal(search_queries(other, kind, DIM), other)
        # Multiplied as they are, they deviate by what the docstring says.
        angles = np.arcsin(np.float64(of_images if kind == "images" else of_captions))
        bound = (1 - np.cos(angles[:, None] - angles[None])) / 4
        deviation = (9 * np.float64(each) @ np.float64(each).T - 5) / 4 - np.float64(values) @ np.float64(values).T
        np.testing.assert_allclose(-deviation, bound, atol=1e-5)


def test_plain_queries_stay_as_they_are():
    queries = unit(4, seed=0)
    assert search_queries(queries, "images", DIM) is queries


def test_hubness_is_the_mean_of_the_nearest_of_the_bank():
    images, captions, bank = unit(6, seed=1), unit(3, seed=2), unit(NEAREST + 30, seed=3)
    layers = corrections(of_images=bank, of_captions=bank[:7])
    for modality, values, own in (("image", images, bank), ("caption", captions, bank[:7])):
        expected = [hubness_oracle(value, own, NEAREST) for value in values]
        folded = layers[modality](values).numpy()
        np.testing.assert_allclose(folded, fold(values, np.float32(expected), modality), atol=1e-6)
        # An item's vector does not depend on the others.
        np.testing.assert_allclose(layers[modality](values[1:2]).numpy(), folded[1:2], atol=1e-6)
        assert not layers[modality].trainable_weights
