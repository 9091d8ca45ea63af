"""Files and folders that are there whole or not at all. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO

from filelock import lock_descriptor

from vse_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# A temporary file: `.<name>.<hexadecimal digits>.tmp`.
SUFFIX, _TOKEN = ".tmp", 8
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def whole_folder(path: Path, what: str, advice: str) -> Iterator[Path]:
    """Write a folder beside its place and rename it when it is complete.

    A killed process leaves at most a hidden `.<name>.writing`, which the next attempt removes; a failed one (a full
    disk, say) leaves nothing, and what stood at `path` stays until the new folder takes its place.

    Args:
        path: where the folder shall be.
        what: what it is, for the message.
        advice: what to do when it cannot be written, for the message.

    Yields:
        The empty folder to write into.

    Raises:
        UserError: it cannot be written.

    Example:
        >>> with whole_folder(Path("models/image/1"), "the export", "free some space and export again") as folder:
        ...     model.export(folder)
    """
    beside = path.with_name(f".{path.name}.writing")
    with writing(path, what, advice):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            yield beside
            for file in beside.rglob("*"):
                sync(file)
            if path.exists():
                # Two renames, so that hardly a moment passes without a folder here.
                before = path.with_name(f".{path.name}.before")
                shutil.rmtree(before, ignore_errors=True)
                path.rename(before)
                beside.rename(path)
                shutil.rmtree(before, ignore_errors=True)
            else:
                beside.rename(path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


@contextlib.contextmanager
def writing(path: Path, what: str, advice: str) -> Iterator[None]:
    """Turn a failure of the file system inside the block into one line.

    Args:
        path: what is being written.
        what: what it is, for the message.
        advice: what to do, for the message.

    Raises:
        UserError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot write {what} ({error.strerror or error}); {advice}") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Replace a file in one step: a reader sees the old contents or the new ones, never a part.

    The temporary file beside it is locked while it is written; what a killed process left is not, and is removed by the
    next writer of the same file.

    Args:
        path: the file; its folder is made if it is missing.

    Yields:
        The temporary file, open for writing; it becomes `path` when the block ends.

    Raises:
        OSError: it cannot be written; the old file stays.

    Example:
        >>> with replacing(Path("results.json")) as file:
        ...     file.write(b"{}")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_over(path.parent, glob.escape(path.name))
    temporary, file = _temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":
                # Windows renames no open file.
                file.close()
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step.

    Args:
        path: the file; its folder is made if it is missing.
        text: its contents, written as UTF-8.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    with replacing(path) as file:
        file.write(text.encode())


def write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Write an array as a `.npy` file.

    NumPy's own way into an open file says "49152 requested and 992 written" of a full disk.

    Raises:
        OSError: it cannot be written; `strerror` says why.
    """
    import numpy as np  # noqa: PLC0415 (a wrong option answers without it)

    # Whatever has `write` and is no file gets its bytes piece by piece.
    np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def remove_left_over(folder: Path, name: str) -> None:
    """Remove temporary files that killed processes left.

    Args:
        folder: where they are.
        name: of the files that they were to become; a pattern.
    """
    for path in folder.glob(f".{name}.{'[0-9a-f]' * _TOKEN}{SUFFIX}"):
        # Another process may be removing it too; it may be somebody else's.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | _FLAGS)
            try:
                if lock_descriptor(handle, blocking=False):
                    path.unlink()
            finally:
                os.close(handle)


def check_file(path: Path, option: str) -> None:
    """Find out, before any work, whether a file can be written.

    Args:
        path: the file; it may be there already.
        option: what named it, for the message: `--output`.

    Raises:
        UserError: its folder is missing or cannot be written, or something else than a file is in its place.
    """
    with _refusing(path, option, "name another file"):
        if not path.absolute().parent.is_dir():
            raise UserError(f"{option}: the folder {path.absolute().parent} does not exist")
        if path.exists() and not path.is_file():
            raise UserError(f"{option}: {path} is not a regular file; name another file")
        _try_out(path)


def check_folder(path: Path, option: str) -> None:
    """Find out, before any work, whether files can be written into a folder, or the folder be made.

    Args:
        path: the folder.
        option: what named it, for the message.

    Raises:
        UserError: it cannot be written, or something else than a folder is in its place.
    """
    with _refusing(path, option, "mend that, or name another folder"):
        path = path.absolute()
        there = next(folder for folder in (path, *path.parents) if folder.is_symlink() or folder.exists())
        if not there.is_dir():
            raise UserError(f"{option}: {there} is not a folder; name a folder")
        # A missing folder's name is tried too: it may be too long.
        _try_out(there / ("folder" if there == path else path.relative_to(there).parts[0]))


@contextlib.contextmanager
def _refusing(path: Path, option: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{option}: cannot write to {path}: {reason}; {advice}") from None


def _try_out(path: Path) -> None:
    temporary, file = _temporary(path)
    file.close()
    temporary.unlink()


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file beside `path`, locked against `remove_left_over`."""
    while True:
        # Not mkstemp, whose files are one user's only.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN // 2)}{SUFFIX}")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666), "wb")
        # Where the file system has no locks, nothing is removed either.
        with contextlib.suppress(OSError):
            lock_descriptor(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        # Removed by somebody who came between making and locking it.
        file.close()


def sync(path: Path) -> None:
    """Hand a file's (or a folder's list's) contents over to the disk, where the system can."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
