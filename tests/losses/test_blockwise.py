"""The blocked form is the dense form: values, gradients, ragged last blocks, unknown shapes, graphs and XLA."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.losses import oracle
from tests.losses.cases import EVERY, Case, names
from vse_tf.losses import batch_statistics, blockwise

IMAGE_ID = np.array([0, 1, 1, 2, 0, 3, 1, 4, 5, 6, 5])


@pytest.fixture
def pairs() -> np.ndarray:
    image, text = oracle.unit(np.random.default_rng(5), 11, 6)
    image[2] = 0.8 * image[1] + 0.2 * image[2]
    text[6] = 0.8 * text[1] + 0.2 * text[6]
    return np.stack([image, text], axis=1)


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch):
    """Compute in blocks of this number of rows from now on."""

    def switch(rows: int, columns: int = 11) -> None:
        monkeypatch.setattr(blockwise, "DENSE_ELEMENTS", 1)
        monkeypatch.setattr(blockwise, "BLOCK_ELEMENTS", rows * columns)

    return switch


def run(case: Case, pairs, image_id=IMAGE_ID, wrap=lambda function: function) -> list[np.ndarray]:
    """The per-pair losses and the gradient of a weighted sum of them, so that each pair's share shows."""

    def both(pairs):
        with tf.GradientTape() as tape:
            tape.watch(pairs)
            per_pair = case.function(pairs[:, 0], pairs[:, 1], image_id, **case.arguments)
            total = tf.reduce_sum(per_pair * tf.range(1.0, tf.cast(tf.shape(pairs)[0], tf.float32) + 1.0))
        return per_pair, tape.gradient(total, pairs)

    return [x.numpy() for x in wrap(both)(tf.constant(pairs))]


def assert_same(found, expected, case: Case) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(other).max()), err_msg=case.name)


@pytest.mark.parametrize("rows", [1, 2, 4, 11, 50])
@pytest.mark.parametrize("case", EVERY, ids=names)
def test_blocks_of_any_size_give_the_dense_result(case: Case, rows: int, pairs, block) -> None:
    dense = run(case, pairs)
    block(rows)
    assert_same(run(case, pairs), dense, case)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_without_image_ids(case: Case, pairs, block) -> None:
    dense = run(case, pairs, None)
    block(4)
    assert_same(run(case, pairs, None), dense, case)


@pytest.mark.parametrize("case", EVERY, ids=names)
def test_in_a_graph_of_unknown_batch_size(case: Case, pairs, block) -> None:
    dense = run(case, pairs)
    block(4)
    signature = [tf.TensorSpec([None, 2, 6], tf.float32)]
    assert_same(run(case, pairs, wrap=lambda f: tf.function(f, input_signature=signature)), dense, case)


@pytest.mark.parametrize("batch", [11, None])
@pytest.mark.parametrize(
    "case", [case for case in EVERY if case.name in ("convse", "convse++", "triplet_sum")], ids=names
)
def test_under_xla(case: Case, batch: int | None, pairs, block) -> None:
    dense = run(case, pairs)
    block(4)
    signature = [tf.TensorSpec([batch, 2, 6], tf.float32)]
    found = run(case, pairs, wrap=lambda f: tf.function(f, input_signature=signature, jit_compile=True))
    assert_same(found, dense, case)


