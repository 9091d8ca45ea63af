"""Reading caption files, with errors that name the line, and finding images in folders."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.config import Paths
from vse_tf.errors import UserError
from vse_tf.files import open_array, read_regular

# A caption file of ten million images is smaller; it is read into memory.
CAPTION_BYTES = 8 * 2**30


def several_paths(value: Paths, key: str, what: str) -> list[Path]:
    """The paths in a setting, one or more.

    Args:
        value: the setting.
        key: its name, for the message.
        what: what the paths are, for the message.

    Raises:
        UserError: the setting is empty.
    """
    paths = [value] if isinstance(value, str) else list(value or [])
    if not paths or not all(paths):
        raise UserError(f"no {what} given; name it with --{key}")
    return [expanded(path) for path in paths]


def one_path(value: Paths, key: str, what: str) -> Path:
    """The path in a setting that takes one.

    Raises:
        UserError: the setting is empty or names several.
    """
    paths = several_paths(value, key, what)
    if len(paths) > 1:
        raise UserError(f"--{key} names {len(paths)} paths; this source takes one {what}")
    return paths[0]


def read_text(path: Path, key: str = "data.annotations") -> str:
    """A text file's contents, UTF-8 with or without a byte order mark.

    Bytes that are not UTF-8 become lone surrogates, which `problem_of_text` finds later: so the message can name the
    line, and the other lines stay usable.

    Args:
        path: the file.
        key: the setting that named it, for the message.

    Raises:
        UserError: it cannot be read, or is UTF-16.
    """
    try:
        contents = read_regular(path, CAPTION_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; name the file with --{key}") from None
    if contents.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: the file is UTF-16; save it as UTF-8")
    return contents.decode("utf-8-sig", errors="surrogateescape")


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read, is not UTF-8 or not JSON; the message names line and column.
    """
    text = read_text(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 (byte 0x{ord(text[error.start]) & 0xFF:02x})") from None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = "the file is empty" if not text.strip() else error.msg
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: broken JSON: {reason}") from None
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits, brackets nested thousands deep.
        raise UserError(f"{path}: broken JSON: {error}") from None


def csv_rows(
    path: Path, text: str, check_header: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file as RFC 4180 has it (commas, double quotes, line breaks inside quotes); blank lines are
    skipped.

    Args:
        path: the file, for messages.
        text: its contents.
        check_header: called with the names of the columns before the first row.

    Yields:
        The row's first line number, and its fields by column, or what is wrong with it.

    Raises:
        UserError: a quotation mark is wrong.
    """
    # Python's own limit of 131,072 is one for the process and would end the reading at a long caption.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    start = 1
    try:
        for fields in reader:
            number, start = start, reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = [name.strip() for name in fields]
                check_header(header)
            elif len(fields) == len(header):
                yield number, dict(zip(header, fields, strict=True))
            else:
                yield number, f"wrong number of fields: {len(fields)}, the header has {len(header)}"
    except csv.Error as error:
        raise UserError(
            f"{path}: line {reader.line_num}: broken CSV: {error}; is a quotation mark not closed, or not doubled?"
        ) from None
    finally:
        csv.field_size_limit(limit)


def json_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a JSONL file; blank lines are skipped.

    Yields:
        The line number, and the object, or what is wrong with the line.
    """
    # Only "\n" ends a line: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            yield number, f"broken JSON: {problem_of_text(line) or reason}"
        else:
            yield (
                number,
                item if isinstance(item, dict) else f"wrong type: the line is {json_type(item)}, not an object",
            )


def read_array(path: Path, key: str) -> np.ndarray:
    """An `.npy` file, memory-mapped.

    Args:
        path: the file.
        key: start of the message: the file, and the setting that named it.

    Raises:
        UserError: it cannot be read, or is not an `.npy` file of numbers.
    """
    try:
        return open_array(path)
    except OSError as error:
        raise UserError(f"{key}: {error.strerror or 'not an .npy file'}") from None
    except (ValueError, EOFError) as error:
        raise UserError(f"{key}: not an .npy file of plain numbers ({str(error).splitlines()[0]})") from None


def problem_of_text(text: str) -> str:
    """Why a string cannot be used as text; empty if it can."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # surrogateescape puts the bytes 0x80 to 0xff at U+DC80 to U+DCFF.
        return (
            f"not UTF-8: byte 0x{code & 0xFF:02x}" if 0xDC80 <= code <= 0xDCFF else "not Unicode: half a surrogate pair"
        )
    return ""


def short_repr(value: object) -> str:
    """A value from a file for a message: on one line, printable, not too long."""
    text = repr(value)
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= 120 else f"{text[:90]}…{text[-20:]}"


def json_type(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "a boolean"
    for types, name in (((int, float), "a number"), (str, "a string"), (list, "a list"), (dict, "an object")):
        if isinstance(value, types):
            return name
    return type(value).__name__


def integer_or_none(value: object) -> int | None:
    """A value that may be an id: itself if it is an integer."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


class ImageFolder:
    """A folder of images. Each subfolder is listed once, which is faster than a look at every file.

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
        self._inside = os.path.join(self.root, "")  # noqa: PTH118 - the root may be "/"
        self._folders: dict[str, str] = {}
        self._listings: dict[str, dict[str, bool]] = {}

    def find(self, name: str) -> str:
        """The file of an image.

        Args:
            name: its path, relative to the folder or absolute; links are followed.

        Returns:
            The absolute path with links resolved, the same for all spellings of a path.

        Raises:
            ValueError: not a path, missing, or outside the folder; the message is one line.
        """
        problem = "holds a NUL" if "\0" in name else problem_of_text(name)
        if problem or not name.strip():
            raise ValueError(f"bad image path: {problem or 'it is empty'}")
        # os.path here and below: it takes a tenth of pathlib's time, which counts for a hundred thousand names.
        folder, base = os.path.split(os.path.join(self.root, name))  # noqa: PTH118
        if base in ("", ".", ".."):
            raise ValueError(f"bad image path: {short_repr(name)} is a folder")
        if folder not in self._folders:
            self._folders[folder] = os.path.realpath(folder)
        folder = self._folders[folder]
        self._check_inside(folder, name)
        path = os.path.join(folder, base)  # noqa: PTH118
        listing = self._listing(folder)
        if base not in listing:
            self._check_file(path, name)
        elif not listing[base]:
            return path
        target = os.path.realpath(path)
        self._check_inside(os.path.dirname(target), name)  # noqa: PTH120
        self._check_file(target, name)
        return target

    def relative(self, path: str) -> str:
        """A path that `find` returned, relative to the folder and with `/`: the same on every machine."""
        return Path(os.path.relpath(path, self.root)).as_posix()

    def _listing(self, folder: str) -> dict[str, bool]:
        """Names of the regular files (False) and links (True) in a folder."""
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    self._listings[folder] = {e.name: e.is_symlink() for e in entries if e.is_symlink() or e.is_file()}
            except OSError:
                self._listings[folder] = {}
        return self._listings[folder]

    def _check_inside(self, folder: str, name: str) -> None:
        if folder != self.root and not folder.startswith(self._inside):
            raise ValueError(f"path outside the image folder: {short_repr(name)}")

    def _check_file(self, path: str, name: str) -> None:
        # Also reached if the listing spells a name in another letter case or Unicode form, as some file systems do.
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116
        except FileNotFoundError:
            raise ValueError(f"missing image: {short_repr(name)}") from None
        except OSError as error:
            raise ValueError(f"missing image: {short_repr(name)} ({error.strerror})") from None
        if not stat.S_ISREG(mode):
            raise ValueError(f"bad image path: {short_repr(name)} is not a file")


def expanded(path: str) -> Path:
    """A path from a setting, with `~` replaced by the home folder if there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
