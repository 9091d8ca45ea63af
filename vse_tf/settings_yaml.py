"""Reads YAML files of settings within bounds: a few lines of YAML may stand for a billion values."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from vse_tf.errors import UserError
from vse_tf.files import read_regular, reason_of

# Far above any settings, and read within a second or two.
YAML_BYTES, YAML_VALUES, YAML_DEPTH = 64 * 2**10, 20_000, 100


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a settings file; of an empty file an empty one.

    Args:
        path: the file; it may be a stranger's.

    Raises:
        UserError: it cannot be read, is no mapping, or would take long to read: it is too large, nested too deeply, or
            grows with its aliases.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "recipe.yaml")
        ...     _ = path.write_text("train: {epochs: 3}")
        ...     read_yaml(path)
        {'train': {'epochs': 3}}
    """
    try:
        text = read_regular(path, YAML_BYTES).decode("utf-8")
        # PyYAML's time grows with the square of the depth.
        if (
            max(itertools.accumulate((bracket in "[{") * 2 - 1 for bracket in re.findall(r"[][{}]", text)), default=0)
            > YAML_DEPTH
        ):
            raise ValueError(f"values nested more than {YAML_DEPTH} deep")
        _check_size(yaml.compose(text, Loader=yaml.SafeLoader))
        values = yaml.safe_load(text)
    # Numbers of thousands of digits and impossible dates are ValueErrors.
    except (OSError, ValueError, TypeError, OverflowError, RecursionError, yaml.YAMLError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read: {reason}") from None
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings")
    return values or {}


def _check_size(node: yaml.Node | None) -> None:
    """Refuse a document that grows with its aliases: ten lines can stand for a billion values."""
    waiting, count = [node] if node else [], 0
    while waiting:
        item = waiting.pop()
        count += 1
        if count > YAML_VALUES:
            raise ValueError(f"more than {YAML_VALUES} values, those that aliases repeat included")
        if isinstance(item, yaml.SequenceNode):
            waiting += item.value
        elif isinstance(item, yaml.MappingNode):
            waiting += [part for pair in item.value for part in pair]
