"""Writes files and folders atomically: readers see the old contents or the new ones. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, BinaryIO

from filelock import lock_descriptor

from vse_tf.errors import UserError
from vse_tf.files import file_errors, reason_of

if TYPE_CHECKING:
    import numpy as np

# A temporary file: `.<name>.<hexadecimal digits>.tmp`.
SUFFIX, _TOKEN = ".tmp", 8
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def atomic_folder(path: Path, advice: str) -> Iterator[Path]:
    """Write a folder under a temporary name and rename it when it is complete.

    After an error nothing is left; a killed process leaves a hidden `.<name>.writing`, which the next attempt removes.
    Until the rename an older folder at `path` stays unchanged.

    Args:
        path: the folder.
        advice: what to do when it cannot be written, for the message.

    Yields:
        The temporary folder, empty.

    Raises:
        UserError: it cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as run:
        ...     with atomic_folder(Path(run, "tokenizer"), "free some space and repeat") as folder:
        ...         _ = (folder / "vocabulary.txt").write_text("dog")
        ...     Path(run, "tokenizer", "vocabulary.txt").read_text()
        'dog'
    """
    temporary = path.with_name(f".{path.name}.writing")
    with file_errors(path, "written", advice):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
            # A folder with files cannot be renamed over: two renames, with hardly a moment between them.
            before = path.with_name(f".{path.name}.before")
            shutil.rmtree(before, ignore_errors=True)
            if path.exists():
                path.rename(before)
            temporary.rename(path)
            shutil.rmtree(before, ignore_errors=True)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file under a temporary name and rename it when it is complete.

    The temporary file is locked while it is written. A killed process leaves it without a lock, and the next writer of
    the same file removes it.

    Args:
        path: the file; its folder is made if it is missing.

    Yields:
        The temporary file, open for writing.

    Raises:
        OSError: it cannot be written; the old file stays.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as run:
        ...     with atomic_file(Path(run, "results.json")) as file:
        ...         _ = file.write(b"{}")
        ...     Path(run, "results.json").read_bytes()
        b'{}'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
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
    """Write a text file atomically.

    Args:
        path: the file; its folder is made if it is missing.
        text: its contents, written as UTF-8.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Write a JSON file atomically.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_array(file: BinaryIO, array: np.ndarray) -> None:
    """Write an array as a `.npy` file.

    On a full disk `np.save` into a file raises "49152 requested and 992 written", without the system's error.

    Raises:
        OSError: it cannot be written; `strerror` says why.
    """
    import numpy as np  # noqa: PLC0415 (a wrong option answers without it)

    # For an object that is not a file NumPy calls `write`.
    np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)


def remove_leftovers(folder: Path, name: str) -> None:
    """Remove temporary files that killed processes left.

    Args:
        folder: their folder.
        name: a pattern for the names of the files that were being written.
    """
    for path in folder.glob(f".{name}.{'[0-9a-f]' * _TOKEN}{SUFFIX}"):
        # Another process may be removing it too, or it may belong to another user.
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR | _FLAGS)
            try:
                if lock_descriptor(handle, blocking=False):
                    path.unlink()
            finally:
                os.close(handle)


def check_file(path: Path, option: str) -> None:
    """Check, before any work, that a file can be written.

    Args:
        path: the file; it may exist.
        option: the option that names it, for the message: `--output`.

    Raises:
        UserError: its folder is missing or cannot be written, or the path is not a file.
    """
    _refuse_address(path, option, "file")
    with option_errors(path, option, "name another file"):
        if not path.absolute().parent.is_dir():
            raise UserError(f"{option}: the folder {path.absolute().parent} does not exist")
        if path.exists() and not path.is_file():
            raise UserError(f"{option}: {path} is not a regular file; name another file")
        _try_writing(path)


def check_folder(path: Path, option: str) -> None:
    """Check, before any work, that files can be written into a folder; it is not created.

    Args:
        path: the folder; it may be missing.
        option: the option that names it, for the message.

    Raises:
        UserError: it cannot be written, or the path is not a folder.
    """
    _refuse_address(path, option, "folder")
    with option_errors(path, option, "mend that, or name another folder"):
        path = path.absolute()
        existing = next(folder for folder in (path, *path.parents) if folder.is_symlink() or folder.exists())
        if not existing.is_dir():
            raise UserError(f"{option}: {existing} is not a folder; name a folder")
        # A missing folder's name is tried too: it may be too long.
        _try_writing(existing / ("folder" if existing == path else path.relative_to(existing).parts[0]))


def _refuse_address(path: Path, option: str, kind: str) -> None:
    """Refuse the address of a bucket where only local files are written: `pathlib` has made one slash of two."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!$)", path.as_posix()) and not path.is_absolute():
        raise UserError(f"{option}: an address takes no such output; name a local {kind}, and copy it from there")


@contextlib.contextmanager
def option_errors(path: Path, option: str, advice: str) -> Iterator[None]:
    """Turn errors of the file system inside the block into one line that begins with the option to change.

    Args:
        path: the file or folder that is written.
        option: the option that names it.
        advice: what to do.

    Raises:
        UserError: the block raised an `OSError` or `ValueError`.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: cannot write to {path}: {reason_of(error)}; {advice}") from None


def _try_writing(path: Path) -> None:
    temporary, file = _temporary(path)
    file.close()
    temporary.unlink()


def _temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of `path`, locked so that `remove_leftovers` does not remove it."""
    while True:
        # Not mkstemp: only their owner can read its files.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN // 2)}{SUFFIX}")
        file = os.fdopen(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666), "wb")
        # A file system without locks: `remove_leftovers` removes nothing there.
        with contextlib.suppress(OSError):
            lock_descriptor(file.fileno())
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        # Another process removed it between its creation and its lock.
        file.close()


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
