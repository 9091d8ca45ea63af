"""Every anchor sees the negatives of the global batch: 1, 2 and 4 replicas agree."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
import tensorflow as tf

from tests.losses.cases import EVERY, ONE_EACH
from tests.losses.replicas import BATCH, IMAGE_ID, PAIRS, on_one_device
from tests.warm_python import warm_python
from vse_tf import losses


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, np.ndarray]]:
    """What 2 and 4 replicas computed, each number in a process of its own."""
    files = {count: tmp_path_factory.mktemp("replicas") / f"{count}.npz" for count in (2, 4)}
    for count, file in files.items():
        command = [*warm_python(), "-m", "tests.losses.replicas", str(count), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    return {count: dict(np.load(file)) for count, file in files.items()}


@pytest.mark.parametrize(
    ("replicas", "part", "kind", "objectives"),
    [
        (2, "masked", "masked", len(EVERY)),
        (4, "masked", "masked", len(ONE_EACH)),
        (2, "unmasked", "unmasked", len(EVERY) - 1),
        (2, "graph", "masked", 1),
        (2, "blocked", "masked", len(EVERY)),
    ],
)
def test_loss_and_gradient_are_those_of_one_device(found, replicas, part, kind, objectives) -> None:
    expected = on_one_device(kind)
    compared = [key for key in found[replicas] if key.startswith(f"{part}/")]
    assert len(compared) == 2 * objectives
    for key in compared:
        value = expected[key.removeprefix(f"{part}/")]
        difference = np.linalg.norm(found[replicas][key] - value) / np.linalg.norm(value)
        assert difference < 1e-6, f"{key}: {difference}"


@pytest.mark.parametrize("replicas", [2, 4])
def test_statistics_are_those_of_the_global_batch(found, replicas: int) -> None:
    for name, value in losses.batch_statistics(PAIRS[:, 0], PAIRS[:, 1], IMAGE_ID).items():
        np.testing.assert_allclose(found[replicas][f"seen/{name}"], np.full(replicas, value), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_gathered_batch(found, replicas: int) -> None:
    """Global order, image ids, seen from each replica."""
    seen = {key.removeprefix("seen/"): value for key, value in found[replicas].items() if key.startswith("seen/")}
    size = BATCH // replicas
    for replica in range(replicas):
        here = slice(size * replica, size * (replica + 1))
        np.testing.assert_array_equal(seen["all_image"][replica], PAIRS[:, 0])
        np.testing.assert_array_equal(seen["all_text"][replica], PAIRS[:, 1])
        np.testing.assert_array_equal(seen["image_id"][replica], IMAGE_ID[here])
        np.testing.assert_array_equal(seen["all_image_id"][replica], IMAGE_ID)
        np.testing.assert_array_equal(seen["places"][replica], np.arange(BATCH)[here])
        np.testing.assert_array_equal(seen["all_places"][replica], np.arange(BATCH))


def test_uneven_batches_are_refused(found) -> None:
    assert "uneven batches: every replica needs the same number of pairs" in str(found[2]["uneven/message"])


def test_inside_a_scope_but_outside_a_replica() -> None:
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        inside = losses.convse(PAIRS[:, 0], PAIRS[:, 1], IMAGE_ID)
    np.testing.assert_array_equal(inside, losses.convse(PAIRS[:, 0], PAIRS[:, 1], IMAGE_ID))
