"""The error that is a user's mistake: one line, exit code 2, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something that the person at the keyboard can put right.

    The message is one line that says what is wrong, where (file, line, key) and what to do. Commands print it and
    exit with code 2; library callers catch it like any exception.

    Example:
        >>> raise UserError("captions.csv: line 7: empty caption; fill it in or pass --data.on_bad skip")
    """


def run_command(main: Callable[[], None]) -> None:
    """Run a command's main function and turn a `UserError` into one line on stderr and exit code 2.

    Args:
        main: the command; it takes no arguments (the command reads `sys.argv` itself).
    """
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
