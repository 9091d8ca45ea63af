"""Errors that end a command in one line without a traceback: a user's mistake, or a signal to stop."""

from __future__ import annotations

import errno
import gc
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable

# Lines of a trace that TensorFlow puts before its message, and what it puts around the message.
_TRACE = re.compile(r"Graph execution error:|Detected at node|  File |    |<stack traces|\d+ root error")
_AROUND = re.compile(r"^\s*\(\d+\) [A-Z_]+: |\{\{[^}]*\}\}|\[\[.*|\[Op:.*")


class UserError(Exception):
    """A mistake that the user can correct.

    The message is one line that says what is wrong, where (file, line, key) and what to do. Commands print it and
    exit with code 2; library callers catch it like any exception.

    Example:
        raise UserError("captions.csv: line 7: empty caption; fill it in or pass --data.on_bad skip")
    """


class Interrupted(KeyboardInterrupt):
    """A signal asked a command to stop; it has stored its state.

    Args:
        number: number of the signal.
        message: what has been stored and how to continue, one line.

    Attributes:
        code: exit code of the command, 128 + the signal's number as shells have it: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, number: int, message: str = "") -> None:
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"stopped by {name}{message and '; '}{message}")
        self.number = number
        self.code = 128 + number


def shell_path(path: str | os.PathLike[str]) -> str:
    """A path for a command that a message prints: quoted, so that the command can be pasted into a shell.

    Args:
        path: the path; one with control characters, which a terminal would obey, comes back escaped.

    Example:
        >>> shell_path("My Drive/run 1")
        "'My Drive/run 1'"
    """
    text = os.fspath(path)
    return shlex.quote(text) if text.isprintable() else ascii(text)[:200]


def tensorflow_reason(error: Exception) -> str:
    """The message of a TensorFlow error in one line, without the trace, nodes and operations around it.

    Args:
        error: the error; of any other kind its first line is taken.

    Example:
        >>> tensorflow_reason(ValueError("{{function_node f}} invalid JPEG data\\n\\t [[{{node g}}]] [Op:f]"))
        'invalid JPEG data'
    """
    text = str(getattr(error, "message", "") or error)
    lines = (_AROUND.sub("", line).strip() for line in text.splitlines() if not _TRACE.match(line))
    return next(filter(None, lines), type(error).__name__)


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function; errors meant for the user become one line on stderr and an exit code.

    Args:
        main: the command; it takes no arguments (the command reads `sys.argv` itself).
    """
    try:
        main()
    except UserError as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        # Whoever read the output, `head` for instance, has left; the interpreter would complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        full = _full_disk(error)
        if not full:
            raise
        print(f"error: {_line(full)}; free some space and repeat", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt as stop:
        stop = stop if isinstance(stop, Interrupted) else Interrupted(signal.SIGINT)
        print(_line(stop), file=sys.stderr)
        raise SystemExit(stop.code) from None
    finally:
        # The interpreter ends by collecting garbage, which takes seconds with all of TensorFlow's objects.
        gc.freeze()


def _full_disk(error: Exception) -> str:
    """What the error says of a full disk: any file may be the one that does not fit, temporary ones too."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or ''}: {os.strerror(error.errno)}".removeprefix(": ")
    # TensorFlow's errors have it in their text.
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else ""


def _line(error: BaseException | str) -> str:
    return " ".join(str(error).split())
