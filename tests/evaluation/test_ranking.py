"""Ranks and neighbours against a slow, obvious oracle."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from vse_tf.evaluation import neighbours, ranking
from vse_tf.evaluation import similarity as products
from vse_tf.evaluation.metrics import recall_metrics
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.ranking import ranks
from vse_tf.evaluation.similarity import NonFiniteError, check_finite


def oracle(image, text, image_id):
    """Ranks by loops over exactly rounded scores."""
    score = (image.astype(np.float64) @ text.astype(np.float64).T).astype(np.float32)
    i2t, t2i = [], []
    for i in range(len(image)):
        own = [score[i, j] for j in range(len(text)) if image_id[j] == i]
        wrong = [score[i, j] for j in range(len(text)) if image_id[j] != i]
        i2t.append(sum(s >= max(own) for s in wrong) if own else -1)
    for j in range(len(text)):
        right = image_id[j]
        t2i.append(sum(score[i, j] >= score[right, j] for i in range(len(image)) if i != right))
    return i2t, t2i


def same(found, expected):
    assert found.i2t.tolist() == expected[0]
    assert found.t2i.tolist() == expected[1]


def unit(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def galleries(draw):
    """Exactly representable embeddings with many ties; ragged, shuffled captions, some images without any."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 30))
    dim = draw(st.sampled_from([1, 2, 3, 8, 33]))
    steps = draw(st.sampled_from([1, 2, 8]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = (random.integers(-steps, steps + 1, (n, dim)) / 16).astype(np.float32)
    text = (random.integers(-steps, steps + 1, (m, dim)) / 16).astype(np.float32)
    return image, text, np.array(draw(st.lists(st.integers(0, n - 1), min_size=m, max_size=m)))


@settings(max_examples=150, deadline=None)
@given(galleries(), st.sampled_from([1, 4, 20, 52, 132, 1000, 2**24]))
def test_ranks_equal_the_oracle_at_any_block_size(gallery, block_bytes):
    same(ranks(*gallery, block_bytes=block_bytes), oracle(*gallery))


@pytest.mark.parametrize("scales", [(1, 1), (1e12, 1e15), (1e-25, 1), (1e-22, 1e-22)])
@pytest.mark.parametrize("dim", [7, 300, 1000])
def test_rounded_scores_rank_as_exact_ones(dim, scales):
    """Also where squares or products leave float32's normal numbers."""
    random = np.random.default_rng(dim)
    image = unit(random.standard_normal((37, dim)))
    rows = random.integers(0, 37, 151)
    text = unit(image[rows] + unit(random.standard_normal((151, dim))))
    image, text = image * np.float32(scales[0]), text * np.float32(scales[1])
    text[20:40] = text[0]  # the same caption for several images: true ties between rounded scores
    image[5] = image[6]
    expected = oracle(image, text, rows)
    for block_bytes in (4 * 13 * 7, 4 * 11 * 151, 2**24):
        same(ranks(image, text, rows, block_bytes), expected)


def test_scores_that_nearly_tie_have_different_ranks():
    """Differences below the float32 product's own error, but above float32's resolution at these scores."""
    random = np.random.default_rng(1)
    image = unit(random.standard_normal((30, 1024)))
    common = unit(random.standard_normal((1, 1024)))
    text = (common + 1e-7 * random.standard_normal((90, 1024))).astype(np.float32)
    rows = np.arange(90) % 30
    expected = oracle(image, text, rows)
    assert len(set(expected[0])) > 5
    same(ranks(image, text, rows), expected)


@pytest.mark.parametrize("strip", [1, ranking._STRIP])
@pytest.mark.parametrize("seed", range(3))
def test_any_product_within_its_bound_gives_the_same_result(monkeypatch, seed, strip):
    # Of small strips a block has many, and its close scores are corrected in several calls.
    monkeypatch.setattr(ranking, "_STRIP", strip)
    random = np.random.default_rng(seed)
    image, rows = unit(random.standard_normal((20, 64))), np.arange(100) // 5
    text = unit(image[0] + 1e-4 * random.standard_normal((100, 64)))
    text[50] = text[70]
    expected, neighbours = oracle(image, text, rows), neighbour_oracle(image, text, 6)

    def noisy(first, second, out=None):
        length = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)
        exact = first.astype(np.float64) @ second.astype(np.float64).T
        product = (exact + 64 * 2.0**-24 * length * random.uniform(-1, 1, exact.shape)).astype(np.float32)
        if out is None:
            return product
        out[...] = product
        return out

    for module in (products, ranking):
        monkeypatch.setattr(module, "product", noisy)
    for block_bytes in (4 * 7 * 9, 2**24):
        same(ranks(image, text, rows, block_bytes), expected)
        index, score = nearest(image, text, 6, block_bytes)
        np.testing.assert_array_equal(index, neighbours[0])
        np.testing.assert_array_equal(score, neighbours[1])


def test_equal_scores_that_float64_rounds_apart_are_a_tie():
    middle = 1 + 2.0**-24  # half-way between two float32 numbers
    side = ranking._Side.from_scores(np.array([middle + 2.0**-52]), np.array([1e-6]), dim=8)
    counts, near = side.reached(np.float32([[1.0]]), axis=1)
    assert (counts.tolist(), near.tolist()) == ([1], [0])
    side.correct(counts, near, near, lambda _: np.array([middle - 2.0**-52]))
    assert counts.tolist() == [1]
    side.correct(counts, near, near, lambda _: np.array([middle - 2.0**-30]))
    assert counts.tolist() == [0]


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in ThreadpoolController().select(user_api="blas").info()}


