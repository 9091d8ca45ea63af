"""The paths of an index: written relative to it, without folders of the machine; read without trusting the writer."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from vse_tf.addresses import is_address
from vse_tf.data.sources.files import short_repr
from vse_tf.errors import UserError, shell_path


class OutsideError(OSError):
    """A file that an index names and that is only opened if the user names its folder."""


def relative(path: str | Path, folder: Path) -> str | None:
    """A path relative to an index's folder.

    Args:
        path: absolute, or relative to the working folder.
        folder: the index's folder.

    Returns:
        The relative path, with `/`; None if the two share only the root of the file system, since the path would then
        hold all folders of the machine.

    Example:
        >>> relative("/data/images", Path("/data/images.index"))
        '../images'
    """
    path, here = os.path.realpath(path), os.path.realpath(folder)
    try:
        shared = os.path.commonpath([path, here])
    except ValueError:  # two drives
        return None
    return None if os.path.dirname(shared) == shared else Path(os.path.relpath(path, here)).as_posix()  # noqa: PTH120


def absolute(path: str, folder: Path) -> str:
    """The absolute path of what `relative` returned, for the present place of the index's folder."""
    return os.path.normpath(os.path.join(os.path.realpath(folder), path))  # noqa: PTH118


def own_file(folder: Path, name: str) -> Path:
    """The real path of a file of an index. Links are followed within the parent folder of the index's folder.

    Raises:
        OSError: it is a link out of that folder.
        ValueError: the name cannot be a file's.
    """
    parent = Path(os.path.realpath(folder)).parent
    found = Path(os.path.realpath(folder / name))
    if not found.is_relative_to(parent):
        raise OSError(errno.EPERM, f"a link out of {parent}", str(folder / name))
    return found


class ImageRoot:
    """The image folder of an index, and which files may be opened as its images.

    If the user names the folder, images are the files whose paths as written are below it; links are followed. If the
    index names it, they are the files whose real paths are below the parent folder of the index's folder.

    Args:
        index: the index's folder.
        written: the image folder according to the index.
        named: the image folder according to the user.
        name: the folder's name when the index was made.

    Attributes:
        root: the folder; None if neither names it.

    Example:
        >>> ImageRoot(Path("/data/images.index"), "../images").file("a.jpg")
        PosixPath('/data/images/a.jpg')
    """

    def __init__(
        self, index: Path, written: str | None, named: str | Path | None = None, name: str | None = None
    ) -> None:
        if is_address(named):
            raise UserError("--root: images are shown from a local folder only; name one, or leave --root out")
        self.index = index
        self.name = name
        self.named = named is not None
        self.root = str(named) if named is not None else None if written is None else absolute(written, index)

    def path(self, name: str) -> Path:
        """The path of an image, for messages."""
        return Path(self.root or "", name)

    def file(self, name: str) -> Path:
        """The path of an image, to open it.

        Raises:
            OutsideError: it must not be opened; the message names the `--root` that would allow it.
            ValueError: the name cannot be a file's.
        """
        if self.named:
            root = os.path.abspath(self.root or "")  # noqa: PTH100
            path = Path(os.path.normpath(os.path.join(root, name)))  # noqa: PTH118
            if not path.is_relative_to(root):
                raise OutsideError(errno.EPERM, f"its path is not below --root {short_repr(root)}", short_repr(name))
            return path
        if self.root is None and not Path(name).is_absolute():
            called = f" (it was called {short_repr(self.name)})" if self.name else ""
            reason = f"{self.index} does not name its image folder; name it with --root{called}"
            raise OutsideError(errno.EPERM, reason, short_repr(name))
        parent = Path(os.path.realpath(self.index)).parent
        path = Path(os.path.realpath(self.path(name)))
        if not path.is_relative_to(parent):
            folder = self.root or str(Path(name).parent)
            root = shell_path(folder)
            reason = f"it lies outside of {parent}; if you trust the index, name its folder: --root {root}"
            raise OutsideError(errno.EPERM, reason, short_repr(name))
        return path
