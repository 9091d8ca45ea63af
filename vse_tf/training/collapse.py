"""Detects a collapsed model: all its embeddings are one point, and training does not lead out of there."""

from __future__ import annotations

from vse_tf.errors import UserError
from vse_tf.losses import PairLoss

NEAR = 0.01
"""The loss is within this share of the collapse value; a healthy run passes it in a few steps."""

ONE_POINT = 0.01
"""The mean gap between positive and hardest negative is within this; untrained, spread embeddings have a larger one."""


class CollapseWatch:
    """Stops a run that stays at its objective's collapse value.

    Both signs must hold in every step, without a break: the loss is that of a collapsed model, and positives are as
    similar as the hardest negatives. Either alone occurs in healthy runs: a large temperature holds the loss near the
    value, and a run passes it as its loss falls.

    Args:
        loss: the objective.
        batch_size: pairs in a global batch.
        steps: number of such steps in a row that stop the run.

    """

    def __init__(self, loss: PairLoss, batch_size: int, steps: int) -> None:
        self.loss = loss
        self.batch_size = batch_size
        self.steps = steps
        self._collapsed = 0

    def see(self, values: dict[str, float]) -> None:
        """Look at a step.

        Args:
            values: its `loss` and `hardest_negative_gap`.

        Raises:
            UserError: the run has collapsed; the message says what to try.
        """
        value = self.loss.collapse_value(self.batch_size)
        near = abs(values["loss"] - value) <= NEAR * value
        one_point = abs(values["hardest_negative_gap"]) <= ONE_POINT
        self._collapsed = self._collapsed + 1 if near and one_point else 0
        if self._collapsed >= self.steps:
            raise UserError(
                f"the run has collapsed: for {self._collapsed} steps the loss has been {values['loss']:.4g}, the value "
                f"({value:.4g}) of a model that maps everything to one point; {self._advice()} "
                "(--train.collapse_steps 0 switches this check off)"
            )

    def _advice(self) -> str:
        """What to try, the most likely first."""
        first = {
            "convse_plus_plus": "begin with all negatives (--loss.hardness_epochs 2) or from a ConVSE run "
            "(--train.init_from RUN), ",
            "triplet_max": "start from a run of triplet_sum or convse (--train.init_from RUN), ",
        }
        return f"{first.get(self.loss.name, '')}lower --train.learning_rate, or raise --train.warmup_epochs"
