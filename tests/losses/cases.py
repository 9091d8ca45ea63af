"""The objectives under test, each with its class, its function and its oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.losses import oracle
from vse_tf import losses


@dataclass(frozen=True)
class Case:
    """One objective with one choice of arguments."""

    name: str
    loss: type[losses.PairLoss]
    function: Callable[..., Any]
    oracle: Callable[..., Any]
    arguments: dict[str, Any] = field(default_factory=dict)


CASES = [
    Case("convse", losses.ConVSE, losses.convse, oracle.convse),
    Case("convse++", losses.ConVSEPlusPlus, losses.convse_plus_plus, oracle.convse_plus_plus),
    *(
        Case(name, losses.ConVSEPlusPlus, losses.convse_plus_plus, oracle.convse_plus_plus, arguments)
        for name, arguments in {
            "convse++ 3 hardest": {"hardest": 3},
            "convse++ 6 hardest": {"hardest": 6},
            "convse++ all": {"hardest": None},
            "convse++ half way": {"hardness": 0.5},
            "convse++ half way to 2": {"hardest": 2, "hardness": 0.25},
            "convse++ beginning": {"hardness": 0.0},
        }.items()
    ),
    Case("triplet_sum", losses.TripletSum, losses.triplet_sum, oracle.triplet_sum),
    Case("triplet_max", losses.TripletMax, losses.triplet_max, oracle.triplet_max),
    Case("simclr", losses.NTXent, losses.nt_xent, oracle.nt_xent),
    Case("npairs_angular", losses.NPairsAngular, losses.npairs_angular, oracle.npairs_angular),
    Case("sigmoid", losses.SigmoidPairwise, losses.sigmoid_pairwise, oracle.sigmoid_pairwise, {"bias": -2.0}),
]

EVERY = [
    *CASES,
    Case("convse positives", losses.ConVSE, losses.convse, oracle.convse, {"multiple_positives": True}),
]

ONE_EACH = [case for i, case in enumerate(CASES) if case.loss not in [earlier.loss for earlier in CASES[:i]]]
"""The plain form of every class, for tests that are slow."""


def names(case: Case) -> str:
    """A test's id."""
    return case.name.replace(" ", "-")


def without(*left_out: str) -> list[Case]:
    """Every case but those of these names, to which a property does not apply."""
    assert {case.name for case in EVERY} >= set(left_out)
    return [case for case in EVERY if case.name not in left_out]
