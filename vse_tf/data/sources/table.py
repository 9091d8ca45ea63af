"""The source `table`: text or JSON rows, each with an image path, a caption and, optionally, a split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vse_tf.config import DataSettings, TableSettings
from vse_tf.data.records import Collection, Report
from vse_tf.data.sources.building import Gathering, collect_files, draw_splits, split_names
from vse_tf.data.sources.files import json_type, one_path, read_text, short_repr
from vse_tf.data.sources.image_folder import ImageFolder
from vse_tf.data.sources.missing_images import check_any_found
from vse_tf.data.sources.rows import array_rows, field_rows, json_rows, looks_like_image, wrong_count
from vse_tf.data.sources.table_layout import find_columns, json_kind, missing_columns, text_table
from vse_tf.errors import UserError

# An image with the number of its caption, as Flickr8k.token.txt has it.
NUMBERED = re.compile(r"(.+\.\w+)#(\d{1,9})")
# The line that Excel reads the separator from.
SEPARATOR_LINE = re.compile(r"sep=.\r?\n")


@dataclass(slots=True)
class _Row:
    line: int
    image: Any
    caption: Any
    split: Any
    number: int | None = None


def read_table(settings: DataSettings, progress: bool = True) -> Collection:
    """Read a caption table.

    It is text or JSON, whatever its suffix: fields between commas, semicolons, tabs or `|`, quoted as RFC 4180 has it,
    with a header row (or, where that is clear, without: image, caption and perhaps a split); one JSON object per line;
    or one JSON array of objects. An image on several rows has the captions of all of them; a caption that is there
    twice counts once, unless they are numbered (`name.jpg#0`). Without a split column the split of each image is
    drawn.

    Args:
        settings: `annotations` is the file; `images` the image folder (default: the file's own folder); `table` names
            the columns.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: the file's problems, by line.
    """
    path = one_path(settings.annotations, "data.annotations", "caption table (CSV or JSONL)")
    text = read_text(path)
    if not text.strip():
        raise UserError(f"{path}: the file is empty")
    root = one_path(settings.images, "data.images", "image folder") if settings.images else path.parent
    folder = ImageFolder(root)
    report = Report()
    rows = list(_read_rows(path, text, settings.table, folder, report))
    del text
    has_split = any(row.split is not None for row in rows)
    good = []
    for row in rows:
        if not isinstance(row.image, str):
            kind = json_type(row.image)
            report.add(_place(path, row), f"wrong type: {settings.table.image_column} is {kind}, not a string")
        elif has_split and row.split is None:
            report.add(_place(path, row), f"missing key: {settings.table.split_column}, which other rows have")
        elif has_split and not isinstance(row.split, str):
            kind = json_type(row.split)
            report.add(_place(path, row), f"wrong type: {settings.table.split_column} is {kind}, not a string")
        else:
            good.append(row)
    files = _find_images(path, good, folder, report)
    if has_split:
        names = split_names(dict.fromkeys(row.split for row in good), str(path), any_case=True)
        splits = [names[row.split] for row in good]
    else:
        # Also over images that cannot be found: a missing image must not move the others to other splits.
        keys = [_key(row.image, files, folder) for row in good]
        drawn = draw_splits(keys, settings)
        splits = [drawn[key] for key in keys]
    gathering = Gathering(report)
    for row, split in zip(good, splits, strict=True):
        file = files[row.image]
        where = _place(path, row)
        entry = gathering.image(file, split, where, merge=True) if file else None
        if entry and isinstance(row.caption, list):
            for number, caption in enumerate(row.caption):
                gathering.caption(entry, caption, f"{where}, caption {number + 1}" if len(row.caption) > 1 else where)
        elif entry:
            identity = None if row.number is None else ("caption number", row.number)
            gathering.caption(entry, row.caption, where, identity)
    return collect_files("table", gathering, settings, progress)


def _place(path: Path, row: _Row) -> str:
    return f"{path}: line {row.line}"


def _find_images(path: Path, rows: list[_Row], folder: ImageFolder, report: Report) -> dict[str, str]:
    """The file of each image name; a missing one is an empty string and one problem."""
    files: dict[str, str] = {}
    missing: dict[str, str] = {}
    for row in rows:
        if row.image not in files:
            try:
                files[row.image] = folder.find(row.image)
            except ValueError as error:
                files[row.image] = ""
                missing[row.image] = str(error)
                report.add(_place(path, row), str(error))
    check_any_found(path, [Path(folder.root)], missing, len(files) - len(missing))
    return files


def _key(image: str, files: dict[str, str], folder: ImageFolder) -> str:
    return folder.relative(files[image]) if files[image] else image


def _read_rows(path: Path, text: str, table: TableSettings, folder: ImageFolder, report: Report) -> Iterator[_Row]:
    kind = json_kind(path, text)
    if kind:
        yield from _json_table(path, array_rows(path, text) if kind == "array" else json_rows(text), table, report)
        return
    line = SEPARATOR_LINE.match(text)
    # A blank line instead, which leaves the numbers of the others.
    text = f"\n{text[line.end() :]}" if line else text
    found = text_table(path, text, table)
    names, width = found.names, len(found.names)
    image, caption = names.index(found.columns.image), names.index(found.columns.caption)
    split = names.index(found.columns.split) if found.columns.split in names else None
    # One string for all rows of an image or a split.
    known: dict[str, str] = {}
    numbered: bool | None = None
    rows = field_rows(path, text, found.layout, lambda name: looks_like_image(name) or _is_there(folder, name))
    reference = "the header"
    if found.header:
        next(rows)
    else:
        reference = "the first line"
    for number, fields in rows:
        if len(fields) != width:
            report.add(f"{path}: line {number}", wrong_count(len(fields), width, reference))
            continue
        name = fields[image].strip()
        if numbered is None:
            numbered = NUMBERED.fullmatch(name) is not None and not _is_there(folder, name)
        match = NUMBERED.fullmatch(name) if numbered else None
        name = match[1] if match else name
        part = None if split is None else fields[split].strip()
        yield _Row(
            number,
            known.setdefault(name, name),
            fields[caption],
            None if part is None else known.setdefault(part, part),
            int(match[2]) if match else None,
        )


def _is_there(folder: ImageFolder, name: str) -> bool:
    try:
        return bool(folder.find(name))
    except ValueError:
        return False


def _json_table(
    path: Path, numbered: Iterator[tuple[int, dict[str, Any] | str]], table: TableSettings, report: Report
) -> Iterator[_Row]:
    items: list[tuple[int, dict[str, Any]]] = []
    for number, item in numbered:
        if isinstance(item, str):
            report.add(f"{path}: line {number}", item)
        else:
            items.append((number, item))
    if not items:
        return
    names = list(dict.fromkeys(key for _, item in items for key in item))
    columns = find_columns(names, table)
    if columns is None:
        raise missing_columns(path, names, table, "key")
    for number, item in items:
        missing = [key for key in (columns.image, columns.caption) if key not in item]
        if missing:
            there = short_repr(list(item))
            report.add(f"{path}: line {number}", f"missing key: {' and '.join(missing)}; there are: {there}")
        elif item[columns.caption] == []:
            report.add(f"{path}: line {number}", f"image without captions: {columns.caption} is an empty list")
        else:
            split = item.get(columns.split)
            split = split.strip() if isinstance(split, str) else split
            yield _Row(number, item[columns.image], item[columns.caption], split)
