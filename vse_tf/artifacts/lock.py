"""One process a run folder. No TensorFlow is imported here."""

from __future__ import annotations

from pathlib import Path

from vse_tf.errors import UserError
from vse_tf.locks import BusyError, ProcessLock

NAME = ".lock"


class RunLock:
    """The right to write into a run folder.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = ProcessLock(folder / NAME)

    def acquire(self) -> None:
        """Take the lock, or keep it.

        Raises:
            UserError: another process has it, or the folder cannot be written.
        """
        try:
            self._lock.acquire()
        except BusyError as busy:
            raise UserError(
                f"train.run_dir: another process{busy.holder and f' ({busy.holder})'} is training in "
                f"{self.folder}; wait for it, stop it, or choose another folder"
            ) from None
        except OSError as error:
            raise UserError(
                f"train.run_dir: cannot write to {self.folder}: {error.strerror}; mend its permissions or "
                "choose another folder"
            ) from None

    def release(self) -> None:
        """Give it back."""
        self._lock.release()
