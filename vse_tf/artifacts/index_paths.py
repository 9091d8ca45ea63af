"""The paths of an index: written so that they say nothing of the machine, read without trusting who wrote them."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path

from vse_tf.data.sources.files import short_repr


class OutsideError(OSError):
    """A file that an index names, which is not opened unless the user names its folder."""


def relative(path: str | Path, folder: Path) -> str | None:
    """A path as seen from an index's folder.

    Args:
        path: absolute, or relative to the working folder.
        folder: the index's folder.

    Returns:
        The relative path, with `/`; None where the two share no folder but the root of the file system, for the way
        from there would be the absolute path.

    Example:
        >>> relative("/data/photos", Path("/data/photos.index"))
        '../photos'
    """
    path, here = os.path.realpath(path), os.path.realpath(folder)
    try:
        shared = os.path.commonpath([path, here])
    except ValueError:  # two drives
        return None
    return None if os.path.dirname(shared) == shared else Path(os.path.relpath(path, here)).as_posix()  # noqa: PTH120


def absolute(path: str, folder: Path) -> str:
    """The path that `relative` wrote, where the index's folder is now; one that is absolute already stays."""
    return os.path.normpath(os.path.join(os.path.realpath(folder), path))  # noqa: PTH118


def own_file(folder: Path, name: str) -> Path:
    """A file of an index, where it truly is. Links may lead as far as the folder that the index's folder lies in.

    Raises:
        OSError: it is a link to somewhere else.
        ValueError: the name is none that a file can have.
    """
    parent = Path(os.path.realpath(folder)).parent
    found = Path(os.path.realpath(folder / name))
    if not found.is_relative_to(parent):
        raise OSError(errno.EPERM, f"a link out of {parent}", str(folder / name))
    return found


class PhotoFolder:
    """The folder that an index's photo paths are below, and which files may be opened as its photos.

    Where the user has named the folder, its photos are the files whose paths lie below it as they are written; links
    are followed. Where the index names it, they are the files that truly lie below the index's parent folder.

    Args:
        index: the index's folder.
        written: what the index says.
        named: what the user says.
        name: what the folder was called.

    Attributes:
        root: the folder; None where nobody says it.

    Example:
        >>> PhotoFolder(Path("/data/photos.index"), "../photos").file("a.jpg")
        PosixPath('/data/photos/a.jpg')
    """

    def __init__(
        self, index: Path, written: str | None, named: str | Path | None = None, name: str | None = None
    ) -> None:
        self.index = index
        self.name = name
        self.named = named is not None
        self.root = str(named) if named is not None else None if written is None else absolute(written, index)

    def path(self, name: str) -> Path:
        """Where a photo is, for messages."""
        return Path(self.root or "", name)

    def file(self, name: str) -> Path:
        """Where a photo is, to open it.

        Raises:
            OutsideError: it must not be opened; the message says what `--root` would be.
            ValueError: the name is none that a file can have.
        """
        if self.named:
            root = os.path.abspath(self.root or "")  # noqa: PTH100
            path = Path(os.path.normpath(os.path.join(root, name)))  # noqa: PTH118
            if not path.is_relative_to(root):
                raise OutsideError(
                    errno.EPERM, f"its path does not lie below --root {short_repr(root)}", short_repr(name)
                )
            return path
        if self.root is None and not Path(name).is_absolute():
            called = f" (it was called {short_repr(self.name)})" if self.name else ""
            say = f"{self.index} does not say where its photos are; name their folder with --root{called}"
            raise OutsideError(errno.EPERM, say, short_repr(name))
        parent = Path(os.path.realpath(self.index)).parent
        path = Path(os.path.realpath(self.path(name)))
        if not path.is_relative_to(parent):
            folder = self.root or str(Path(name).parent)
            say = f"it lies outside of {parent}; if you trust the index, name its folder: --root {typed(folder)}"
            raise OutsideError(errno.EPERM, say, short_repr(name))
        return path


def typed(path: str) -> str:
    """A path as one types it; one with characters that a terminal obeys is only shown."""
    return shlex.quote(path) if path.isprintable() else short_repr(path)
