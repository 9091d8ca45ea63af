"""Runs between the start and the best model of another run."""

import numpy as np
import pytest

import vse_tf
from tests.tiny import arguments
from tests.training.test_no_epochs import run_of
from vse_tf import train
from vse_tf.artifacts.checkpoints import named_variables
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.errors import UserError

GENTLE = {
    "image__trainable": "true",
    "text__trainable": 2,
    "train__learning_rate": 1e-2,
    "train__schedule": "constant",
    "train__warmup_epochs": 0,
    "data__text_features": "true",
}


@pytest.fixture(scope="module")
def tuned(dual_presets, tmp_path_factory):
    """A fine-tuned run, and one of its start."""
    folder = tmp_path_factory.mktemp("tuned")
    own = {**GENTLE, "data__cache_dir": folder / "cache"}
    start = run_of(folder / "start", dual_presets["clip"], **own)
    return start, run_of(folder / "run", dual_presets["clip"], **own, train__epochs=2)


def weights(run):
    return {name: np.asarray(each) for name, each in named_variables(vse_tf.load(run).model.parts, seeds=False).items()}


def test_its_ends_are_the_two_runs_and_the_middle_their_mean(tuned, tmp_path):
    start, end = map(weights, tuned)
    changed = {name for name in end if not np.array_equal(start[name], end[name])}
    assert any("image_tower" in name for name in changed) and any("text_tower" in name for name in changed)
    for share in (0.0, 0.25, 1.0):
        model = vse_tf.interpolate(tuned[1], share, tmp_path / str(share))
        found = weights(tmp_path / str(share))
        for name in end:
            expected = np.float64(1 - share) * start[name] + share * end[name]
            limit = 0 if share in (0, 1) or name not in changed else 1e-6
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=limit, err_msg=name)
        assert model.metrics["val"]["rsum"] > 0
    metrics = [RunFolder(run).read_results()["best"]["metrics"] for run in (*tuned, tmp_path / "0.0", tmp_path / "1.0")]
    assert (metrics[2], metrics[3]) == (metrics[0], metrics[1])


def test_it_is_a_run_that_says_what_it_is_and_goes_on(tuned, tmp_path):
    vse_tf.interpolate(tuned[1], 0.5, tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    results = run.read_results()
    assert results["finished"] and results["last"]["epoch"] == 0
    assert results["provenance"]["interpolation"] == {"run": str(tuned[1]), "share": 0.5}
    assert "weights between the start of the run run (0) and its best ones (1), at 0.5" in run.read_card()
    before = weights(run.path)
    train.main(["--config", str(run.config), "--train.run_dir", str(run.path), "--train.epochs", "1"])
    assert run.read_results()["last"]["epoch"] == 1
    assert not all(np.array_equal(before[name], value) for name, value in weights_of_last(run.path).items())


def weights_of_last(run):
    return {
        name: np.asarray(each) for name, each in named_variables(vse_tf.load(run, "last").model.parts, False).items()
    }


@pytest.mark.parametrize(
    ("share", "folder", "wanted"),
    [(1.5, "new", r"share: 1\.5 is not a number"), (0.5, "there", r"holds a run already")],
)
def test_a_users_mistake_is_one_line(tiny_run, tmp_path, share, folder, wanted):
    run_dir = tiny_run if folder == "there" else tmp_path / folder
    with pytest.raises(UserError, match=wanted):
        vse_tf.interpolate(tiny_run, share, run_dir)
    with pytest.raises(UserError, match="no run here"):
        vse_tf.interpolate(tmp_path / "nothing", 0.5, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_from_words_begins_with_the_same_weights(tiny_run, tmp_path):
    """Its heads and its GRU are drawn with the run's own seed."""
    vse_tf.interpolate(tiny_run, 0.0, tmp_path / "zero")
    train.main(arguments(tmp_path / "start", train__epochs=0))
    start, found = weights(tmp_path / "start"), weights(tmp_path / "zero")
    assert all(np.array_equal(start[name], value) for name, value in found.items())
