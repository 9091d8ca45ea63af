"""SIGTERM and Ctrl-C: the step is finished and kept, then the run leaves. No TensorFlow is imported here."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vse_tf.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Turns the first SIGTERM or Ctrl-C into an `Interrupted` at a moment when nothing is half done.

    A second one ends the process at once, also out of a long call into TensorFlow. A signal that was ignored before
    (Ctrl-C under `nohup`) stays so, and outside of the main thread, where Python sets no handlers, nothing changes.

    Attributes:
        requested: number of the signal that has arrived, or None.

    Example:
        >>> with Interruption() as interruption:
        ...     read_data()  # leaves at once
        ...     with interruption.deferred():
        ...         step()
        ...         interruption.check()  # leaves here
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.getsignal(number) for number in heard}
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Listen, or do so again where a library has taken the signals over behind Python's back."""
        if self.requested is None:
            for number in self._before:
                signal.signal(number, self._receive)

    def check(self) -> None:
        """Leave if that has been asked for.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self.requested is not None:
            raise Interrupted(self.requested)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal waits for the next `check`."""
        with self._set(deferring=True):
            yield

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside a `deferred` block: nothing is half done here, a signal need not wait."""
        with self._set(deferring=False):
            self.check()
            yield

    @contextmanager
    def _set(self, deferring: bool) -> Iterator[None]:
        before, self._deferring = self._deferring, deferring
        try:
            yield
        finally:
            self._deferring = before

    def _receive(self, number: int, _: FrameType | None) -> None:
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        self.requested = number
        if not self._deferring:
            raise Interrupted(number)
