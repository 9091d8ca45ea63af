"""Images that break while training or measuring: replaced and counted, or the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from vse_tf.config import OnBad
from vse_tf.data.image_limits import MAX_BYTES
from vse_tf.data.images import decode
from vse_tf.data.records import FileImages, Images, Problem
from vse_tf.errors import UserError
from vse_tf.files import read_regular

# Other images tried in a broken one's place before the run gives up.
ALTERNATES = 4


class BadImages:
    """Watches which images were wanted and which were got, and applies `data.on_bad` to the difference.

    Args:
        on_bad: `fail` stops at the first broken image, `skip` counts it.
        max_pixels: `data.max_pixels`.
        note: called once for each newly found problem.
        remedy: the option that leaves such images out, for the message.

    Attributes:
        problems: the problem of each broken image, by path.
        error: the error that stopped the reading, since `tf.data` hides it behind one of its own.
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

    def watch(self, images: Images, wanted: tf.Tensor, got: tf.Tensor, needed: bool) -> tf.Tensor:
        """Compare wanted and got rows of a batch inside a `tf.data` graph; gives back the got rows.

        Args:
            images: where the rows come from.
            wanted: int32 `(batch,)`.
            got: int32 `(batch,)`; −1 where neither the image nor a replacement could be read.
            needed: a −1 is an error even under `skip`, because an epoch's length is fixed.
        """
        if not isinstance(images, FileImages):
            return got

        def compare(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
            for want, have in zip(wanted, got, strict=True):
                if want != have:
                    self.broken(images.paths[want])
                if have < 0 and needed:
                    self._stop(f"{images.paths[want]}: neither it nor {ALTERNATES} other images could be read")
            return got

        checked = tf.numpy_function(compare, [wanted, got], tf.int32, stateful=False)
        checked.set_shape(got.shape)
        return checked

    def reason(self, path: str) -> str:
        """Why the image cannot be used."""
        try:
            decode(read_regular(path, MAX_BYTES), self.max_pixels)
        except FileNotFoundError:
            return "missing image"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        except (tf.errors.OpError, ValueError) as error:
            return f"undecodable: {_first_line(error)}"
        return "could not be read a moment ago"

    def raised(self, error: Exception) -> Exception:
        """The user's error behind an error that came out of `tf.data`, or the error itself."""
        return self.error or error

    def broken(self, path: str) -> None:
        """Apply `data.on_bad` to an image that could not be read.

        Raises:
            UserError: `on_bad` is `fail`.
        """
        if path in self.problems:
            return
        problem = Problem(path, self.reason(path))
        if self.on_bad == "fail":
            self._stop(f"{problem}; mend it, or leave such images out with {self.remedy}")
        self.problems[path] = problem
        if self.note:
            self.note(problem)

    def _stop(self, message: str) -> None:
        self.error = UserError(message)
        raise self.error


def _first_line(error: Any) -> str:
    text = getattr(error, "message", None) or str(error)
    text = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return text.split("{{")[-1].split("}} ")[-1].split(" [Op:")[0]
