"""Reads files that others may have made: only regular files, up to a limit. `atomic` writes files.

A path from a command line, a caption file or an index may lead to a pipe, a device or a huge file. Opening a pipe
without a writer blocks forever; reading `/dev/zero` never ends. All readers of the package therefore open paths here.
No TensorFlow is imported.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vse_tf.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# Limit for a description, a manifest or a pointer; those that the package writes are far smaller.
DESCRIPTION_BYTES = 16 * 2**20
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}


def open_regular(path: str | Path, limit: int | None = None) -> io.BufferedReader:
    """Open a regular file for reading; links are followed.

    The type is checked on the open file, so the path cannot be replaced between the check and the read.

    Args:
        path: the file.
        limit: maximum size in bytes.

    Raises:
        OSError: there is no such file, it cannot be read, it is a folder, a pipe, a device or a socket, or it is larger
            than `limit`; `strerror` says which.

    Example:
        >>> open_regular("/dev/zero")
        Traceback (most recent call last):
        OSError: [Errno 22] not a regular file but a device: '/dev/zero'
    """
    try:
        # Non-blocking: opening a pipe would otherwise wait for a writer.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        # A name with a NUL.
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, f"not a regular file but {_kind(about.st_mode)}", str(path))
        if limit is not None and about.st_size > limit:
            raise OSError(errno.EFBIG, f"{about.st_size} bytes, more than the limit of {limit}", str(path))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """The contents of a regular file.

    Args:
        path: the file; links are followed.
        limit: maximum size in bytes.

    Raises:
        OSError: as `open_regular`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_text("a dog")
        ...     read_regular(file.name, limit=2**30)
        b'a dog'
    """
    with open_regular(path, limit) as file:
        return file.read() if limit is None else file.read(limit)


def read_json(path: str | Path, limit: int = DESCRIPTION_BYTES) -> Any:
    """The value in a JSON file.

    Args:
        path: the file; links are followed.
        limit: maximum size in bytes.

    Raises:
        OSError: as `open_regular`.
        ValueError: not UTF-8, not JSON, or nested too deeply.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     _ = Path(file.name).write_text('{"dim": 128}')
        ...     read_json(file.name)["dim"]
        128
    """
    try:
        return json.loads(read_regular(path, limit))
    except RecursionError:
        raise ValueError("values are nested too deeply") from None


def load_json(path: str | Path) -> Any:
    """The value in a JSON file, for callers that have nothing to add to the error.

    Raises:
        UserError: it cannot be read.

    Example:
        >>> load_json("/dev/null")
        Traceback (most recent call last):
        vse_tf.errors.UserError: /dev/null: cannot be read: not a regular file but a device
    """
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {reason_of(error)}") from None


def check_format(path: str | Path, found: object, newest: int) -> None:
    """Refuse a run folder, an index or an export of a newer version, before anything else of it is read.

    Args:
        path: the file with the format number.
        found: its format number.
        newest: the newest format that this version reads.

    Raises:
        UserError: a newer version wrote it.
        ValueError: it is not a format number.

    Example:
        >>> check_format("images.index/manifest.json", 1, newest=1)
    """
    if type(found) is not int or found < 1:
        raise ValueError(f"format {found!r} is not a format number")
    if found > newest:
        raise UserError(
            f"{path}: written by a newer version of vse_tf (format {found}, this version reads up to {newest}); "
            "upgrade vse_tf"
        )


def open_array(path: str | Path) -> np.ndarray:
    """Map a `.npy` file into memory, read-only, without trusting its header.

    Args:
        path: the file; links are followed.

    Raises:
        OSError: as `open_regular`.
        ValueError: no `.npy` file, Python objects in it, a negative size, or another number of bytes than its header
            announces.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> with TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/train_ims.npy", np.zeros([6, 36, 4]))
        ...     open_array(f"{folder}/train_ims.npy").shape
        (6, 36, 4)
    """
    import numpy as np  # noqa: PLC0415 (a wrong option answers without it)

    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"a .npy file of version {'.'.join(map(str, version))}, which is not read")
        shape, fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not loaded")
        if any(type(side) is not int or side < 0 for side in shape):
            raise ValueError(f"its header announces the shape {shape}")
        announced = dtype.itemsize
        for side in shape:
            announced *= side
        start = file.tell()
        if announced != size - start:
            raise ValueError(f"its header announces {announced} bytes of data, {size - start} follow")
        order: Literal["F", "C"] = "F" if fortran else "C"
        if announced == 0:
            return np.zeros(shape, dtype, order)
        return np.memmap(file, dtype, "r", start, shape, order)


def text_encoding(contents: bytes) -> str:
    """The encoding of a text file, UTF-8 or UTF-16 (or 32 with a byte order mark), by its first bytes.

    Args:
        contents: the file's bytes, or the first few thousand.

    Example:
        >>> text_encoding("a dog".encode("utf-16-le"))
        'utf-16-le'
    """
    for mark, encoding in _MARKS.items():
        if contents.startswith(mark):
            return encoding
    # Without a mark: UTF-8 text has no zero bytes, and in UTF-16 one half of each common letter is zero.
    start = contents[:4096]
    first, second = start[::2].count(0), start[1::2].count(0)
    if max(first, second) * 8 > len(start) and not min(first, second):
        return "utf-16-le" if second else "utf-16-be"
    return "utf-8-sig"


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a regular file's contents, in hexadecimal.

    Raises:
        OSError: as `open_regular`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     sha256_of(file.name)[:8]
        'e3b0c442'
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason_of(error: Exception) -> str:
    """The system's description of an error, such as `Permission denied`; for other errors, their message."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


@contextlib.contextmanager
def file_errors(path: str | Path, doing: str = "read", advice: str = "") -> Iterator[None]:
    """Turn errors of the file system inside the block into one line for the user.

    Args:
        path: the file, or the folder that the file is in.
        doing: `read` or `written`.
        advice: what to do (default: free space if the disk is full).

    Raises:
        UserError: the block raised an `OSError`.

    Example:
        >>> with file_errors("/missing.txt"):
        ...     text = read_regular("/missing.txt")
        Traceback (most recent call last):
        vse_tf.errors.UserError: /missing.txt: cannot be read: No such file or directory
    """
    try:
        yield
    except OSError as error:
        if not advice and error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and repeat"
        # A file's own path, not that of its temporary file.
        where = error.filename if error.filename and os.path.isdir(path) else path  # noqa: PTH112
        raise UserError(f"{where}: cannot be {doing}: {reason_of(error)}{advice and '; '}{advice}") from None


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
