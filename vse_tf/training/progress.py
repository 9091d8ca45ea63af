"""Where a run stands: the state that its callbacks share and its checkpoints store besides the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vse_tf.artifacts.checkpoint_files import Checkpoint, Position

Logs = dict[str, Any] | None
"""What Keras hands to a callback: the values of a step or an epoch by name."""


@dataclass
class RunProgress:
    """Where a run stands.

    Args:
        position: the finished steps; an epoch counts as finished when the next one begins.
        conditions: settings and data that a resumed run must agree with, see `resume.check_conditions`.
        monitor: `train.monitor`, the metric that makes an epoch the best one.
        count: number of steps whose logs are in `sums`.
        sums: sums of the unfinished epoch's logs; not means, so that a resumed epoch ends in the same bits.
        rows: the lines of metrics.jsonl, one per measured epoch.
        stopped: why the run stopped early; None where it did not.
    """

    position: Position
    conditions: dict[str, Any]
    monitor: str = "rsum"
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, conditions: dict[str, Any], monitor: str) -> RunProgress:
        """The progress that a checkpoint stored."""
        stored = checkpoint.progress
        figures = stored.get("figures") or {}
        count, sums, rows = figures.get("count", 0), figures.get("sums", {}), stored.get("rows", [])
        return cls(checkpoint.position, conditions, monitor, count, sums, rows, stored.get("stopped"))

    def stored(self, position: Position) -> dict[str, Any]:
        """What a checkpoint of this position stores, besides the position itself."""
        return {
            **self.conditions,
            "rows": [row for row in self.rows if row["epoch"] <= position.epoch],
            "figures": {"count": self.count, "sums": self.sums} if position.step_in_epoch else {},
            "stopped": self.stopped,
        }

    @property
    def means(self) -> dict[str, float]:
        """Mean of each logged value over the epoch so far."""
        return {name: total / self.count for name, total in self.sums.items()}

    @property
    def best(self) -> dict[str, Any]:
        """The row with the best metric, the earliest of equals; there must be one."""
        # Of ranks the lowest is the best.
        sign = -1 if self.monitor.endswith(("medr", "meanr")) else 1
        return max(self.rows, key=lambda row: sign * row["metrics"][self.monitor])

    def results(
        self,
        provenance: dict[str, Any],
        galleries: dict[str, Any] | None = None,
        chance: dict[str, Any] | None = None,
        corrected: dict[str, Any] | None = None,
        intervals: dict[str, Any] | None = None,
        intervals_corrected: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The contents of results.json.

        Args:
            provenance: where the results come from.
            galleries: metrics of the best model by split, once the run has finished.
            chance: what a ranking at random reaches, by split.
            corrected: metrics of the best model with the hubness correction, by split, if it has one.
            intervals: the 95 % intervals of `galleries`.
            intervals_corrected: those of `corrected`.
        """
        keys = ("epoch", "step", "metrics")
        best = {key: self.best[key] for key in keys}
        return {
            "best": best | {"metrics_corrected": corrected["val"]} if corrected else best,
            "last": {key: self.rows[-1][key] for key in keys},
            "galleries": galleries or {},
            **({"galleries_corrected": corrected} if corrected else {}),
            **({"intervals": intervals} if intervals else {}),
            **({"intervals_corrected": intervals_corrected} if intervals_corrected else {}),
            "chance": chance or {},
            "finished": galleries is not None,
            "stopped": self.stopped,
            "provenance": provenance,
        }


def scalars(logs: Logs) -> dict[str, float]:
    """A step's logs as floats; `DualEncoder.train_step` gives each one axis."""
    return {name: float(np.reshape(value, -1)[0]) for name, value in (logs or {}).items()}
