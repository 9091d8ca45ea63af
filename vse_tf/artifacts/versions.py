"""Version folders: written beside under a name that no server loads, renamed in one step. No TensorFlow here."""

from __future__ import annotations

import contextlib
import errno
import re
import secrets
import shutil
import time
from pathlib import Path
from types import TracebackType

from vse_tf.atomic import sync
from vse_tf.errors import UserError

BESIDE = ".export-"
# A killed export leaves its hidden folder; one that nobody has written to for so long belongs to no running export.
STALE_SECONDS = 24 * 3600


class Release:
    """New versions of one or several models that appear together, under one number.

    A server loads the sub-folders of a model's folder whose names are integers. Each model is first written to a hidden
    folder beside them; `publish` renames all, the number being one above the largest that any of the models has: equal
    numbers tell that two towers are of one space. Nothing that exists is overwritten. Leaving the `with` block
    without `publish` removes the hidden folders.

    Args:
        root: the folder of all models.
        names: the models' names.

    Raises:
        UserError: the folder cannot be written.

    Example:
        >>> with Release(Path("models"), ["image_tower", "text_tower"]) as release:
        ...     for name in release.names:
        ...         tf.saved_model.save(modules[name], str(release.beside(name)))
        ...     release.publish()
        [PosixPath('models/image_tower/1'), PosixPath('models/text_tower/1')]
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names
        self._made = not root.exists()
        self._token = f"{BESIDE}{secrets.token_hex(4)}"

    def __enter__(self) -> Release:
        try:
            for name in self.names:
                self.beside(name).mkdir(parents=True)
                _sweep(self.root / name)
        except OSError as error:
            self._remove()
            raise unwritable(self.root, error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def beside(self, name: str) -> Path:
        """The hidden folder that a model is written to."""
        return self.root / name / self._token

    def publish(self) -> list[Path]:
        """Give the hidden folders their number, when all of their contents have reached the disk.

        Returns:
            The version folders in the order of the names.

        Raises:
            UserError: a folder cannot be written out or renamed; none is then left behind.
        """
        self._sync()
        number = 1 + max(version for name in self.names for version in (0, *versions(self.root / name)))
        while True:
            done: list[str] = []
            try:
                for name in self.names:
                    self.beside(name).rename(self.root / name / str(number))
                    done.append(name)
                return [self.root / name / str(number) for name in self.names]
            except OSError as error:
                for name in done:
                    (self.root / name / str(number)).rename(self.beside(name))
                # A folder with files is never renamed over: another export has just taken this number.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise unwritable(self.root, error) from None
                number += 1

    def _sync(self) -> None:
        # Writing is buffered: a full disk may show only here, and a machine that loses power would lose the rest.
        try:
            for name in self.names:
                for path in (*self.beside(name).rglob("*"), self.beside(name)):
                    sync(path)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def _remove(self) -> None:
        for name in self.names:
            shutil.rmtree(self.beside(name), ignore_errors=True)
            _remove_if_empty(self.root / name)
        if self._made:
            _remove_if_empty(self.root)


def versions(model: Path) -> list[int]:
    """The versions of a model that a server sees, rising.

    Example:
        >>> versions(Path("models/image_tower"))
        [1, 2]
    """
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if re.fullmatch("[0-9]+", path.name))


def unwritable(path: Path, error: BaseException) -> UserError:
    """The user's error of a folder that cannot be written, full or forbidden."""
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return UserError(f"--output: cannot write to {path}: {' '.join(reason.split())[:300]}; nothing was published")


def _sweep(model: Path) -> None:
    """Remove what killed exports left."""
    for path in model.glob(f"{BESIDE}*"):
        with contextlib.suppress(OSError):  # another export may be removing it too
            newest = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if newest < time.time() - STALE_SECONDS:
                shutil.rmtree(path)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
