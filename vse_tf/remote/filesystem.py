"""Reading and writing objects by their addresses: errors of one line, repeated after passing failures.

fsspec is imported when the first address is used: local commands never wait for it.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, TypeVar

from vse_tf.addresses import HTTP, last_name, typed, without_secrets
from vse_tf.display import say
from vse_tf.errors import UserError

T = TypeVar("T")
# A failed request is repeated after 0.2, 0.4 and 0.8 seconds, a little more at random so that many workers spread.
# s3fs and gcsfs have tried several times before that.
TRIES, FIRST_WAIT = 4, 0.2
# Bytes of a request: large enough for full speed, small enough that a cut connection costs little.
CHUNK = 16 * 2**20
# What tells two contents of one address apart, the most reliable first.
_TOKENS = ["ETag", "etag", "generation", "md5Hash", "Content-MD5", "Last-Modified", "LastModified", "updated"]
_TOKENS += ["created", "mtime"]
_PASSING = ("aiohttp", "botocore", "aiobotocore", "gcsfs", "google", "requests", "urllib3", "asyncio")
_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError")
_KEYS = (
    "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; for a public bucket set "
    "FSSPEC_S3_ANON=true"
)
_GOOGLE_KEYS = "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS, or FSSPEC_GCS_TOKEN=anon"


class ChangedError(Exception):
    """An object was replaced, or removed, while it was read."""


@dataclass(frozen=True)
class Version:
    """Which contents an object has.

    Args:
        token: another one with other contents: an ETag where there is one.
        size: in bytes; None if the server does not tell.
    """

    token: str
    size: int | None

    @property
    def mtime_ns(self) -> int:
        """A modification time that stands for the token, for files whose readers compare times."""
        return int(hashlib.sha256(self.token.encode()).hexdigest()[:7], 16) * 10**9

    @classmethod
    def of(cls, info: dict[str, Any]) -> Version:
        """The version in what fsspec tells of an object."""
        token = next((info[key] for key in _TOKENS if info.get(key)), "")
        # A listing and a question about one object may tell it in different ways.
        token = token.timestamp() if isinstance(token, datetime) else str(token).strip('"')
        size = info.get("size")
        return cls(f"{token} {size}", None if size is None else int(size))


def opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it.

    Args:
        address: what is shown of one that the user has typed, or of something below it.

    Raises:
        UserError: it was not typed, or the extra is not installed.
    """
    full = typed(address)
    scheme = address.partition("://")[0]
    try:
        import fsspec  # noqa: PLC0415

        found = fsspec.core.url_to_fs(full, use_listings_cache=False)
    except ImportError:
        raise UserError(f"{address}: {scheme}:// needs the extra: pip install 'vse_tf[remote]'") from None
    except Exception as error:
        raise UserError(f"{address}: cannot be opened: {without_secrets(error)}") from None
    return found


