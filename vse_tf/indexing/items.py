"""The items of a collection: images of a folder or a list, captions of a text file. No TensorFlow here.

Items are read one at a time, in the order of their names, so a collection of any size needs the memory of one folder's
listing.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import BinaryIO

from vse_tf.addresses import is_address
from vse_tf.artifacts.index import LINE_BYTES, Item
from vse_tf.artifacts.index_manifest import Kind
from vse_tf.data.records import EncodedImages, Problem
from vse_tf.data.sources.files import problem_of_text, short_repr
from vse_tf.errors import UserError
from vse_tf.files import open_regular
from vse_tf.indexing.image_files import SUFFIXES, refused_file
from vse_tf.preprocessing.image_limits import MAX_BYTES
from vse_tf.remote.copies import local_path

MAX_SKIPPED_BYTES = 2**26


@dataclass(frozen=True)
class Items:
    """A collection, to iterate over.

    Args:
        kind: `images` or `captions`.
        source: the folder, list or text file.
        root: folder that relative image paths start from; None for captions.
        address: where it is, if it is remote; `root` is then in the cache, and no index names it.

    Attributes:
        ignored: number of files of the folder that are no images, by suffix, as counted by the last iteration.
    """

    kind: Kind
    source: Path
    root: Path | None
    address: str | None = field(default=None, kw_only=True)
    ignored: Counter[str] = field(default_factory=Counter, compare=False)

    def without_folder(self, problem: Problem) -> Problem:
        """A problem without the collection's folder, for a file that may be given to somebody else."""
        root = os.path.join(self.root or "", "")  # noqa: PTH118 - the root may be "/"
        folder = os.path.join(self.source if self.source.is_dir() else self.source.parent, "")  # noqa: PTH118
        what = problem.what if root in ("", "/") else problem.what.replace(root, "")
        return Problem(problem.where.removeprefix(root).removeprefix(folder), what)

    def images(self, items: Sequence[Item]) -> Sequence[str] | EncodedImages:
        """The images of some items: their paths, or encoded images that are parts of larger files."""
        return [str(Path(self.root or "", item.path or "")) for item in items]

    def __iter__(self) -> Iterator[Item | Problem]:
        """Each item, or what is wrong with it, in order."""
        self.ignored.clear()
        if self.kind == "captions":
            yield from _captions(self.source)
        elif self.source.is_dir():
            yield from _folder(str(self.source), self.ignored)
        else:
            yield from _listed(self.source, str(self.root))


def image_items(source: str | Path) -> Items:
    """The images of a folder and its subfolders, or of a text file with one path per line.

    In a folder, names that begin with a dot are ignored. Files with other suffixes than those of images are inspected:
    images are embedded, other files counted. Links to files are followed, links to folders are not. In a list, relative
    paths start from the list's folder. If a listed image is outside of that folder, all images are named relative to
    the folder that contains the list and the images, so that an index holds no absolute path.

    Args:
        source: the folder or the list.

    Raises:
        UserError: there is no such folder or list.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as holiday:
        ...     Path(holiday, "2014").mkdir()
        ...     for name in ("beach.png", "2014/cat.jpg", "notes.txt"):
        ...         Path(holiday, name).touch()
        ...     [item.id for item in image_items(holiday)]
        ['2014/cat.jpg', 'beach.png']
    """
    if is_address(source):
        raise UserError(
            f"--images: {source}: images in a bucket are read from shards (*.tar, *.parquet); pack them first"
        )
    path = Path(source)
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises if the name is too long
        return Items("images", path, path.resolve())
    if path.suffix.lower() in SUFFIXES or (path.is_file() and refused_file(str(path)) is None):
        raise UserError(f"--images: {path} is one image; name its folder, or a text file with one path per line")
    return Items("images", _readable(path, "images"), _shared_folder(path))


def caption_items(source: str | Path) -> Items:
    """The captions of a UTF-8 text file, one per line; blank lines are ignored.

    Args:
        source: the file.

    Raises:
        UserError: it cannot be read.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_text("two dogs in the snow")
        ...     list(caption_items(file.name))
        [Item(id='1', path=None, caption='two dogs in the snow', size=None, mtime_ns=None, offset=None)]
    """
    return Items("captions", _readable(local_path(source), "captions"), None)


def read_queries(source: str | Path) -> list[str]:
    """The queries of a UTF-8 text file, one per line; blank lines are ignored.

    Args:
        source: the file.

    Raises:
        UserError: it cannot be read or is empty, or a line is not UTF-8.
    """
    queries = []
    for item in _captions(_readable(local_path(source), "queries")):
        if isinstance(item, Problem):
            raise UserError(f"--queries: {item}")
        queries.append(item.caption or "")
    if not queries:
        raise UserError(f"--queries: {source} holds no query")
    return queries


def _folder(root: str, ignored: Counter[str]) -> Iterator[Item | Problem]:
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
                elif entry.name.lower().endswith(SUFFIXES) or (reason := refused_file(entry.path)) is None:
                    yield image_item(name, entry.path, entry.path)
                elif reason:
                    yield Problem(entry.path, reason)
                else:
                    ignored[Path(name).suffix.lower()] += 1
            except OSError as error:  # a circle of links, a pipe
                yield Problem(entry.path, f"cannot be read: {error.strerror}")


def _listing(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry] | Problem]:
    """The entries of a folder in the order of their names, each with its path relative to the root."""
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
            yield image_item(name, os.path.join(folder, name), where)  # noqa: PTH118 - three times as fast
        else:
            path_of_image = _absolute(folder, name)
            yield image_item(os.path.relpath(path_of_image, root), path_of_image, where)


def _shared_folder(path: Path) -> Path:
    """The folder that contains a list and every image in it."""
    shared = folder = os.path.realpath(path.parent)
    for _, name in _lines(path):
        if isinstance(name, str) and "\0" not in name and _leads_out(name):
            shared = os.path.commonpath([shared, os.path.dirname(_absolute(folder, name))])  # noqa: PTH120
    return Path(shared)


def _leads_out(name: str) -> bool:
    return os.path.isabs(name) or ".." in name  # noqa: PTH117


def _absolute(folder: str, name: str) -> str:
    """The absolute path of a listed image; links to folders are resolved, a link to the file is not."""
    start, base = os.path.split(os.path.join(folder, name))  # noqa: PTH118
    return os.path.join(os.path.realpath(start), base)  # noqa: PTH118


def image_item(name: str, path: str, where: str) -> Item | Problem:
    """The item of an image file, or what is wrong with its name or file. The file is not opened.

    Args:
        name: name in the collection.
        path: path of the file.
        where: file and line that named the image, for the problem.
    """
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
    """The lines that are not blank, with their numbers; bytes that are not UTF-8 become lone surrogates."""
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
    """Read the rest of a line that is too long."""
    for _ in range(MAX_SKIPPED_BYTES // LINE_BYTES):
        rest = file.readline(LINE_BYTES)
        if not rest or rest.endswith(b"\n"):
            return
    raise UserError(f"{where}: no line end within {MAX_SKIPPED_BYTES} bytes; is it a text file?")


def _readable(path: Path, option: str) -> Path:
    try:
        with open_regular(path) as file:
            start = file.read(2)
    except OSError as error:
        raise UserError(f"--{option}: {path}: {error.strerror}") from None
    if start in (b"\xff\xfe", b"\xfe\xff"):
        raise UserError(f"--{option}: {path} is UTF-16; save it as UTF-8")
    return path
