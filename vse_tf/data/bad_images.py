"""Images that cannot be read in training or evaluation: replaced and counted, or an error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from vse_tf.config import OnBad
from vse_tf.data.records import EncodedImages, Images, Problem, unreadable
from vse_tf.errors import UserError, tensorflow_reason
from vse_tf.preprocessing.images import decode

# Number of other images that are tried in place of a broken one before the run stops.
ALTERNATES = 4


class BadImages:
    """Compares the images that were wanted with those that could be read, and applies `data.on_bad`.

    Args:
        on_bad: `fail` stops at the first broken image, `skip` counts them.
        max_pixels: `data.max_pixels`.
        note: called once with each new problem.
        remedy: the option that skips such images, for the message.

    Attributes:
        problems: the problem of each broken image, by name.
        error: the error that stopped the reading; `tf.data` raises one of its own in its place.
    """

    def __init__(
        self,
        on_bad: OnBad,
        max_pixels: int,
        note: Callable[[Problem], None] | None = None,
        remedy: str = "--data.on_bad skip",
    ) -> None:
        self.on_bad = on_bad
        self.max_pixels = max_pixels
        self.note = note
        self.remedy = remedy
        self.problems: dict[str, Problem] = {}
        self.error: UserError | None = None

    def watch(self, images: Images, wanted: tf.Tensor, got: tf.Tensor) -> tf.Tensor:
        """Compare wanted and got rows of a batch inside a `tf.data` graph; returns the got rows.

        Args:
            images: where the rows come from.
            wanted: int32 `(batch,)`.
            got: int32 `(batch,)`; −1 where neither the image nor a replacement could be read, which is an error even
                with `skip`: the length of an epoch is fixed.
        """
        if not isinstance(images, EncodedImages):
            return got

        def compare(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
            for want, have in zip(wanted, got, strict=True):
                if want != have:
                    self.broken(images, int(want))
                if have < 0:
                    self._stop(f"{images.names[want]}: neither it nor {ALTERNATES} other images could be read")
            return got

        checked = tf.numpy_function(compare, [wanted, got], tf.int32, stateful=False)
        checked.set_shape(got.shape)
        return checked

    def reason(self, images: EncodedImages, row: int) -> str:
        """Why the image cannot be used."""
        try:
            decode(tf.constant(images.read(row)), self.max_pixels)
        except OSError as error:
            return unreadable(error)
        except (tf.errors.OpError, ValueError) as error:
            return f"undecodable: {tensorflow_reason(error)}"
        return "could not be read a moment ago"

    def raised(self, error: Exception) -> Exception:
        """The user's error behind an error that came out of `tf.data`, or the error itself."""
        return self.error or error

    def broken(self, images: EncodedImages, row: int) -> None:
        """Apply `data.on_bad` to an image that could not be read.

        Raises:
            UserError: `on_bad` is `fail`.
        """
        name = images.names[row]
        if name in self.problems:
            return
        problem = Problem(name, self.reason(images, row))
        if self.on_bad == "fail":
            self._stop(f"{problem}; fix it, or skip such images with {self.remedy}")
        self.problems[name] = problem
        if self.note:
            self.note(problem)

    def _stop(self, message: str) -> None:
        self.error = UserError(message)
        raise self.error
