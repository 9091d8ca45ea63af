"""How fast a run goes, and the time to its end."""

from __future__ import annotations

import time

from vse_tf.display import duration


class Pace:
    """Measures the steps, the first and its trace left out, and what follows an epoch's last step.

    Attributes:
        steps: number of steps so far.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._step_seconds = self._end_seconds = self._last = 0.0
        self._ends = 0

    def epoch_begins(self) -> None:
        """Call it before an epoch's first step."""
        now = time.perf_counter()
        if self.steps:
            self._end_seconds += now - self._last
            self._ends += 1
        self._last = now

    def step_ends(self) -> None:
        """Call it after a step."""
        now = time.perf_counter()
        if self.steps:
            self._step_seconds += now - self._last
        self.steps += 1
        self._last = now

    def left(self, steps: int, epochs: int) -> str:
        """The time that this many steps, and the measurements after this many epochs, will take; empty at first.

        Example:
            >>> Pace().left(100, 2)
            ''
        """
        if self.steps < 2:
            return ""
        seconds = steps * self._step_seconds / (self.steps - 1)
        if self._ends:
            return f"{duration(seconds + epochs * self._end_seconds / self._ends)} left"
        # How long a measurement takes is not known before the first one.
        return f"at least {duration(seconds)} left"
