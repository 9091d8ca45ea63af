"""A collapsed run stops and says so; runs that only pass by go on."""

import pytest

from tests.tiny import arguments, rows_of
from vse_tf import train
from vse_tf.errors import UserError
from vse_tf.losses import LOSSES, build
from vse_tf.training.collapse import CollapseWatch

BATCH = 16


def watched(name="convse++", steps=5, **arguments):
    loss = build(name, **arguments)
    return CollapseWatch(loss, BATCH, steps), loss.collapse_value(BATCH)


def feed(watch, losses, gap=0.0):
    for loss in losses:
        watch.see({"loss": loss, "hardest_negative_gap": gap})


@pytest.mark.parametrize("name", LOSSES)
def test_every_objective_has_its_value(name):
    watch, value = watched(name)
    feed(watch, [value * 1.001] * 4)
    with pytest.raises(UserError, match=r"the run has collapsed: for 5 steps .*one point; .*--train\.learning_rate"):
        feed(watch, [value * 0.999])


def test_what_to_try_fits_the_objective():
    for name, advice in (("convse++", "--loss.hardness_epochs"), ("triplet_max", "--train.init_from")):
        watch, value = watched(name)
        with pytest.raises(UserError, match=advice):
            feed(watch, [value] * 5)


def test_a_run_on_its_way_past_the_value_goes_on():
    watch, value = watched()
    for _ in range(20):
        feed(watch, [value * 1.05, *[value] * 4, value * 0.95])


def test_a_loss_near_the_value_without_the_gap_goes_on():
    """A large temperature holds the softmax near its value although the model tells pairs apart."""
    watch, value = watched("convse", temperature=5.0)
    feed(watch, [value * 0.995] * 100, gap=0.1)
    feed(watch, [value * 1.005] * 100, gap=-0.1)


def test_steps_are_counted_over_epochs():
    watch, value = watched(steps=8)
    for _ in range(2):
        feed(watch, [value] * 3)
    with pytest.raises(UserError, match="for 8 steps"):
        feed(watch, [value] * 2)


def test_a_collapsed_run_stops_with_a_clear_line(tmp_path):
    changed = {"loss__name": "convse++", "train__learning_rate": 0.3, "train__warmup_epochs": 0}
    with pytest.raises(UserError, match=r"the run has collapsed: for 12 steps the loss has been .*\(5\.714\)"):
        train.main(arguments(tmp_path / "run", train__epochs=40, train__collapse_steps=12, **changed))
    train.main(arguments(tmp_path / "off", train__epochs=5, train__collapse_steps=0, **changed))
    assert len(rows_of(tmp_path / "off")) == 5