def test_the_blas_gets_its_threads_back(monkeypatch):
    before, seen = blas_threads(), []
    image = unit(np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32))
    rows = np.arange(60)
    genuine = products.product

    def watched(*args):
        seen.append(blas_threads())
        return genuine(*args)

    monkeypatch.setattr(products, "product", watched)
    with ThreadPoolExecutor(4) as pool:  # evaluations side by side
        for found in pool.map(lambda _: ranks(image, image, rows, block_bytes=400), range(8)):
            same(found, ([0] * 60, [0] * 60))
    assert set.union(*seen) == {1}
    assert blas_threads() == before

    def failing(*_):
        raise RuntimeError("of a block")

    monkeypatch.setattr(products, "product", failing)
    with pytest.raises(RuntimeError, match="of a block"):
        ranks(image, image, rows)
    assert blas_threads() == before


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_blocks_side_by_side_give_the_same_ranks(monkeypatch, threads):
    @contextmanager
    def of_so_many():
        yield threads

    monkeypatch.setattr(ranking, "own_threads", of_so_many)
    random = np.random.default_rng(threads)
    image, text = (random.integers(-2, 3, (count, 4)).astype(np.float32) for count in (40, 90))
    rows = random.integers(0, 40, 90)
    same(ranks(image, text, rows, block_bytes=4 * 60), oracle(image, text, rows))


def test_a_worse_product_is_noticed(monkeypatch):
    """Sums that drift further than the likely bound (one long chain of equal terms) widen the uncertain zone."""
    image, text = unit(np.ones((12, 5000))), unit(np.ones((60, 5000)))
    rows = np.arange(60) // 5

    def drifting(first, second, out=None):
        chain = np.cumsum(first[0] * second[0], dtype=np.float32)[-1]
        exact = float(first[0].astype(np.float64) @ second[0].astype(np.float64))
        assert abs(chain - exact) > 8 * np.sqrt(5000) * 2.0**-24 + 1e-6
        if out is None:
            out = np.empty((len(first), len(second)), np.float32)
        out[...] = chain
        return out

    for module in (products, ranking):
        monkeypatch.setattr(module, "product", drifting)
    same(ranks(image, text, rows), ([55] * 12, [11] * 60))


