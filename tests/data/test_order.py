import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.data.order import CAPTION, ROW, Order
from vse_tf.data.records import Record
from vse_tf.errors import UserError


def records(counts, groups=None):
    groups = groups or [None] * len(counts)
    return [
        Record(f"{i}.jpg", tuple(f"caption {i} {j}" for j in range(n)), "train", i, group=g)
        for i, (n, g) in enumerate(zip(counts, groups, strict=True))
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=30), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_over_captions_has_each_pair_once(counts, batch_size, epoch):
    total = sum(counts)
    if batch_size > total:
        with pytest.raises(UserError, match=r"train\.batch_size"):
            Order(records(counts), batch_size, "captions", seed=1)
        return
    order = Order(records(counts), batch_size, "captions", seed=1)
    samples = order.epoch(epoch).reshape(-1, 4)
    assert len(samples) == total // batch_size * batch_size
    captions = samples[:, CAPTION]
    assert len(set(captions)) == len(captions)
    owner = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_array_equal(owner[captions], samples[:, ROW])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=30), st.integers(0, 5))
def test_an_epoch_over_images_draws_one_caption_an_image(counts, epoch):
    samples = Order(records(counts), 1, "images", seed=2).epoch(epoch).reshape(-1, 4)
    assert sorted(samples[:, ROW]) == list(range(len(counts)))
    owner = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_array_equal(owner[samples[:, CAPTION]], samples[:, ROW])


def test_every_caption_of_an_image_is_drawn_sooner_or_later():
    order = Order(records([5] * 4), 2, "images", seed=3)
    drawn = {caption for epoch in range(60) for caption in order.epoch(epoch)[..., CAPTION].ravel()}
    assert drawn == set(range(20))


@pytest.mark.parametrize("epoch_over", ["captions", "images"])
def test_order_is_a_function_of_seed_and_epoch(epoch_over):
    def made(seed, epoch):
        return Order(records([3] * 20), 4, epoch_over, seed).epoch(epoch)

    np.testing.assert_array_equal(made(0, 7), made(0, 7))
    assert (made(0, 7) != made(0, 8)).any()
    assert (made(0, 7) != made(1, 7)).any()


@pytest.mark.parametrize("epoch_over", ["captions", "images"])
def test_groups_stay_in_one_batch(epoch_over):
    groups = [i // 2 for i in range(40)]
    order = Order(records([3] * 40, groups), 8, epoch_over, seed=0)
    for epoch in range(3):
        for batch in order.epoch(epoch):
            rows, times = np.unique(batch[:, ROW] // 2, return_counts=True)
            assert (times % 2 == 0).all(), rows
    apart = Order(records([3] * 40), 8, epoch_over, seed=0)
    together = [np.isin(batch[:, ROW] ^ 1, batch[:, ROW]).all() for batch in apart.epoch(0)]
    assert not all(together)


def test_view_seeds_differ_between_samples_and_epochs():
    order = Order(records([5] * 20), 10, "captions", seed=0)
    seeds = np.concatenate([order.epoch(e).reshape(-1, 4)[:, 2:] for e in range(2)])
    assert len(np.unique(seeds, axis=0)) == len(seeds)
