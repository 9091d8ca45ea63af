"""What `evaluate` finds out about a model on a split: one object, which the table, the JSON file and the page show."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vse_tf.data.records import Split
from vse_tf.evaluation.bootstrap import Intervals, bootstrap, intervals
from vse_tf.evaluation.chance import chance_metrics
from vse_tf.evaluation.metrics import Measured
from vse_tf.evaluation.report import benchmarks_table, gallery_line, table


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
    """

    run: str
    split: Split
    measured: dict[str, Measured]
    benchmarks: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = self.measured["metrics"]
        encoded, folds = plain.encoded, plain.folds
        self.intervals: dict[str, Intervals] = {
            key: intervals(bootstrap(each.ranks, encoded.image_id, folds)) for key, each in self.measured.items()
        }
        self.chance = chance_metrics(encoded.image_id, len(encoded.image), folds)

    @property
    def used(self) -> str:
        """The key of what a search finds: with the correction, where there is one."""
        return list(self.measured)[-1]

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
        ]
        for key, benchmarks in self.benchmarks.items():
            lines += ["", *([f"{self.title(key)}:"] if len(self.measured) > 1 else []), benchmarks_table(benchmarks)]
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
        }
