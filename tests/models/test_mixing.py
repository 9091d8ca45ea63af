"""Mixed queries against the definition in float64."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vse_tf.models.folding import fold, search_queries
from vse_tf.models.mixing import Part, mix

DIM = 5
COUNT = 4
ALL = arrays.arrays(np.float64, (COUNT, DIM), elements=st.floats(-1, 1, width=32))
WEIGHTS = st.lists(st.floats(-4, 4, width=32), min_size=COUNT, max_size=COUNT)
KINDS = st.sampled_from(["images", "captions"])


def unit(values):
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    assume(lengths.min() > 1e-2)
    return (values / lengths).astype(np.float32)


@settings(max_examples=100, deadline=None)
@given(ALL, WEIGHTS, st.lists(KINDS, min_size=COUNT, max_size=COUNT), KINDS, st.booleans(), ALL)
def test_scores_are_those_of_the_sum(values, weights, kinds, kind, folded, items):
    assume(max(weights) > 0.01 and sum(weight != 0 for weight in weights) > 1)
    units, gallery = unit(values), unit(items)
    total = np.float64(weights) @ np.float64(units)
    assume(np.linalg.norm(total) > 0.05 * np.abs(weights).sum())
    cosines = np.float64(gallery) @ (total / np.linalg.norm(total))
    used = {of for of, weight in zip(kinds, weights, strict=True) if weight}
    hubness = np.linspace(0, 0.6, COUNT).astype(np.float32)
    if folded:
        units = np.stack([fold(units[i : i + 1], hubness[i : i + 1], kinds[i][:-1])[0] for i in range(COUNT)])
        gallery = fold(gallery, hubness, kind[:-1])
        # Among items of their own modality the cosine counts, else the hubness of the item lowers it.
        expected = cosines if used == {kind} else 4 / 9 * (cosines - hubness / 2)
    else:
        expected = cosines
    parts = [Part(*part) for part in zip(units, kinds, weights, strict=True)]
    query = mix(parts, kind, DIM)
    several = sum(map(bool, weights)) > 1
    assert query.of == ("mixed" if len(used) > 1 else "texts" if several and used == {"captions"} else used.pop())
    assert query.vector.dtype == np.float32
    scores = search_queries(query.vector[None], kind, DIM) @ gallery.T
    np.testing.assert_allclose(scores[0], expected, atol=2e-5)


def test_a_single_part_is_itself():
    vector = fold(np.float32([[0.6, 0.8, 0, 0, 0]]), np.float32([0.3]), "caption")[0]
    query = mix([Part(vector, "captions", 3.0)], "images", DIM)
    np.testing.assert_array_equal(query.vector, vector)


@pytest.mark.parametrize("weights", [(), (0.0,), (-1.0,), (1.0, float("nan")), (1.0, float("inf")), (1.0, -1.0)])
def test_what_is_no_query_is_refused(weights):
    vector = np.float32([0.6, 0.8, 0, 0, 0])
    with pytest.raises(ValueError, match=r"weight|nothing"):
        mix([Part(vector, "captions", weight) for weight in weights], "images", DIM)


def test_weights_of_any_size_are_relative():
    units = np.eye(DIM, dtype=np.float32)
    expected = mix([Part(units[0], "images", 1), Part(units[1], "captions", 0.5)], "images", DIM)
    huge = mix([Part(units[0], "images", 1e300), Part(units[1], "captions", 5e299)], "images", DIM)
    np.testing.assert_allclose(huge.vector, expected.vector, atol=1e-6)
