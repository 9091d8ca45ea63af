"""What is to be embedded, item by item: the photos of a folder or a list, the captions of a file. No TensorFlow here.

Items come one at a time and in an order that the names alone decide, so that a collection of any size needs the memory
of one folder's listing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vse_tf.artifacts.index import Item, Kind
from vse_tf.data.records import Problem
from vse_tf.data.sources.files import problem_of_text, shown
from vse_tf.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")


@dataclass(frozen=True)
class Items:
    """A collection.

    Args:
        kind: `images` or `captions`.
        source: the folder, list or file.
        root: folder that relative photo paths are below; None for captions.
    """

    kind: Kind
    source: Path
    root: Path | None

    def __iter__(self) -> Iterator[Item | Problem]:
        """Every item, or what is wrong with it, in order."""
        if self.kind == "captions":
            yield from _captions(self.source)
        elif self.source.is_dir():
            yield from _folder(str(self.source))
        else:
            yield from _listed(self.source)


def photos(source: str | Path) -> Items:
    """The photos of a folder with its subfolders, or of a text file with a path a line.

    In a folder names beginning with a dot and files of other suffixes are passed over, and links must not lead out of
    it. In a list relative paths are below the list's folder.

    Args:
        source: the folder or the list.

    Raises:
        UserError: there is neither.

    Example:
        >>> [item.id for item in photos("holiday")]
        ['2014/cat.jpg', 'beach.png']
    """
    path = Path(source)
    if path.is_dir():
        return Items("images", path, path.resolve())
    if path.suffix.lower() in SUFFIXES:
        raise UserError(f"--images: {path} is one photo; name its folder, or a text file with a path a line")
    return Items("images", _readable(path, "images"), path.resolve().parent)


def captions(source: str | Path) -> Items:
    """The captions of a UTF-8 text file, one a line; blank lines are passed over.

    Args:
        source: the file.

    Raises:
        UserError: it cannot be read.

    Example:
        >>> next(iter(captions("captions.txt")))
        Item(id='1', path=None, caption='two dogs in the snow', size=None, mtime_ns=None)
    """
    return Items("captions", _readable(Path(source), "captions"), None)


def query_lines(source: str | Path) -> list[str]:
    """The queries of a UTF-8 text file, one a line; blank lines are passed over.

    Args:
        source: the file.

    Raises:
        UserError: it cannot be read, holds none, or a line is not UTF-8.
    """
    found = list(_captions(_readable(Path(source), "queries")))
    if problem := next((one for one in found if isinstance(one, Problem)), None):
        raise UserError(f"--queries: {problem}")
    if not found:
        raise UserError(f"--queries: {source} holds no query")
    return [item.caption or "" for item in found if isinstance(item, Item)]


def _folder(root: str) -> Iterator[Item | Problem]:
    inside = os.path.join(os.path.realpath(root), "")  # noqa: PTH118 - the root may be "/"
    listings = [_listing(root, "")]
    while listings:
        found = next(listings[-1], None)
        if found is None:
            listings.pop()
        elif isinstance(found, Problem):
            yield found
        else:
            name, entry = found
            if entry.is_dir(follow_symlinks=False):
                listings.append(_listing(entry.path, f"{name}/"))
            elif entry.is_dir():
                yield Problem(entry.path, "a link to a folder is not followed")
            elif entry.name.lower().endswith(SUFFIXES):
                if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                    yield Problem(entry.path, "a link out of the folder")
                else:
                    yield _photo(name, entry.path, entry.path)


def _listing(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry] | Problem]:
    """A folder's entries by name, each with its path below the root."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Problem(folder, f"the folder cannot be read: {error.strerror}")
        return
    for entry in found:
        if not entry.name.startswith("."):
            yield f"{prefix}{entry.name}", entry


def _listed(path: Path) -> Iterator[Item | Problem]:
    for number, name in _lines(path):
        where = f"{path}: line {number}"
        if "\0" in name:
            yield Problem(where, "not a path: it holds a NUL")
        else:
            yield _photo(name, os.path.join(path.parent, name), where)  # noqa: PTH118 - a third of the time


def _photo(name: str, path: str, where: str) -> Item | Problem:
    if problem := problem_of_text(name):
        return Problem(shown(where), f"the name is {problem}; rename it")
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return Problem(where, f"missing image: {shown(name)} ({error.strerror})")
    if not stat.S_ISREG(found.st_mode):
        return Problem(where, f"not a file: {shown(name)}")
    return Item(name, path=name, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _captions(path: Path) -> Iterator[Item | Problem]:
    for number, text in _lines(path):
        if problem := problem_of_text(text):
            yield Problem(f"{path}: line {number}", problem)
        else:
            yield Item(str(number), caption=text.strip())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers; bytes that are not UTF-8 come as lone surrogates."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line.rstrip("\r\n")


def _readable(path: Path, option: str) -> Path:
    try:
        with path.open("rb") as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f"--{option}: {path}: {error.strerror}") from None
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"--{option}: {path} is UTF-16; save it as UTF-8")
    return path
