"""Reading caption files, with errors that name the line."""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.errors import UserError
from vse_tf.files import open_array, read_regular, text_encoding
from vse_tf.setting_types import Paths

# A caption file of ten million images is smaller; it is read into memory.
CAPTION_BYTES = 8 * 2**30
# Captions shrink to a tenth when they are compressed; no file grows by more than this, or above the limit, in memory.
GZIP_GROWTH, SMALL_BYTES, GZIP_BYTES = 100, 64 * 2**20, 2 * 2**30
# First bytes of files that are taken for caption files.
OTHER_FILES = {
    b"PK\x03\x04": "an Excel workbook or ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\x1f\x8b": "a gzip file in a gzip file",
}
# An id that a file writes as a string.
DIGITS = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)


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
    """A text file's contents: UTF-8 or UTF-16, with or without a byte order mark, compressed by gzip or not.

    Bytes that are not UTF-8 become lone surrogates, which `problem_of_text` finds later: so the message can name the
    line, and the other lines stay usable.

    Args:
        path: the file.
        key: the setting that named it, for the message.

    Raises:
        UserError: it cannot be read, is compressed in another way, or grows too much when it is decompressed.
    """
    try:
        contents = read_regular(path, CAPTION_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; name the file with --{key}") from None
    if contents.startswith(b"\x1f\x8b"):
        contents = _decompressed(path, contents)
    kind = next((kind for magic, kind in OTHER_FILES.items() if contents.startswith(magic)), None)
    if kind:
        raise UserError(f"{path}: {kind}, not text; --{key} takes text, as it is or compressed by gzip")
    encoding = text_encoding(contents)
    if encoding == "utf-8-sig":
        return contents.decode(encoding, errors="surrogateescape")
    try:
        return contents.decode(encoding, errors="surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        name = encoding.upper()[:6]
        raise UserError(f"{path}: the file is {name}, but broken at byte {error.start}; save it as UTF-8") from None


def _decompressed(path: Path, contents: bytes) -> bytes:
    """What a gzip file holds. A file from others may be made to grow a thousand times."""
    limit = max(SMALL_BYTES, min(GZIP_BYTES, GZIP_GROWTH * len(contents)))
    try:
        text = gzip.GzipFile(fileobj=io.BytesIO(contents)).read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file: {error}") from None
    if len(text) > limit:
        raise UserError(f"{path}: it decompresses to more than {limit} bytes; decompress it with gunzip")
    return text


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


def same_id(value: Any) -> Any:
    """An id as a number where it is a string of digits: some programs write the same ids in both ways.

    Example:
        >>> same_id("391895")
        391895
    """
    return int(value) if isinstance(value, str) and DIGITS.fullmatch(value) else value


def expanded(path: str) -> Path:
    """A path from a setting, with `~` replaced by the home folder if there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