@pytest.mark.parametrize("dim", [3, 64, 100, 1000])
@pytest.mark.parametrize(("n", "each"), [(11, 1), (11, 5), (16, 4), (100, 5), (300, 2)])
def test_a_collapsed_model_scores_nothing(n, each, dim):
    one = unit(np.random.default_rng(dim).standard_normal((1, dim)))
    other = unit(np.random.default_rng(dim + 1).standard_normal((1, dim)))
    for image_vector, text_vector in ((one, one), (one, other), (unit(np.ones((1, dim))), unit(np.ones((1, dim))))):
        found = ranks(np.repeat(image_vector, n, 0), np.repeat(text_vector, n * each, 0), np.repeat(range(n), each))
        assert set(found.i2t) == {(n - 1) * each}
        assert set(found.t2i) == {n - 1}
        metrics = recall_metrics(found)
        assert [metrics[name] for name in metrics if "_r" in name] == [0.0] * 6
        assert metrics["rsum"] == 0.0


def test_zero_embeddings_tie():
    found = ranks(np.zeros((12, 8)), np.zeros((12, 8)), np.arange(12))
    assert found.i2t.tolist() == found.t2i.tolist() == [11] * 12


def test_tiny_embeddings_whose_product_underflows_are_ranked():
    image = (np.eye(4) * 1e-19).astype(np.float32)
    text = (np.eye(4) * 2e-19 + 1e-20).astype(np.float32)
    same(ranks(image, text, np.arange(4)), ([0] * 4, [0] * 4))


def test_own_captions_never_count_and_images_need_no_captions():
    image = np.float32([[1, 0], [0, 1], [0, 2]])  # image 1 has no caption but beats nobody; image 2 beats image 1
    text = np.float32([[3, 0], [2, 0], [1, 0], [0, 1], [1, 1]])
    found = ranks(image, text, [0, 0, 0, 2, 0])
    assert found.i2t.tolist() == [0, -1, 1]  # image 2's caption ties with (1, 1)
    assert found.t2i.tolist() == [0, 0, 0, 0, 2]
    alone = ranks(image[[0, 2]], text, [0, 0, 0, 1, 0])
    assert alone.t2i.tolist() == [0, 0, 0, 0, 1]  # without image 1 the last caption ranks better


def test_one_image_may_own_every_caption():
    found = ranks(np.eye(3), np.ones((50, 3)), np.zeros(50, int), block_bytes=44)
    assert found.i2t.tolist() == [0, -1, -1]
    assert found.t2i.tolist() == [2] * 50


def test_more_images_than_a_byte_counts():
    found = ranks(np.ones((700, 2)), np.ones((3, 2)), [5, 5, 600])
    assert found.t2i.tolist() == [699] * 3
    assert found.i2t[[5, 600]].tolist() == [1, 2]


def test_no_captions_gives_no_queries():
    found = ranks(np.eye(3), np.zeros((0, 3)), [])
    assert found.i2t.tolist() == [-1] * 3
    assert found.t2i.shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("block_bytes", [4, 2**24])
