"""The cache folder: what one run finds out about the data and the next one need not find out again."""

from __future__ import annotations

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
# What was found out about each of some millions of images.
CACHED_BYTES = 2**30


def cache_folder(settings: DataSettings) -> Path:
    """The folder for what is kept between runs; it need not exist yet.

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


def keep(path: Path, value: Any) -> None:
    """Keep a value as JSON for later runs; a folder that cannot be written costs a warning, not the run."""
    try:
        write_text(path, json.dumps(value, separators=(",", ":")))
    except OSError as error:
        reason = error.strerror or error
        # Python's default filter shows one text from one line once.
        warnings.warn(
            f"the cache folder {path.parent} cannot be written ({reason}): the data will be checked again next time; "
            "name another with --data.cache_dir",
            stacklevel=2,
        )


def kept(path: Path) -> Any:
    """What `keep` wrote there, or None where there is nothing or it cannot be read."""
    try:
        return read_json(path, CACHED_BYTES)
    except (OSError, ValueError):
        return None


def remember(folder: Path, file: Path, what: str, compute: Callable[[], T]) -> T:
    """The result of looking through a file, computed again only when its size or modification time has changed.

    Args:
        folder: cache folder.
        file: the file that is looked through.
        what: name of the result; another name is another result.
        compute: gives the result, something JSON can hold.

    Returns:
        The result, kept or new.
    """
    stat = file.stat()
    version = [stat.st_size, stat.st_mtime_ns]
    name = hashlib.sha256(os.fsencode(file.resolve())).hexdigest()[:24]
    path = folder / "verify" / f"{what}-{name}.json"
    found = kept(path)
    if isinstance(found, dict) and found.get("version") == version and "result" in found:
        return found["result"]
    result = compute()
    keep(path, {"version": version, "result": result})
    return result