def test_one_graph_takes_small_and_large_batches(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the batch size is unknown the graph holds both forms and chooses when it runs."""
    case = next(case for case in EVERY if case.name == "convse")
    expected = {size: run(case, pairs[:size], None) for size in (4, 11)}
    monkeypatch.setattr(blockwise, "DENSE_ELEMENTS", 16)
    monkeypatch.setattr(blockwise, "BLOCK_ELEMENTS", 33)
    ran: list[str] = []

    def noting(name, form):
        def noted(*arguments):
            tf.py_function(lambda: ran.append(name), [], [])
            return form(*arguments)

        return noted

    monkeypatch.setattr(blockwise, "same_image", noting("dense", blockwise.same_image))
    monkeypatch.setattr(blockwise._Blocks, "loop", noting("blocked", blockwise._Blocks.loop))
    graphs = []

    def one_graph(function):
        graphs.append(tf.function(function, input_signature=[tf.TensorSpec([None, 2, 6], tf.float32)]))
        return graphs[0]

    assert_same(run(case, pairs[:4], None, one_graph), expected[4], case)
    assert ran == ["dense"]
    assert_same(run(case, pairs, None, one_graph), expected[11], case)
    assert ran.count("blocked") == 2  # forward and backward
    assert len(graphs) == 2 and graphs[0].experimental_get_tracing_count() == 1


@pytest.mark.parametrize("name", ["convse", "convse++", "triplet_max", "triplet_sum"])
def test_on_one_replica_both_directions_share_a_product(name: str, pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    similarity = blockwise.similarity

    def noted(*arguments):
        shapes.append(tuple(similarity(*arguments).shape))
        return similarity(*arguments)

    monkeypatch.setattr(blockwise, "similarity", noted)
    run(next(case for case in EVERY if case.name == name), pairs)
    assert shapes == [(11, 11)]


def test_the_size_alone_decides(pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = tf.constant(pairs[:, 0])
    for limit, expected in ((121, "dense"), (120, "blocked")):
        monkeypatch.setattr(blockwise, "DENSE_ELEMENTS", limit)
        assert blockwise.by_size(anchors, anchors, lambda: "dense", lambda: "blocked") == expected


def test_small_temperatures_in_blocks(pairs, block) -> None:
    case = next(case for case in EVERY if case.name == "convse")
    case = Case("cold", case.loss, case.function, case.oracle, {"temperature": 0.005})
    dense = run(case, pairs)
    block(3)
    found = run(case, pairs)
    assert all(np.isfinite(x).all() for x in found)
    assert_same(found, dense, case)


@pytest.mark.parametrize("form", ["dense", "blocked", "unknown size"])
def test_exponentials_out_of_range_are_computed_again(form: str, pairs, block, monkeypatch) -> None:
    case = next(case for case in EVERY if case.name == "convse")
    ran: list[str] = []
    safe = blockwise._SafeLogSumExp.forward

    def noted(self):
        tf.py_function(lambda: ran.append(""), [], [])
        return safe(self)

    monkeypatch.setattr(blockwise._SafeLogSumExp, "forward", noted)
    if form != "dense":
        block(3)
    signature = [tf.TensorSpec([None if form == "unknown size" else 11, 2, 6], tf.float32)]
    for limit, times in ((blockwise.SMALLEST_SUM, 0), (1e30, 1)):
        monkeypatch.setattr(blockwise, "SMALLEST_SUM", limit)
        found = run(case, pairs, wrap=lambda f: tf.function(f, input_signature=signature))
        assert len(ran) == times
        expected = oracle.convse(pairs[:, 0], pairs[:, 1], IMAGE_ID.tolist())
        np.testing.assert_allclose(found[0], expected, rtol=1e-6, atol=1e-6)
        slope = oracle.gradient(
            lambda image, text, image_id: oracle.convse(image, text, image_id) * np.arange(1, 12),
            pairs[:, 0],
            pairs[:, 1],
            IMAGE_ID.tolist(),
        )
        np.testing.assert_allclose(found[1], np.stack(slope, axis=1), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("trainable", [False, True])
def test_a_moving_hardness_in_blocks_of_unknown_size(trainable: bool, pairs, block) -> None:
    step = tf.Variable(1, dtype=tf.int64, trainable=trainable)
    case = next(case for case in EVERY if case.name == "convse++ half way")
    half = Case(case.name, case.loss, case.function, case.oracle, {"hardness": lambda: tf.cast(step, tf.float32) / 2})
    dense = run(case, pairs)
    block(4)
    signature = [tf.TensorSpec([None, 2, 6], tf.float32)]
    assert_same(run(half, pairs, wrap=lambda f: tf.function(f, input_signature=signature)), dense, case)
    variable = tf.Variable(0.5, trainable=trainable)
    half = Case(case.name, case.loss, case.function, case.oracle, {"hardness": variable})
    assert_same(run(half, pairs, wrap=lambda f: tf.function(f, input_signature=signature)), dense, case)


@pytest.mark.parametrize(
    "case", [case for case in EVERY if "temperature" in case.oracle.__code__.co_varnames], ids=names
)
def test_the_temperature_gets_its_gradient_in_blocks(case: Case, pairs, block) -> None:
    temperature = tf.Variable(0.2)

    def slope() -> float:
        with tf.GradientTape() as tape:
            arguments = {**case.arguments, "temperature": temperature}
            value = tf.reduce_sum(case.function(pairs[:, 0], pairs[:, 1], IMAGE_ID, **arguments))
        return float(tape.gradient(value, temperature))

    dense = slope()
    block(3)
    assert slope() == pytest.approx(dense, rel=1e-4)


def test_the_bias_gets_its_gradient_in_blocks(pairs, block) -> None:
    case = next(case for case in EVERY if case.name == "sigmoid")
    bias = tf.Variable(-2.0)

    def slope() -> float:
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(case.function(pairs[:, 0], pairs[:, 1], IMAGE_ID, bias=bias))
        return float(tape.gradient(value, bias))

    dense = slope()
    block(3)
    assert slope() == pytest.approx(dense, rel=1e-4)


def test_statistics_in_blocks(pairs, block) -> None:
    dense = batch_statistics(pairs[:, 0], pairs[:, 1], IMAGE_ID)
    block(3)
    blocked = batch_statistics(pairs[:, 0], pairs[:, 1], IMAGE_ID)
    for name, value in dense.items():
        np.testing.assert_allclose(blocked[name], value, rtol=1e-6)


def test_a_ragged_block_weighs_every_row_once(block) -> None:
    block(4)
    blocks = blockwise._Blocks(tf.zeros([11, 2]), tf.zeros([11, 2]))
    seen = []
    for i in range(blocks.blocks):
        at, weight = blocks.rows(tf.constant(i))
        seen += [int(a) for a, w in zip(at, weight, strict=True) if w == 1.0]
        assert len(at) <= 4
    assert seen == list(range(11))
