"""What a command shows while it works: a named phase or a bar on a terminal and in a notebook, one line in a log file.

No TensorFlow is imported here.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar

with warnings.catch_warnings():
    # In a notebook without ipywidgets, tqdm asks for an update of Jupyter; its bar is one of text then.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

Item = TypeVar("Item")

DELAY = 0.5
"""Seconds before something is shown; what is faster leaves no trace."""
TICK = 1.0
"""Seconds between two refreshes: the clock moves although nothing is counted."""
REPORT = 600.0
"""Seconds between two lines of one phase in a log file."""

_open: list[Phase] = []


class Phase:
    """Something that takes a while; enter it. Inside another one it becomes a part of that one's line.

    Args:
        name: what is done.
        total: number of units; None if they are not counted.
        unit: what is counted, in the plural.
        initial: units that were done before.

    Attributes:
        done: number of units that are done.
        note: shown at the end of the line (default: the time that is left).
    """

    def __init__(self, name: str, total: int | None = None, unit: str = "", initial: int = 0) -> None:
        self.name, self.total, self.unit, self.initial = name, total, unit, initial
        self.done, self.note = initial, ""
        self.part: Phase | None = None
        self._outer: Phase | None = None
        self._over = threading.Event()
        self._bar: tqdm[Any] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Phase:
        self._begin = time.time()
        if _open:
            self._outer = _open[-1]
            self._outer.part = self
        else:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        _open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        # An error may have left parts open.
        del _open[_open.index(self) :]
        self._over.set()
        self.part = None
        if self._outer is not None:
            self._outer.part = None
        if self._thread is not None:
            self._thread.join()
        if self._bar is not None:
            self._describe()
            if self.done == self.total:
                self._bar.set_postfix_str("", refresh=False)
            self._bar.close()

    def update(self, count: int = 1) -> None:
        """Count units that are done."""
        self.done += count
        if self._bar is not None:
            self._describe()
            self._bar.update(0)

    @property
    def title(self) -> str:
        """The name, with the part that is being done."""
        if self.part is None:
            return self.name
        share = f" {100 * self.part.done // self.part.total} %" if self.part.total else ""
        return f"{self.name}: {self.part.title}{share}"

    @property
    def remaining(self) -> str:
        """The time that is left, at the pace so far."""
        done, seconds = self.done - self.initial, time.time() - self._begin
        if not self.total or not done:
            return ""
        return f"{duration(seconds / done * (self.total - self.done))} left"

    def _tick(self) -> None:
        """Refresh the bar, or write a line now and then, until the phase is over."""
        with suppress(OSError, ValueError):  # whoever read standard error has left
            if self._over.wait(DELAY):
                return
            if not moving():
                counted = "" if self.total is None else f": {self.total} {self.unit}"
                say(f"{self.name}{counted}", sys.stderr)
                while not self._over.wait(REPORT):
                    counted = "" if self.total is None else f": {self.done} of {self.total} {self.unit}"
                    say(", ".join(filter(None, [f"{self.title}{counted}", self.note or self.remaining])), sys.stderr)
                return
            self._bar = self._new_bar()
            while True:
                self._describe()
                self._bar.refresh()
                if self._over.wait(TICK):
                    return

    def _new_bar(self) -> tqdm[Any]:
        counted = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"
        bar = tqdm(
            desc=self.title,
            total=self.total,
            unit=self.unit,
            initial=self.done,
            bar_format="{desc} [{elapsed}]" if self.total is None else counted,
            # In a notebook, standard error is red.
            file=sys.stdout if in_notebook() else sys.stderr,
            mininterval=0.2,
            miniters=1,
            # Where the terminal has no size, tqdm shows nothing unless it is given one.
            **({"dynamic_ncols": True} if has_size() else {"ncols": 80, "nrows": 20}),
            leave=self.total is not None,
        )
        bar.start_t = self._begin
        return bar

    def _describe(self) -> None:
        assert self._bar is not None
        # Not by its own count: some units were done while the bar was made.
        self._bar.n = self.done
        self._bar.set_description_str(self.title, refresh=False)
        self._bar.set_postfix_str(self.note or self.remaining, refresh=False)


@contextmanager
def phase_if(shown: bool, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
    """A phase, entered; without `shown` it is counted and not displayed."""
    one = Phase(name, total, unit)
    if shown:
        with one:
            yield one
    else:
        yield one


def part(name: str) -> AbstractContextManager[object]:
    """A phase inside another one; without one that is open, nothing is shown.

    Args:
        name: what is done.
    """
    return Phase(name) if _open else nullcontext()


def track(items: Iterable[Item], name: str, unit: str, shown: bool = True) -> Iterator[Item]:
    """The items, counted by a bar.

    Args:
        items: what is iterated over; with a length the bar has an end.
        name: what is done.
        unit: what is counted, in the plural.
        shown: show the bar.

    Example:
        >>> list(track([1, 2], "adding", "numbers"))
        [1, 2]
    """
    with phase_if(shown, name, len(items) if isinstance(items, Sized) else None, unit) as one:
        for item in items:
            yield item
            one.update()


def say(line: str, file: Any = None) -> None:
    """Print a line, above the bar if there is one.

    Args:
        line: the line.
        file: where to (default: standard output).
    """
    with tqdm.external_write_mode(file=file or sys.stdout):
        print(line, file=file or sys.stdout, flush=True)


def duration(seconds: float) -> str:
    """A time for people.

    Example:
        >>> duration(7.2), duration(700), duration(8000)
        ('7 s', '12 min', '2 h 13 min')
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def moving() -> bool:
    """Whether lines can move: on a terminal and in a notebook, not in a file."""
    return sys.stderr.isatty() or in_notebook()


def has_size() -> bool:
    """Whether the terminal says how large it is; those of containers and services often do not."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError, AttributeError):
        return in_notebook()


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    # Colab's is derived from it.
    kinds = type(shell.get_ipython()).__mro__ if shell is not None else ()
    return any(kind.__name__ == "ZMQInteractiveShell" for kind in kinds)
