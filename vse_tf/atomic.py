"""Files and folders that are there whole or not at all. Standard library only."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vse_tf.errors import UserError


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


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part.

    Args:
        path: the file; its folder is made if it is missing.
        text: its contents, written as UTF-8.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, since several processes share a cache folder; not mkstemp, whose files are one user's only.
    beside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Hand a file's (or a folder's list's) contents over to the disk, where the system can."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