def repeated(address: str, do: Callable[[], T], doing: str = "read") -> T:
    """The result of a request, repeated after failures that may pass.

    Args:
        address: for messages.
        do: the request.
        doing: `read` or `written`.

    Raises:
        FileNotFoundError: there is no such object.
        UserError: it is refused, or has failed `TRIES` times.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return do()
        except (UserError, ChangedError):
            raise
        except Exception as raised:
            error = _cause(raised)
            if isinstance(error, FileNotFoundError):
                raise
            reason = _reason(address, error)
            if not _passes(error) or attempt == TRIES:
                times = f" ({TRIES} times)" if attempt > 1 else ""
                raise UserError(f"{address}: cannot be {doing}: {reason}{times}") from None
            if attempt > 1:
                say(f"{address}: {reason}; trying again", sys.stderr)
        time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * (1 + random.random()))
    raise AssertionError


def _cause(error: Exception) -> Exception:
    """An error, or what it came from: of every failure of a web server fsspec says that there is no such file."""
    cause = error.__cause__ or error.__context__
    of_server = isinstance(error, FileNotFoundError) and type(cause).__module__.startswith("aiohttp")
    if of_server and isinstance(cause, Exception) and getattr(cause, "status", None) not in (404, 410):
        return cause
    return error


def _passes(error: Exception) -> bool:
    if isinstance(error, PermissionError) or type(error).__name__ in _NO_CREDENTIALS:
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return False
    kind = type(error)
    return isinstance(error, (OSError, TimeoutError)) or kind.__module__.partition(".")[0] in _PASSING


def _reason(address: str, error: Exception) -> str:
    text = without_secrets(error)[:300]
    if type(error).__name__ in _NO_CREDENTIALS or "locate credentials" in text:
        return _GOOGLE_KEYS if address.startswith("g") else _KEYS
    if isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403):
        return "access denied; check the credentials and their permissions"
    return text or type(error).__name__


def missing(address: str) -> UserError:
    """The error of an address with nothing there."""
    return UserError(f"{address}: nothing is there; check the address")


def version(address: str) -> Version | None:
    """The present version of an object; None if there is none, a folder for instance."""
    fs, path = opened(address)
    try:
        info = repeated(address, lambda: fs.info(path))
    except FileNotFoundError:
        return None
    return Version.of(info) if info.get("type") != "directory" else None


def listed(address: str) -> dict[str, Version]:
    """All objects below a folder, by their names relative to it, in the order of the names.

    Raises:
        UserError: a web server lists nothing, or a name could lead out of a folder.
    """
    if address.partition("://")[0] in HTTP:
        raise UserError(f"{address}: a web server does not list its files; name each file, or use a bucket")
    fs, path = opened(address)
    root = fs._strip_protocol(path).rstrip("/")
    try:
        found = repeated(address, lambda: fs.find(path, detail=True))
    except FileNotFoundError:
        return {}
    names = {}
    for key, info in found.items():
        name = str(key)[len(root) + 1 :] if str(key).startswith(f"{root}/") else ""
        if not name or name.endswith("/"):
            # The folder itself, for which some tools write an empty object.
            continue
        if {"", ".", ".."} & set(name.split("/")) or "\\" in name or "\0" in name:
            raise UserError(f"{address}: holds an object with the name {name[:100]!r}, which cannot be a file's")
        names[name] = Version.of(info)
    return dict(sorted(names.items()))


def read_range(address: str, start: int, end: int) -> bytes:
    """Bytes of an object.

    Raises:
        ChangedError: there is no such object any more, or it is too short.
        UserError: it cannot be read.
    """
    fs, path = opened(address)

    def read() -> bytes:
        # By name: the second argument by position is a version id in s3fs.
        found = fs.cat_file(path, start=start, end=end)
        if start == 0 and len(found) > end:
            # A web server without ranges.
            return found[:end]
        if len(found) != end - start:
            raise OSError(f"{len(found)} bytes arrived where {end - start} were expected")
        return found

    try:
        return repeated(address, read) if end > start else b""
    except FileNotFoundError:
        raise ChangedError(address) from None


def read_object(address: str, limit: int) -> bytes:
    """The contents of a small object.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read, or is larger than `limit`.
    """
    found = version(address)
    if found is None:
        raise FileNotFoundError(address)
    if found.size is not None and found.size > limit:
        raise UserError(f"{address}: {found.size} bytes, more than the limit of {limit}")
    fs, path = opened(address)
    return repeated(address, lambda: fs.cat_file(path))


def download(
    address: str, expected: Version, file: BinaryIO, advance: Callable[[int], object] = lambda count: None
) -> None:
    """Copy an object into a file.

    Args:
        address: the object.
        expected: its version.
        file: open for writing.
        advance: called with the number of bytes since the last call.

    Raises:
        ChangedError: it was replaced or removed meanwhile; what was written is of no use.
        UserError: it cannot be read.
    """
    fs, path = opened(address)
    if expected.size is None:
        try:
            file.write(repeated(address, lambda: fs.cat_file(path)))
        except FileNotFoundError:
            raise ChangedError(address) from None
    for start in range(0, expected.size or 0, CHUNK):
        advance(file.write(read_range(address, start, min(start + CHUNK, expected.size or 0))))
    if version(address) != expected:
        raise ChangedError(address)


def upload(address: str, contents: bytes | str, local: str | None = None) -> None:
    """Write an object; readers see the old contents or the new ones.

    Args:
        address: the object.
        contents: its contents; ignored where `local` is given.
        local: a local file to copy.

    Raises:
        UserError: it cannot be written.
    """
    fs, path = opened(address)
    data = contents.encode() if isinstance(contents, str) else contents

    def write() -> None:
        # A web server takes none.
        fs.put_file(local, path) if local is not None else fs.pipe_file(path, data)

    _written(address, write)


def remove(address: str) -> None:
    """Delete an object, if it is there."""
    fs, path = opened(address)

    def delete() -> None:
        try:
            fs.rm_file(path)
        except FileNotFoundError:
            return

    _written(address, delete)


def _written(address: str, do: Callable[[], None]) -> None:
    try:
        repeated(address, do, "written")
    except FileNotFoundError:
        raise UserError(f"{address}: cannot be written: there is no such bucket") from None


def check_writable(address: str, option: str) -> None:
    """Check, before any work, that objects can be written below an address.

    Raises:
        UserError: they cannot.
    """
    if address.partition("://")[0] in HTTP:
        raise UserError(f"{option}: {address}: a web server takes no files; name a bucket, s3:// or gs://")
    probe = f"{address}/.vse_tf-{last_name(address)}-{random.getrandbits(32):08x}"
    try:
        upload(probe, b"")
        remove(probe)
    except UserError as error:
        raise UserError(f"{option}: {error}") from None
