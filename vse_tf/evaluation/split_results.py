"""What `evaluate` finds out about a model on a split: one object, which the table, the JSON file and the page show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vse_tf.data.records import Split
from vse_tf.errors import UserError
from vse_tf.evaluation.bootstrap import Intervals, intervals_of
from vse_tf.evaluation.chance import chance_metrics
from vse_tf.evaluation.comparison import Comparison, compare
from vse_tf.evaluation.hubness import Hubness
from vse_tf.evaluation.metrics import Measured, measure
from vse_tf.evaluation.report import (
    benchmarks_table,
    comparison_table,
    gallery_line,
    hubness_table,
    order_table,
    small_galleries,
    table,
)
from vse_tf.evaluation.word_order import OrderResult, WrongOrder
from vse_tf.plain_embedder import EncodedSplit

LIMIT = 0.05
"""Models with a lower p-value are called different."""


@dataclass(frozen=True)
class Compared:
    """Two models over the same images and captions.

    Args:
        names: of the model and of the one that it is compared with.
        first: ranks and metrics of the model, over what both could read.
        second: those of the other one.
        comparison: their differences.
    """

    names: tuple[str, str]
    first: Measured
    second: Measured
    comparison: Comparison

    @classmethod
    def of(cls, names: tuple[str, str], first: Measured, second: EncodedSplit) -> Compared:
        """Compare a model with the vectors of another one.

        Args:
            names: of both models.
            first: the model's ranks and metrics.
            second: the split's vectors by the other one.

        Raises:
            UserError: they share no image, or a vector is not finite.
        """
        rows = np.intersect1d(first.encoded.rows, second.rows)
        if not len(rows):
            raise UserError("--compare: there is no image that both models could read")
        if len(rows) < len(first.encoded.rows):
            first = measure(first.encoded.of_rows(rows), first.folds)
        other = measure(second.of_rows(rows), first.folds)
        return cls(names, first, other, compare(first.ranks, other.ranks, first.encoded.image_id, first.folds))

    @property
    def verdict(self) -> str:
        """Whether the difference is significant, in a sentence."""
        comparison = self.comparison
        p, difference, (low, high) = comparison.p["rsum"], comparison.difference["rsum"], comparison.intervals["rsum"]
        better = self.names[0 if difference > 0 else 1]
        said = f"{better} is better" if p < LIMIT else "the difference is not significant"
        return (
            f"by rsum, {said}: difference {difference:+.1f}, 95% interval {low:+.1f} to {high:+.1f}, p {p:.3f} "
            "(permutation of images)"
        )

    def lines(self) -> list[str]:
        """What the command prints."""
        rows = dict(zip(self.names, (self.first.metrics, self.second.metrics), strict=True))
        return [comparison_table(rows, self.comparison), self.verdict]

    def as_json(self) -> dict[str, Any]:
        """What `--output` writes."""
        comparison = self.comparison
        return {
            "with": self.names[1],
            "images": len(self.first.encoded.image),
            "metrics": self.second.metrics,
            "difference": comparison.difference,
            "intervals": comparison.intervals,
            "p": comparison.p,
        }


@dataclass
class SplitResults:
    """The results of a model on a split.

    Args:
        run: name of the model.
        split: the split that was measured.
        measured: ranks and metrics by key: `metrics`, and `metrics_corrected` where the model has a correction.

    Attributes:
        intervals: of each metric, by the same key.
        chance: the metrics of a ranking at random.
        benchmarks: ECCV Caption's and CxC's metrics, by the same key.
        compared: the comparison with another model, where one is named.
        order: word-order sensitivity by kind of swap, where it is asked for.
        wrong_order: the pairs of captions that went wrong.
        hubness: how uneven both galleries are retrieved, by the same key and direction, where it is asked for.
    """

    run: str
    split: Split
    measured: dict[str, Measured]
    benchmarks: dict[str, dict[str, float]] = field(default_factory=dict)
    compared: Compared | None = None
    order: dict[str, OrderResult] | None = None
    wrong_order: list[WrongOrder] = field(default_factory=list)
    hubness: dict[str, dict[str, Hubness]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = self.measured["metrics"]
        encoded, folds = plain.encoded, plain.folds
        self.intervals: dict[str, Intervals] = {key: intervals_of(each) for key, each in self.measured.items()}
        self.chance = chance_metrics(encoded.image_id, len(encoded.image), folds)

    @property
    def used(self) -> str:
        """The key of what a search finds: with the correction, where there is one."""
        return list(self.measured)[-1]

    @property
    def captions(self) -> list[str]:
        """The captions of the embeddings, in their order."""
        rows = self.measured["metrics"].encoded.rows
        return [caption for row in rows for caption in self.split.records[row].captions]

    def title(self, key: str) -> str:
        """The name of a row: the split, and whether the correction is on."""
        return self.split.name + (", corrected" if key == "metrics_corrected" else "")

    def lines(self) -> list[str]:
        """What the command prints."""
        found = self.measured["metrics"]
        rows = {self.title(key): each.metrics for key, each in self.measured.items()}
        ends = {self.title(key): each for key, each in self.intervals.items()}
        lines = [
            table(rows, {self.split.name: self.chance}, ends),
            gallery_line(len(found.encoded.image), len(found.encoded.text), found.folds),
            *small_galleries({self.split.name: self.chance}),
        ]
        for key, benchmarks in self.benchmarks.items():
            lines += ["", *([f"{self.title(key)}:"] if len(self.measured) > 1 else []), benchmarks_table(benchmarks)]
        if self.order is not None:
            lines += ["", order_table(self.order)]
        if self.hubness:
            lines += ["", hubness_table({self.title(key): each for key, each in self.hubness.items()})]
        if self.compared:
            lines += ["", *self.compared.lines()]
        return lines

    def as_json(self) -> dict[str, Any]:
        """What `--output` writes, without the provenance."""
        found = self.measured["metrics"]
        gallery = {"images": len(found.encoded.image), "captions": len(found.encoded.text), "folds": found.folds}
        return {
            "split": self.split.name,
            "gallery": gallery,
            **{key: {**each.metrics, **self.benchmarks.get(key, {})} for key, each in self.measured.items()},
            **{key.replace("metrics", "intervals"): each for key, each in self.intervals.items()},
            "chance": self.chance,
            **({"order": {kind: asdict(each) for kind, each in self.order.items()}} if self.order is not None else {}),
            **({"comparison": self.compared.as_json()} if self.compared else {}),
            **(
                {
                    "hubness": {
                        key: {side: found.as_json() for side, found in each.items()}
                        for key, each in self.hubness.items()
                    }
                }
                if self.hubness
                else {}
            ),
        }
