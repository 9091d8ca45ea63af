"""What is to be embedded, item by item: the photos of a folder or a list, the captions of a file. No TensorFlow here.

Items come one at a time and in an order that the names alone decide, so that a collection of any size needs the memory
of one folder's listing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import BinaryIO

from vse_tf.artifacts.index import LINE_BYTES, Item
from vse_tf.artifacts.index_manifest import Kind
from vse_tf.data.records import Problem
from vse_tf.data.sources.files import problem_of_text, short_repr
from vse_tf.errors import UserError
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_limits import MAX_BYTES

NO_LINE_BYTES = 2**26
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

    def shared(self, problem: Problem) -> Problem:
        """A problem as it may be handed on: without the folder that the collection lies in."""
        for folder in filter(None, (self.root, self.source if self.source.is_dir() else self.source.parent)):
            problem = Problem(problem.where.removeprefix(os.path.join(folder, "")), problem.what)  # noqa: PTH118
        return problem

    def __iter__(self) -> Iterator[Item | Problem]:
        """Every item, or what is wrong with it, in order."""
        if self.kind == "captions":
            yield from _captions(self.source)
        elif self.source.is_dir():
            yield from _folder(str(self.source))
        else:
            yield from _listed(self.source, str(self.root))


def photos(source: str | Path) -> Items:
    """The photos of a folder with its subfolders, or of a text file with a path a line.

    In a folder names beginning with a dot and files of other suffixes are passed over; links to files are followed,
    links to folders are not. In a list relative paths are below the list's folder. Where others are not, all are named
    as seen from the folder that holds the list and them: an index says nothing of the machine that made it.

    Args:
        source: the folder or the list.

    Raises:
        UserError: there is neither.

    Example:
        >>> [item.id for item in photos("holiday")]
        ['2014/cat.jpg', 'beach.png']
    """
    path = Path(source)
    if os.path.isdir(path):  # noqa: PTH112 - a name may be too long to ask
        return Items("images", path, path.resolve())
    if path.suffix.lower() in SUFFIXES:
        raise UserError(f"--images: {path} is one photo; name its folder, or a text file with a path a line")
    return Items("images", _readable(path, "images"), _shared_folder(path))


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
    listings = [_listing(root, "")]
    while listings:
        found = next(listings[-1], None)
        if found is None:
            listings.pop()
        elif isinstance(found, Problem):
            yield found
        else:
            name, entry = found
            try:
                if entry.is_dir(follow_symlinks=False):
                    listings.append(_listing(entry.path, f"{name}/"))
                elif entry.is_dir():
                    yield Problem(entry.path, "a link to a folder is not followed")
                elif entry.name.lower().endswith(SUFFIXES):
                    yield photo_of(name, entry.path, entry.path)
            except OSError as error:  # a link that leads to itself
                yield Problem(entry.path, f"cannot be read: {error.strerror}")


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


def _listed(path: Path, root: str) -> Iterator[Item | Problem]:
    folder = os.path.realpath(path.parent)
    for number, name in _lines(path):
        where = f"{path}: line {number}"
        if isinstance(name, Problem):
            yield name
        elif "\0" in name or (root == folder and not _leads_out(name)):
            yield photo_of(name, os.path.join(folder, name), where)  # noqa: PTH118 - a third of the time
        else:
            named = _place(folder, name)
            yield photo_of(os.path.relpath(named, root), named, where)


def _shared_folder(path: Path) -> Path:
    """The folder that holds a list and every photo in it."""
    shared = folder = os.path.realpath(path.parent)
    for _, name in _lines(path):
        if isinstance(name, str) and "\0" not in name and _leads_out(name):
            shared = os.path.commonpath([shared, os.path.dirname(_place(folder, name))])  # noqa: PTH120
    return Path(shared)


def _leads_out(name: str) -> bool:
    return os.path.isabs(name) or ".." in name  # noqa: PTH117


def _place(folder: str, name: str) -> str:
    """The absolute path of a listed photo; the links on the way to it are resolved, it itself may be one."""
    start, base = os.path.split(os.path.join(folder, name))  # noqa: PTH118
    return os.path.join(os.path.realpath(start), base)  # noqa: PTH118


def photo_of(name: str, path: str, where: str) -> Item | Problem:
    """A photo as an item, or what is wrong with its name or its file; the file is asked for, not opened."""
    if "\0" in name:
        return Problem(where, "not a path: it holds a NUL")
    if problem := problem_of_text(name):
        return Problem(short_repr(where), f"the name is {problem}; rename it")
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return Problem(where, f"missing image: {short_repr(name)} ({error.strerror})")
    if not stat.S_ISREG(found.st_mode):
        return Problem(where, f"not a file: {short_repr(name)}")
    if found.st_size > MAX_BYTES:
        return Problem(where, f"{found.st_size} bytes, more than the limit of {MAX_BYTES}: {short_repr(name)}")
    return Item(name, path=name, size=found.st_size, mtime_ns=found.st_mtime_ns)


def _captions(path: Path) -> Iterator[Item | Problem]:
    for number, text in _lines(path):
        if isinstance(text, Problem):
            yield text
        elif problem := problem_of_text(text):
            yield Problem(f"{path}: line {number}", problem)
        else:
            yield Item(str(number), caption=text.strip())


def _lines(path: Path) -> Iterator[tuple[int, str | Problem]]:
    """Lines that are not blank, with their numbers; bytes that are not UTF-8 come as lone surrogates."""
    with open_regular(path) as file:
        for number in count(1):
            line = file.readline(LINE_BYTES)
            if not line:
                return
            if len(line) == LINE_BYTES and not line.endswith(b"\n"):
                _skip_line(file, f"{path}: line {number}")
                yield number, Problem(f"{path}: line {number}", f"longer than the limit of {LINE_BYTES} bytes")
                continue
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")
            if text.strip():
                yield number, text.rstrip("\r\n")


def _skip_line(file: BinaryIO, where: str) -> None:
    for _ in range(NO_LINE_BYTES // LINE_BYTES):
        rest = file.readline(LINE_BYTES)
        if not rest or rest.endswith(b"\n"):
            return
    raise UserError(f"{where}: no line end within {NO_LINE_BYTES} bytes; is it a text file?")


def _readable(path: Path, option: str) -> Path:
    try:
        with open_regular(path) as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f"--{option}: {path}: {error.strerror}") from None
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"--{option}: {path} is UTF-16; save it as UTF-8")
    return path
