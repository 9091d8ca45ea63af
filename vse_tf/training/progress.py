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
        count: number of steps whose logs are in `sums`.
        sums: sums of the unfinished epoch's logs; not means, so that a resumed epoch ends in the same bits.
        rows: the lines of metrics.jsonl, one per measured epoch.
        stopped: why the run stopped early; None where it did not.
    """

    position: Position
    conditions: dict[str, Any]
    count: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: str | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint, conditions: dict[str, Any]) -> RunProgress:
        """The progress that a checkpoint stored."""
        stored = checkpoint.progress
        figures = stored.get("figures") or {}
        count, sums, rows = figures.get("count", 0), figures.get("sums", {}), stored.get("rows", [])
        return cls(checkpoint.position, conditions, count, sums, rows, stored.get("stopped"))

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
        """The row with the highest rsum, the earliest of equals; there must be one."""
        return max(self.rows, key=lambda row: row["metrics"]["rsum"])

    def results(
        self,
        provenance: dict[str, Any],
        galleries: dict[str, Any] | None = None,
        chance: dict[str, Any] | None = None,
        corrected: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The contents of results.json.

        Args:
            provenance: where the results come from.
            galleries: metrics of the best model by split, once the run has finished.
            chance: what a ranking at random reaches, by split.
            corrected: metrics of the best model with the hubness correction, by split, if it has one.
        """
        keys = ("epoch", "step", "metrics")
        best = {key: self.best[key] for key in keys}
        return {
            "best": best | {"metrics_corrected": corrected["val"]} if corrected else best,
            "last": {key: self.rows[-1][key] for key in keys},
            "galleries": galleries or {},
            **({"galleries_corrected": corrected} if corrected else {}),
            "chance": chance or {},
            "finished": galleries is not None,
            "stopped": self.stopped,
            "provenance": provenance,
        }


def scalars(logs: Logs) -> dict[str, float]:
    """A step's logs as floats; `DualEncoder.train_step` gives each one axis."""
    return {name: float(np.reshape(value, -1)[0]) for name, value in (logs or {}).items()}
