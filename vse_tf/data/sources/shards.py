"""Finds the shards that a setting names, and the split in a shard's name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vse_tf.addresses import is_address
from vse_tf.config import DataSettings
from vse_tf.data.sources.building import KNOWN_SPLITS, SPLIT_ALIASES
from vse_tf.data.sources.files import one_path
from vse_tf.errors import UserError
from vse_tf.remote.shards import shards_at
from vse_tf.setting_types import Paths
from vse_tf.source_detection import RANGE, is_pattern

MOST_SHARDS = 1_000_000


def shard_paths(value: Paths, suffix: str, settings: DataSettings | None = None) -> list[Path]:
    """The shards that `data.annotations` names.

    Args:
        value: shards, folders of shards (subfolders included), and patterns: `*`, `?`, or a range as in
            `train-{00000..00041}.tar`.
        suffix: of the shards in a folder, with its dot.
        settings: for remote shards, whose paths in the cache are returned: `cache_dir` and `cache_size` are read.

    Raises:
        UserError: a path, folder or pattern names no shard.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for number in range(3):
        ...         Path(folder, f"train-{number}.tar").touch()
        ...     [path.name for path in shard_paths(f"{folder}/train-{{0..1}}.tar", ".tar")]
        ['train-0.tar', 'train-1.tar']
    """
    found: dict[Path, None] = {}
    for text in [value] if isinstance(value, str) else value or [""]:
        if is_address(text):
            found |= dict.fromkeys(shards_at(text, suffix, settings or DataSettings()))
            continue
        path = one_path(text, "data.annotations", f"*{suffix} shard")
        if path.is_dir():
            named = sorted(each for each in path.rglob(f"*{suffix}") if not _hidden(each, path))
            what = f"a folder without *{suffix} files"
        elif not is_pattern(str(path)):
            named, what = [path], ""
        else:
            named, what = expanded_pattern(str(path)), "no file has such a name"
        if not named:
            raise UserError(f"data.annotations: {path}: {what}; name the shards, their folder or a pattern")
        found |= dict.fromkeys(named)
    return list(found)


def expanded_pattern(pattern: str) -> list[Path]:
    """The files of a pattern, in the order of their names; those of a range whether they are there or not."""
    match = RANGE.search(pattern)
    if match is None:
        return [Path(each) for each in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute patterns
    first, last = int(match[1]), int(match[2])
    if last - first >= MOST_SHARDS:
        raise UserError(f"data.annotations: {pattern}: more than {MOST_SHARDS:,} shards")
    start, end = pattern[: match.start()], pattern[match.end() :]
    names = (f"{start}{number:0{len(match[1])}}{end}" for number in range(first, last + 1))
    return [path for name in names for path in (expanded_pattern(name) if is_pattern(name) else [Path(name)])]


def splits_of_names(paths: Sequence[Path]) -> list[str | None]:
    """The split in each shard's name, as in `train-00000.tar` or `val/00000.tar`; None where there is none.

    A folder's name counts only if the shards are in several folders.

    Example:
        >>> splits_of_names([Path("flickr-train-0000.tar"), Path("coco_val2014_0.tar"), Path("0001.tar")])
        ['train', 'val', None]
    """
    several = len({path.parent for path in paths}) > 1
    return [_split(path.stem) or (_split(path.parent.name) if several else None) for path in paths]


def _split(name: str) -> str | None:
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word in KNOWN_SPLITS]
    meant = {SPLIT_ALIASES.get(word, word) for word in words}
    return meant.pop() if len(meant) == 1 else None


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts) or not os.path.isfile(path)  # noqa: PTH113
