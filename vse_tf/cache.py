"""The cache folder, which holds what runs computed from the data for later runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from vse_tf.atomic import write_text
from vse_tf.config import DataSettings
from vse_tf.files import read_json

T = TypeVar("T")
# Enough for the results of several million images.
CACHED_BYTES = 2**30


def cache_folder(settings: DataSettings) -> Path:
    """The folder of cached results; it need not exist yet.

    Args:
        settings: `data.cache_dir` comes first, then `$VSE_TF_CACHE`, then `~/.cache/vse_tf` (in a temporary folder for
            a user without a home).

    Example:
        >>> cache_folder(DataSettings(cache_dir="cache"))
        PosixPath('cache')
    """
    named = settings.cache_dir or os.environ.get("VSE_TF_CACHE")
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "vse_tf"
    except RuntimeError:
        return Path(named or Path(tempfile.gettempdir()) / "vse_tf")


def write_cached(path: Path, value: object) -> None:
    """Write a value as JSON for later runs; a folder that cannot be written gives a warning, not an error."""
    try:
        write_text(path, json.dumps(value, separators=(",", ":")))
    except OSError as error:
        reason = error.strerror or error
        # Shown once: Python's default filter drops repeated texts from one line.
        warnings.warn(
            f"the cache folder {path.parent} cannot be written ({reason}): the data will be checked again next time; "
            "name another with --data.cache_dir",
            stacklevel=2,
        )


def read_cached(path: Path) -> Any:
    """What `write_cached` wrote there, or None if there is no such file or it cannot be read."""
    try:
        found = read_json(path, CACHED_BYTES)
    except (OSError, ValueError):
        return None
    with contextlib.suppress(OSError):
        # The cache removes first what was used least recently.
        os.utime(path)
    return found


def cached_result(
    folder: Path, file: Path, name: str, compute: Callable[[], T], state: tuple[int, int] | None = None
) -> T:
    """A result that depends on a file, computed again only if the file's size or modification time has changed.

    Args:
        folder: cache folder.
        file: the file that the result depends on.
        name: name of the result.
        compute: computes the result, a value that JSON can hold.
        state: the file's size and modification time in nanoseconds (default: as it is now).
    """
    if state is None:
        stat = file.stat()
        state = stat.st_size, stat.st_mtime_ns
    version = list(state)
    digest = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:24]
    path = folder / "verify" / f"{name}-{digest}.json"
    found = read_cached(path)
    if isinstance(found, dict) and found.get("version") == version and "result" in found:
        return found["result"]
    result = compute()
    write_cached(path, {"version": version, "result": result})
    return result
