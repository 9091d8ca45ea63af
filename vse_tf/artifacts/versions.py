"""Version folders: written under a name that no server loads, then renamed. No TensorFlow is imported here."""

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

TEMPORARY = ".export-"
# A killed export leaves its temporary folder; after this time without a change no export is writing to it.
STALE_SECONDS = 24 * 3600


class Release:
    """New versions of one or more models that appear together, with the same number.

    A server loads the subfolders of a model's folder whose names are integers. Each model is first written to a hidden
    temporary folder next to them; `publish` renames these to the largest version number of any of the models plus one.
    Towers with equal numbers therefore belong to one space. Nothing is overwritten. Leaving the `with` block without
    `publish` removes the temporary folders.

    Args:
        root: the folder of all models.
        names: the models' names.

    Raises:
        UserError: the folder cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as models, Release(Path(models), ["image_tower", "text_tower"]) as release:
        ...     for name in release.names:
        ...         _ = (release.folder(name) / "saved_model.pb").write_bytes(b"")
        ...     release.publish()
        [PosixPath('/.../image_tower/1'), PosixPath('/.../text_tower/1')]
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names
        self._made = not root.exists()
        self._token = f"{TEMPORARY}{secrets.token_hex(4)}"

    def __enter__(self) -> Release:
        try:
            for name in self.names:
                self.folder(name).mkdir(parents=True)
                _sweep(self.root / name)
        except OSError as error:
            self._remove()
            raise unwritable(self.root, error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def folder(self, name: str) -> Path:
        """The temporary folder of a model."""
        return self.root / name / self._token

    def publish(self) -> list[Path]:
        """Flush the temporary folders to the disk and rename them to their version number.

        Returns:
            The version folders in the order of the names.

        Raises:
            UserError: a folder cannot be flushed or renamed; then no version is left.
        """
        self._sync()
        number = 1 + max(version for name in self.names for version in (0, *versions(self.root / name)))
        while True:
            done: list[str] = []
            try:
                for name in self.names:
                    self.folder(name).rename(self.root / name / str(number))
                    done.append(name)
                return [self.root / name / str(number) for name in self.names]
            except OSError as error:
                for name in done:
                    (self.root / name / str(number)).rename(self.folder(name))
                # Renaming never replaces a folder with files: another export has taken this number.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise unwritable(self.root, error) from None
                number += 1

    def _sync(self) -> None:
        # Writes are buffered: a full disk may show only here, and without it a power failure could lose contents.
        try:
            for name in self.names:
                for path in (*self.folder(name).rglob("*"), self.folder(name)):
                    sync(path)
        except OSError as error:
            raise unwritable(self.root, error) from None

    def _remove(self) -> None:
        for name in self.names:
            shutil.rmtree(self.folder(name), ignore_errors=True)
            _remove_if_empty(self.root / name)
        if self._made:
            _remove_if_empty(self.root)


def versions(model: Path) -> list[int]:
    """The versions of a model that a server sees, in increasing order.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as model:
        ...     for name in ("10", "2", "notes"):
        ...         Path(model, name).mkdir()
        ...     versions(Path(model))
        [2, 10]
    """
    if not model.is_dir():
        return []
    return sorted(int(path.name) for path in model.iterdir() if re.fullmatch("[0-9]+", path.name))


def unwritable(path: Path, error: BaseException) -> UserError:
    """The error of an output folder that cannot be written."""
    reason = getattr(error, "strerror", None) or getattr(error, "message", None) or str(error)
    return UserError(f"--output: cannot write to {path}: {' '.join(reason.split())[:300]}; nothing was published")


def _sweep(model: Path) -> None:
    """Remove the folders that killed exports left."""
    for path in model.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(OSError):  # another export may be removing it too
            newest = max(part.stat().st_mtime for part in (path, *path.rglob("*")))
            if newest < time.time() - STALE_SECONDS:
                shutil.rmtree(path)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
