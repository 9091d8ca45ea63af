"""What both kinds of tokenizers share: start and end markers, the limit of tokens, and `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.files import read_json
from vse_tf.preprocessing.tokenizer_assets import DESCRIPTION

MOST_TOKENS = 2**16  # as in the settings


def between(ids: tf.RaggedTensor, start: int | None, end: int | None) -> tf.RaggedTensor:
    """Put a start and an end id around each row of ids `(n, None)`; none where it is None."""
    ones = tf.ones((ids.nrows(), 1), tf.int32)
    parts = [*([] if start is None else [start * ones]), ids, *([] if end is None else [end * ones])]
    return tf.concat(parts, axis=1)


def check_max_tokens(max_tokens: int, markers: int) -> None:
    """Raise a `UserError` unless `max_tokens` ids hold a word besides the markers."""
    if max_tokens <= markers:
        raise UserError(f"text.max_tokens: {max_tokens} is too small for a word; give {markers + 1} or more")


def describe(folder: str | Path, settings: dict[str, Any]) -> None:
    """Write `tokenizer.json` into a folder, which is made if there is none."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / DESCRIPTION).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def description(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    """Read `tokenizer.json` from a folder.

    Args:
        folder: the folder.
        kind: `words` or `preset`; None: either.

    Raises:
        UserError: it is missing, broken or of another kind.
    """
    path = Path(folder) / DESCRIPTION
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer can be read here: {error}; give a folder that training wrote") from error
    kinds = [kind] if kind else ["words", "preset"]
    values = settings if isinstance(settings, dict) else {}
    length = values.get("max_tokens")
    if values.get("kind") not in kinds or type(length) is not int or not 0 < length <= MOST_TOKENS:
        raise UserError(
            f"{path}: needs `kind` ({' or '.join(kinds)}) and `max_tokens` (up to {MOST_TOKENS}); copy the file again"
        )
    return settings
