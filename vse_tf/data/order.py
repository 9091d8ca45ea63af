"""The order of an epoch: the pairs of each batch, a pure function of seed and epoch. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from vse_tf.data.records import Record
from vse_tf.errors import UserError

# Columns of a sample: image row, caption index, and the two halves of the seed of its random view.
ROW, CAPTION, SEED_LOW, SEED_HIGH = range(4)


class Order:
    """Batches of (image row, caption index, view seed), reshuffled every epoch.

    The order depends on its arguments and the number of the epoch only, so any worker can start at any position of a
    run. Records of one group are next to each other, so they are in one batch if the batch size is a multiple of the
    size of the group.

    Args:
        records: the split's records, in row order.
        batch_size: number of pairs in a global batch; the remainder of an epoch is dropped.
        epoch_over: `captions` (each pair once) or `images` (each image once, one caption drawn).
        seed: seed of all epochs.

    Raises:
        UserError: an epoch has fewer pairs than a batch.

    Example:
        >>> records = [Record(f"{row}.jpg", ("a cat", "a pet"), "train", row) for row in range(6)]
        >>> Order(records, batch_size=4, epoch_over="captions", seed=0).epoch(0).shape
        (3, 4, 4)
    """

    def __init__(
        self,
        records: Sequence[Record],
        batch_size: int,
        epoch_over: Literal["captions", "images"],
        seed: int,
    ) -> None:
        self.batch_size = batch_size
        self.epoch_over = epoch_over
        self.seed = seed
        self._counts = np.array([len(record.captions) for record in records], np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        groups = [r.group if r.group is not None else -1 - i for i, r in enumerate(records)]
        self._groups = np.unique(np.array(groups, np.int64), return_inverse=True)[1]
        self._pairs = int(self._counts.sum()) if epoch_over == "captions" else len(records)
        self.steps_per_epoch = self._pairs // batch_size
        if not self.steps_per_epoch:
            raise UserError(
                f"train.batch_size: {batch_size} is more than the {self._pairs} pairs of an epoch over "
                f"{epoch_over}; choose at most {self._pairs}"
            )

    def epoch(self, number: int) -> np.ndarray:
        """The batches of an epoch, int32 `(steps, batch_size, 4)`.

        Args:
            number: the epoch, from 0.
        """
        rng = np.random.default_rng([self.seed, number])
        rows, captions, turns = self._draw_pairs(rng)
        # A unit is shuffled as one: the members of a group at the same turn.
        unit = np.unique(self._groups[rows] * (turns.max() + 1) + turns, return_inverse=True)[1]
        place = np.argsort(rng.permutation(unit.max() + 1)[unit], kind="stable")
        seeds = rng.integers(0, 2**31 - 1, (2, len(rows)))
        samples = np.stack([rows[place], captions[place], *seeds], axis=1).astype(np.int32)
        return samples[: self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, self.batch_size, 4)

    def _draw_pairs(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image row, caption index and turn (how often its image came before) of every pair, unshuffled."""
        if self.epoch_over == "images":
            rows = np.arange(len(self._counts))
            captions = self._starts + (rng.random(len(rows)) * self._counts).astype(np.int64)
            return rows, captions, np.zeros_like(rows)
        rows = np.repeat(np.arange(len(self._counts)), self._counts)
        shuffled = np.lexsort([rng.random(len(rows)), rows])
        turns = np.arange(len(rows)) - np.repeat(self._starts, self._counts)
        return rows, shuffled, turns
