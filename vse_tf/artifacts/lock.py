"""One process a run folder. No TensorFlow is imported here."""

from __future__ import annotations

import os
from pathlib import Path

from vse_tf.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"


class RunLock:
    """The right to write into a run folder.

    The lock belongs to the open file, so a killed process leaves none behind. Where the system has no such locks,
    everybody gets it.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._handle: int | None = None

    def acquire(self) -> None:
        """Take the lock, or keep it.

        Raises:
            UserError: another process has it, or the folder cannot be written.
        """
        if self._handle is not None or fcntl is None:
            return
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            raise UserError(
                f"train.run_dir: cannot write to {self.path.parent}: {error.strerror}; mend its permissions or "
                "choose another folder"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise UserError(
                f"train.run_dir: another process{f' ({holder})' if holder else ''} is training in "
                f"{self.path.parent}; wait for it, stop it, or choose another folder"
            ) from None
        except OSError:
            # A file system without locks.
            os.close(handle)
            return
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        self._handle = handle

    def release(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
