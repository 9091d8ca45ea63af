"""Finding the images that a caption file names, in a folder that the user named."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from vse_tf.data.sources.files import problem_of_text, short_repr
from vse_tf.errors import UserError

WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


class ImageFolder:
    """A folder of images. Each subfolder is listed once, which is faster than a look at every file.

    A name is checked as it is written: without its `..` it has to be below the folder. Links below the folder are the
    user's own and may lead anywhere, to regular files.

    Args:
        root: the folder.
        key: the setting that named it, for the message.

    Raises:
        UserError: there is no such folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as images:
        ...     Path(images, "cat.jpg").touch()
        ...     ImageFolder(Path(images)).find("cat.jpg")
        '/.../cat.jpg'
    """

    def __init__(self, root: Path, key: str = "data.images") -> None:
        if not root.is_dir():
            reason = "not a folder" if root.exists() else "no such folder"
            raise UserError(f"{root}: {reason}; name the image folder with --{key}")
        self.root = os.path.realpath(root)
        self._key = key
        # The root may be "/".
        self._inside = os.path.join(self.root, "")  # noqa: PTH118
        self._written = os.path.join(os.path.abspath(root), "")  # noqa: PTH100, PTH118
        self._folders: dict[str, str] = {}
        self._listings: dict[str, dict[str, bool]] = {}
        self._spellings: dict[tuple[str, bool], dict[str, list[str]]] = {}

    def find(self, name: str) -> str:
        """The file of an image.

        Args:
            name: its path, relative to the folder or absolute. Where there is no such file, `\\` is read as `/`, and
                letters with marks are found in either Unicode form.

        Returns:
            The absolute path, the same for all spellings of a path. Links are resolved that lead to places in the
            folder; others stay as they are.

        Raises:
            ValueError: not a path, missing, or outside the folder; the message is one line.
        """
        problem = "holds a NUL" if "\0" in name else problem_of_text(name)
        if problem or not name.strip():
            raise ValueError(f"bad image path: {problem or 'it is empty'}")
        # os.path here and below: it takes a tenth of pathlib's time, which counts for a hundred thousand names.
        start, base = os.path.split(name)
        if base in ("", ".", ".."):
            raise ValueError(f"bad image path: {short_repr(name)} is a folder")
        folder = self._folders.get(start)
        if folder is None:
            folder = self._folders[start] = self._folder(start, name)
        is_link = self._listing(folder).get(base)
        path = os.path.join(folder, base)  # noqa: PTH118
        return path if is_link is False else self._resolved(path, name)

    def relative(self, path: str) -> str:
        """A path that `find` returned, relative to the folder and with `/`: the same on every machine."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _folder(self, start: str, name: str) -> str:
        """The folder of a name, from what precedes its last part."""
        path = os.path.normpath(os.path.join(self.root, start))  # noqa: PTH118
        if not self._is_inside(path):
            # The user may have named the folder by a link.
            written = os.path.join(os.path.normpath(os.path.join(self._written, start)), "")  # noqa: PTH118
            if written.startswith(self._written):
                path = os.path.normpath(os.path.join(self.root, written[len(self._written) :]))  # noqa: PTH118
        if not self._is_inside(path):
            advice = f"; name the folder that it is in with --{self._key}" if name.startswith(os.sep) else ""
            raise ValueError(f"path outside the image folder: {short_repr(name)} is not in {self.root}{advice}")
        real = os.path.realpath(path)
        return real if self._is_inside(real) else path

    def _is_inside(self, folder: str) -> bool:
        return folder == self.root or folder.startswith(self._inside)

    def _listing(self, folder: str) -> dict[str, bool]:
        """Names of the regular files (False) and links (True) in a folder."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
            except OSError:
                self._listings[folder] = {}
        return self._listings[folder]

    def _resolved(self, path: str, name: str) -> str:
        """The file at a path that is a link, or that the listing spells in another way."""
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116
        except OSError as error:
            other = self._other_spelling(path)
            if other:
                return other
            if "\\" in name:
                return self._find_with_slashes(name)
            reason = "" if isinstance(error, FileNotFoundError) else f" ({error.strerror})"
            raise ValueError(f"missing image: {short_repr(name)}{reason or self._hint(path)}") from None
        if not stat.S_ISREG(mode):
            raise ValueError(f"bad image path: {short_repr(name)} is not a file")
        target = os.path.realpath(path)
        return target if self._is_inside(target) else path

    def _find_with_slashes(self, name: str) -> str:
        if WINDOWS_DRIVE.match(name):
            raise ValueError(
                f"path outside the image folder: {short_repr(name)} is on another machine; write paths below the "
                f"folder of --{self._key}"
            )
        try:
            return self.find(name.replace("\\", "/"))
        except ValueError as error:
            raise ValueError(f"{str(error).split(':')[0]}: {short_repr(name)}") from None

    def _other_spelling(self, path: str) -> str:
        """The only file whose path is the same in the other Unicode form; empty if there is none."""
        if path.isascii():
            return ""
        found = self.root
        for part in Path(os.path.relpath(path, self.root)).parts:
            names = self._names(found, False).get(unicodedata.normalize("NFC", part), [])
            if len(names) != 1:
                return ""
            found = os.path.join(found, names[0])  # noqa: PTH118
        return found if os.path.isfile(found) else ""  # noqa: PTH113

    def _hint(self, path: str) -> str:
        """A file that may be meant: the same name in other letter case, or with a suffix."""
        folder, base = os.path.split(path)
        wanted = unicodedata.normalize("NFC", base).casefold()
        found = self._names(folder, True)
        names = found.get(wanted, []) + found.get(f"{wanted}.", [])
        return f" (there is {short_repr(names[0])})" if names else ""

    def _names(self, folder: str, any_case: bool) -> dict[str, list[str]]:
        """The names in a folder by their composed form; in any letter case and with a suffix, too."""
        key = folder, any_case
        if key not in self._spellings:
            names = self._spellings[key] = {}
            try:
                listed = sorted(os.listdir(folder))  # noqa: PTH208
            except OSError:
                listed = []
            for name in listed:
                composed = unicodedata.normalize("NFC", name)
                if any_case:
                    composed = composed.casefold()
                    names.setdefault(f"{os.path.splitext(composed)[0]}.", []).append(name)  # noqa: PTH122
                names.setdefault(composed, []).append(name)
        return self._spellings[key]


class ImageFolders:
    """Several folders of images as one.

    Args:
        roots: the folders.
        key: the setting that named them, for the message.

    Raises:
        UserError: one of them does not exist.

    Example:
        image = ImageFolders([Path("train2014"), Path("val2014")]).find("val2014", "cat.jpg")
    """

    def __init__(self, roots: Sequence[Path], key: str = "data.images") -> None:
        self._folders = {root: ImageFolder(root, key) for root in roots}
        self._names = {root: {root.name, Path(folder.root).name} for root, folder in self._folders.items()}

    def find(self, subfolder: str, name: str) -> str:
        """The file of an image.

        Args:
            subfolder: the folder that a caption file names for it, which may be one of the folders itself; or empty.
            name: its name.

        Raises:
            ValueError: as `ImageFolder.find`, or two of the folders have such a file.
        """
        path = os.path.join(subfolder, name)  # noqa: PTH118 - faster
        if len(self._folders) == 1:
            return next(iter(self._folders.values())).find(path)
        found: dict[str, None] = {}
        problem: ValueError | None = None
        for root, folder in self._folders.items():
            try:
                found[folder.find(name if subfolder in self._names[root] else path)] = None
            except ValueError as error:
                problem = problem or error
        if len(found) > 1:
            raise ValueError(f"ambiguous image: {short_repr(path)} is at {' and at '.join(found)}")
        if not found and problem:
            raise problem
        return next(iter(found))