def test_a_bad_row_is_named_before_any_score(bad, block_bytes, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("a score was computed")

    for module in (products, ranking):
        monkeypatch.setattr(module, "product", forbidden)
    for module in (neighbours, ranking):
        monkeypatch.setattr(module, "pair_dots", forbidden)
    rows = np.arange(600) // 3
    for side in ("image", "text"):
        arrays = {"image": np.ones((200, 1024), np.float32), "text": np.ones((600, 1024), np.float32)}
        arrays[side][171, 5] = bad
        arrays[side][190] = bad
        with pytest.raises(NonFiniteError, match=f"{side} embedding in row 171 is not finite") as caught:
            ranks(arrays["image"], arrays["text"], rows, block_bytes)
        assert (caught.value.side, caught.value.row) == (side, 171)
    assert isinstance(caught.value, ValueError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_embeddings_too_large_for_float32_scores_are_an_error():
    image = np.ones((3, 4), np.float32)
    image[1] = 1e30
    with pytest.raises(NonFiniteError, match="image embedding in row 1 is too large"):
        ranks(image, np.full((3, 4), 1e10, np.float32), [0, 1, 2])
    found = ranks(image, np.ones((3, 4), np.float32), [0, 1, 2])  # large, but scores fit
    assert found.t2i.tolist() == [2, 0, 2]


@pytest.mark.parametrize(
    ("image", "text", "rows", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), [0, 1], "3 and 4 dimensions"),
        (np.ones((2, 3)), np.ones((2, 3)), [0, 2], "caption 1 names image row 2; there are 2 images"),
        (np.ones((2, 3)), np.ones((2, 3)), [-1, 0], "caption 0 names image row -1"),
        (np.ones((2, 3)), np.ones((2, 3)), [0], "expected one image row for each of 2 captions"),
        (np.ones((2, 3)), np.ones((2, 3)), [0.0, 1.0], "expected integers"),
        (np.ones(3), np.ones((2, 3)), [0, 1], r"image embeddings have shape \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_an_error(image, text, rows, message):
    with pytest.raises(ValueError, match=message):
        ranks(image, text, rows)


def test_inputs_are_left_as_they_are_and_need_not_be_contiguous():
    random = np.random.default_rng(3)
    image, text = random.standard_normal((16, 9)).astype("f4").T, random.standard_normal((16, 20)).astype("f4").T
    before = image.copy(), text.copy()
    rows = np.arange(20) % 9
    same(ranks(image, text, rows, 64), oracle(image, text, rows))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(text, before[1])


def neighbour_oracle(query, gallery, k):
    score = (query.astype(np.float64) @ gallery.astype(np.float64).T).astype(np.float32)
    index = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return index, np.take_along_axis(score, index, axis=1)


@settings(max_examples=150, deadline=None)
@given(galleries(), st.integers(0, 40), st.sampled_from([1, 4, 20, 52, 132, 1000, 2**24]))
def test_neighbours_equal_a_stable_sort(gallery, k, block_bytes):
    query, items, _ = gallery
    index, score = nearest(query, items, k, block_bytes)
    expected = neighbour_oracle(query, items, k)
    assert index.shape == (len(query), min(k, len(items)))
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(score, expected[1])
    assert score.dtype == np.float32


@pytest.mark.parametrize("block_bytes", [4 * 77, 2**24])
def test_equal_gallery_items_keep_their_order(block_bytes):
    random = np.random.default_rng(0)
    gallery = unit(random.standard_normal((200, 1000)))
    gallery[[3, 50, 51, 120, 199]] = gallery[90]
    query = unit(gallery[[90, 4]] + 0.1 * random.standard_normal((2, 1000)))
    index, score = nearest(query, gallery, 8, block_bytes)
    assert index[0, :6].tolist() == [3, 50, 51, 90, 120, 199]
    expected = neighbour_oracle(query, gallery, 8)
    np.testing.assert_array_equal(index, expected[0])
    np.testing.assert_array_equal(score, expected[1])


def test_a_collapsed_gallery_gives_its_first_items():
    one = unit(np.random.default_rng(0).standard_normal((1, 100)))
    index, _ = nearest(np.repeat(one, 3, 0), np.repeat(one, 55, 0), 5, block_bytes=4 * 40)
    assert index.tolist() == [[0, 1, 2, 3, 4]] * 3


def test_neighbours_read_a_memory_map(tmp_path):
    gallery = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
    np.save(tmp_path / "gallery.npy", gallery)
    index, _ = nearest(gallery[:5], np.load(tmp_path / "gallery.npy", mmap_mode="r"), 3, block_bytes=100)
    np.testing.assert_array_equal(index, neighbour_oracle(gallery[:5], gallery, 3)[0])


def test_neighbours_of_nothing():
    assert nearest(np.ones((2, 3)), np.zeros((0, 3)), 5)[0].shape == (2, 0)
    assert nearest(np.zeros((0, 3)), np.ones((2, 3)), 5)[0].shape == (0, 2)
    with pytest.raises(ValueError, match="k is -1"):
        nearest(np.ones((2, 3)), np.ones((2, 3)), -1)


def test_bad_rows_of_a_search_are_named():
    good, bad = np.ones((4, 3), np.float32), np.ones((4, 3), np.float32)
    bad[2, 1] = np.nan
    with pytest.raises(NonFiniteError, match="gallery embedding in row 2"):
        nearest(good, bad, 2)
    with pytest.raises(NonFiniteError, match="query embedding in row 2"):
        nearest(bad, good, 2)
    with pytest.raises(NonFiniteError, match="index embedding in row 2"):
        check_finite("index", bad)
    check_finite("index", good)
