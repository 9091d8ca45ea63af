"""SIGTERM and Ctrl-C during training: the step is finished and saved, then the run ends. No TensorFlow is imported."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vse_tf.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalHandler:
    """Turns the first SIGTERM or Ctrl-C into an `Interrupted`, raised where no work is half done.

    A second signal ends the process at once, even during a long call into TensorFlow. A signal that was ignored before
    (Ctrl-C under `nohup`) stays ignored. Outside the main thread, where Python sets no handlers, nothing changes.

    Attributes:
        received: number of the signal that has arrived, or None.

    Example:
        with SignalHandler() as signals:
            read_data()  # a signal raises here at once
            with signals.deferred():
                step()
                signals.check()  # a signal that arrived during the step raises here
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._deferring = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalHandler:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self._previous = {number: was for number, was in handlers.items() if was is not signal.SIG_IGN}
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, also again where a library has replaced them."""
        if self.received is None:
            for number in self._previous:
                signal.signal(number, self._receive)

    def check(self) -> None:
        """Raise if a signal has arrived.

        Raises:
            Interrupted: a signal has arrived.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a signal waits for the next `check`."""
        with self._set(deferring=True):
            yield

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Inside a `deferred` block: no work is half done here, so a signal raises at once."""
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
        for other in self._previous:
            signal.signal(other, signal.SIG_DFL)
        self.received = number
        if not self._deferring:
            raise Interrupted(number)
