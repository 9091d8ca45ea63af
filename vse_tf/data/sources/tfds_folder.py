"""Checks prepared TensorFlow Datasets folders from others before TensorFlow Datasets reads them.

Its reader imports whatever module a folder's `features.json` names, and opens the files that its `dataset_info.json`
names.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vse_tf.data.sources.files import expanded
from vse_tf.errors import UserError
from vse_tf.files import read_json, reason_of
from vse_tf.setting_types import PathText

# name/config:version; no namespace, which is other people's code, and no arguments of the builder.
NAME = re.compile(r"[A-Za-z]\w*(/[\w+.-]+)?(:(\d+|\*)(\.(\d+|\*)){2})?", re.ASCII)
_PLAIN = re.compile(r"[\w.+-]*")
_CLASS_KEYS = ("type", "pythonClassName", "python_class_name")
_OWN = "tensorflow_datasets.core.features."
# <name>/<config>/<version>/<file>
_DEPTH = 3


def check_prepared(name: str, data_dir: str | None) -> None:
    """Refuse a prepared data set whose description names code, or files outside of its folder.

    Args:
        name: `data.tfds.name`.
        data_dir: `data.tfds.data_dir`; None for TensorFlow Datasets' own folder.

    Raises:
        UserError: the name, the folder or a description in it may not be read.
    """
    from tensorflow_datasets.core import constants, naming  # noqa: PLC0415

    if not NAME.fullmatch(name):
        raise UserError(
            f"--data.tfds.name {name[:100]!r}: give a data set of TensorFlow Datasets as name, name/config or "
            "name/config:1.0.0"
        )
    folder = str(data_dir or constants.DATA_DIR)
    if problem := PathText().problem(folder):
        raise UserError(f"--data.tfds.data_dir: {problem}")
    root = expanded(folder)
    if root.exists() and not root.is_dir():
        raise UserError(f"--data.tfds.data_dir {root}: not a folder")
    plain = naming.parse_builder_name_kwargs(name)[0].name
    for place in sorted({plain, name.partition("/")[0].partition(":")[0]}):
        _check_folder(root / place, _DEPTH)


def _check_folder(folder: Path, depth: int) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        # There is nothing to read.
        return
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir():
            if depth:
                _check_folder(path, depth - 1)
        elif not entry.is_file():
            raise UserError(f"{path}: not a regular file; a prepared data set holds no others")
        elif entry.name == "features.json":
            _check_file(path, _check_features)
        elif entry.name == "dataset_info.json":
            _check_file(path, _check_info)


def _check_file(path: Path, check: Callable[[Any], None]) -> None:
    try:
        check(read_json(path))
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: {reason}; the data set is not read") from None


def _check_features(description: object) -> None:
    from tensorflow_datasets.core.features import feature  # noqa: PLC0415

    known = {name for name in feature.FeatureConnector._registered_features if name.startswith(_OWN)}
    waiting = [description]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, str) and item.lstrip().startswith(("{", "[")):
            # Parts of a description are JSON in a JSON string; other texts that begin like JSON are harmless.
            waiting.append(_parsed(item))
        elif isinstance(item, dict):
            for key, value in item.items():
                if key in _CLASS_KEYS and isinstance(value, str) and value not in known:
                    raise ValueError(f"it names the feature class {value[:100]!r}, not one of TensorFlow Datasets")
                if key.startswith("/") or ".." in key.split("/") or "://" in key:
                    raise ValueError(f"it names a feature {key[:100]!r}")
            waiting += item.values()


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _check_info(description: object) -> None:
    """Refuse names that would become paths outside of the folder."""
    if not isinstance(description, dict):
        raise ValueError("not a description of a data set")
    splits = description.get("splits", [])
    for item in [description, *(splits if isinstance(splits, list) else [])]:
        for key, value in item.items() if isinstance(item, dict) else ():
            plain = key.replace("_", "").lower()
            if plain in ("name", "configname", "version", "fileformat") and not _PLAIN.fullmatch(str(value)):
                raise ValueError(f"{key}: {str(value)[:100]!r} is not a plain name")
            if plain == "filepathtemplate" and re.search(r"[/\\]|\.\.", str(value)):
                raise ValueError(f"{key}: {str(value)[:100]!r} leads out of the folder")
