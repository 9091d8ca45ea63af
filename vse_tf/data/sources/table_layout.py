"""How a caption table is written: its separator, its columns, and whether its first line names them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vse_tf.config import TableSettings
from vse_tf.data.sources.files import json_type, short_repr
from vse_tf.data.sources.rows import Layout, looks_like_image
from vse_tf.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
# The image and caption column of well-known tables: Flickr30k's results.csv, open_clip's, and imagefolder's.
KNOWN_COLUMNS = (("image_name", "comment"), ("filepath", "title"), ("file_name", "text"))
SPLITS = ("train", "val", "test", "valid", "validation", "dev", "restval")
# Enough for the first row.
START = 1 << 16


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns with the image, the caption and the split, as the file spells them."""

    image: str
    caption: str
    split: str


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of text lines.

    Args:
        layout: how its rows are written.
        columns: the columns that are read.
        names: the names of all columns, in order.
        header: its first row holds the names.
    """

    layout: Layout
    columns: Columns
    names: list[str]
    header: bool


def find_columns(names: Sequence[str], table: TableSettings) -> Columns | None:
    """The columns that the settings mean; None if one is missing.

    Names that differ in letter case only are found, and those of well-known tables where the settings name none.
    """
    default = TableSettings()
    split = _find(table.split_column, names) or table.split_column
    pairs = [(table.image_column, table.caption_column)]
    if pairs[0] == (default.image_column, default.caption_column):
        pairs += KNOWN_COLUMNS
    for pair in pairs:
        image, caption = (_find(name, names) for name in pair)
        if image and caption:
            # A column named by the user must exist; splits are not drawn instead.
            return Columns(image, caption, split) if split in names or split == default.split_column else None
    return None


def text_table(path: Path, text: str, table: TableSettings) -> TextTable:
    """Find out how a table of text lines is written.

    Args:
        path: the file, for the message.
        text: its contents, not blank.
        table: the columns that the user names.

    Raises:
        UserError: it is not clear; the message says what is there.
    """
    rows = {separator: first_row(text, separator) for separator in SEPARATORS}
    for separator, fields in rows.items():
        names = [name.strip() for name in fields]
        columns = find_columns(names, table)
        if columns:
            _check_once(path, columns, names)
            spaced = all(name.startswith(" ") for name in fields[1:])
            # Captions of `| ` tables begin with quotation marks that close nowhere.
            return TextTable(Layout(separator, not (spaced and separator == "|"), spaced), columns, names, True)
    default = TableSettings(split_column=table.split_column)
    if table == default:
        found = [_without_header(separator, fields) for separator, fields in rows.items()]
        clear = [one for one in found if one]
        if len(clear) == 1 and table == TableSettings():
            return clear[0]
    separator = max(rows, key=lambda key: len(rows[key]))
    raise missing_columns(path, [name.strip() for name in rows[separator]], table, "column", SEPARATORS[separator])


def first_row(text: str, separator: str) -> list[str]:
    """The fields of the first row that is not blank."""
    start = text.lstrip()[:START] if len(text) <= START else text[: 2 * START].lstrip()[:START]
    fields: list[str] = next(Layout(separator).reader(start, strict=False), [])
    return fields


def _without_header(separator: str, fields: list[str]) -> TextTable | None:
    """The table whose first row is a row of data: an image, a caption and perhaps a split or the caption's number."""
    if len(fields) not in (2, 3) or not looks_like_image(fields[0]):
        return None
    names = ["image", "caption"]
    if len(fields) == 3:
        second, third = fields[1].strip(), fields[2].strip()
        if third.lower() in SPLITS:
            names = ["image", "caption", "split"]
        elif second.lower() in SPLITS:
            names = ["image", "split", "caption"]
        elif second.isdecimal():
            names = ["image", "number", "caption"]
        else:
            return None
    spaced = all(field.startswith(" ") for field in fields[1:])
    # `name.jpg#0<tab>caption` is written without quoting: marks belong to the captions.
    plain = (separator == "\t" and "#" in fields[0]) or (separator == "|" and spaced)
    return TextTable(Layout(separator, not plain, spaced), Columns("image", "caption", "split"), names, False)


def _find(name: str, names: Sequence[str]) -> str | None:
    if name in names:
        return name
    same = [other for other in names if other.casefold() == name.casefold()]
    return same[0] if len(same) == 1 else None


def _check_once(path: Path, columns: Columns, names: list[str]) -> None:
    repeated = {name for name in (columns.image, columns.caption, columns.split) if names.count(name) > 1}
    if repeated:
        raise UserError(f"{path}: the column {' and '.join(map(repr, sorted(repeated)))} occurs more than once")


def missing_columns(
    path: Path, names: Sequence[str], table: TableSettings, what: Literal["column", "key"], separator: str = ""
) -> UserError:
    """The error for a table that lacks columns or keys."""
    wanted = {"image_column": table.image_column, "caption_column": table.caption_column}
    if table.split_column != TableSettings.split_column:
        wanted["split_column"] = table.split_column
    missing = {setting: name for setting, name in wanted.items() if _find(name, names) is None}
    by = f" (separated by {separator})" if separator and separator != "commas" and len(names) > 1 else ""
    advice = f"name yours with {' and '.join(f'--data.table.{setting}' for setting in missing)}"
    if any(map(looks_like_image, names)):
        objects = "one JSON object per image and caption is expected"
        advice = objects if what == "key" else f"that looks like a row: put a line {','.join(wanted.values())} above it"
    return UserError(
        f"{path}: no {what} {' and '.join(map(repr, missing.values()))}; there are: "
        f"{', '.join(map(short_repr, names))}{by}; {advice}"
    )


def json_kind(path: Path, text: str) -> Literal["lines", "array", ""]:
    """How a table of JSON is written; empty if it is none.

    Args:
        path: the file; its suffix counts where the contents are not clear.
        text: its contents, not blank.

    Raises:
        UserError: it is one JSON object, as other kinds of caption file are.
    """
    start = text[:START].lstrip()
    named = any(suffix.lower() in (".jsonl", ".ndjson", ".json") for suffix in path.suffixes[-2:])
    is_object = start.startswith("{") and _parsed(_first_line(start)) is not None
    if not (named or is_object or re.match(r"\[\s*\{", start)):
        return ""
    if start.startswith("["):
        rest = text.lstrip().partition("\n")[2]
        return "lines" if rest.strip() and _parsed(_first_line(text.lstrip())) is not None else "array"
    if start.startswith("{"):
        first = _parsed(_first_line(text.lstrip()))
        item = first if isinstance(first, dict) else _parsed(text)
        if isinstance(item, dict) and isinstance(item.get("images"), list):
            kind = "coco" if "annotations" in item else "karpathy"
            raise UserError(f"{path}: a caption file of the kind {kind}; read it with --data.source {kind}")
        if item is not None and first is None:
            keys = ", ".join(map(short_repr, list(item)[:5])) if isinstance(item, dict) else json_type(item)
            raise UserError(
                f"{path}: one JSON object with the keys {keys}; a table is an array of objects, or one object per line"
            )
    return "lines"


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
