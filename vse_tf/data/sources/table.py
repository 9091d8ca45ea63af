"""The source `table`: a CSV or JSONL file with an image path, a caption and, optionally, a split in each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vse_tf.config import DataSettings, TableSettings
from vse_tf.data.records import Collection, Report
from vse_tf.data.sources.building import Gathering, collect_files, draw_splits, split_names
from vse_tf.data.sources.files import ImageFolder, csv_rows, json_rows, json_type, one_path, read_text, short_repr
from vse_tf.errors import UserError

JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(slots=True)
class _Row:
    where: str
    image: Any
    captions: list[object]
    split: Any


def read_table(settings: DataSettings, progress: bool = True) -> Collection:
    """Read a caption table.

    `.jsonl`, `.ndjson` and `.json` files hold one JSON object per line; any other file is CSV as RFC 4180 has it, with
    a header row. An image on several rows has the captions of all of them. Without a split column the split of each
    image is drawn.

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
    rows = list(_read_rows(path, text, settings.table, report))
    has_split = any(row.split is not None for row in rows)
    good = []
    for row in rows:
        if not isinstance(row.image, str):
            report.add(row.where, f"wrong type: {settings.table.image_column} is {json_type(row.image)}, not a string")
        elif has_split and row.split is None:
            report.add(row.where, f"missing key: {settings.table.split_column}, which other rows have")
        elif has_split and not isinstance(row.split, str):
            report.add(row.where, f"wrong type: {settings.table.split_column} is {json_type(row.split)}, not a string")
        else:
            good.append(row)
    files = _find_images(good, folder, report)
    if has_split:
        names = split_names((row.split.strip() for row in good), str(path))
        splits = [names[row.split.strip()] for row in good]
    else:
        # Also over images that cannot be found: a missing image must not move the others to other splits.
        keys = [_key(row.image, files, folder) for row in good]
        drawn = draw_splits(keys, settings)
        splits = [drawn[key] for key in keys]
    gathering = Gathering(report)
    for row, split in zip(good, splits, strict=True):
        file = files[row.image]
        entry = gathering.image(file, split, row.where, merge=True) if file else None
        for number, caption in enumerate(row.captions if entry else ()):
            place = f"{row.where}, caption {number + 1}" if len(row.captions) > 1 else row.where
            if entry:
                gathering.caption(entry, caption, place)
    return collect_files("table", gathering.entries, settings, report, progress)


def _find_images(rows: list[_Row], folder: ImageFolder, report: Report) -> dict[str, str]:
    """The file of each image name; a missing one is an empty string and one problem."""
    files: dict[str, str] = {}
    for row in rows:
        if row.image not in files:
            try:
                files[row.image] = folder.find(row.image)
            except ValueError as error:
                files[row.image] = ""
                report.add(row.where, str(error))
    return files


def _key(image: str, files: dict[str, str], folder: ImageFolder) -> str:
    return folder.relative(files[image]) if files[image] else image


def _read_rows(path: Path, text: str, table: TableSettings, report: Report) -> Iterator[_Row]:
    is_json = path.suffix.lower() in JSONL_SUFFIXES
    numbered = json_rows(text) if is_json else csv_rows(path, text, partial(_check_columns, path, table, "column"))
    items: list[tuple[str, dict[str, Any]]] = []
    for number, item in numbered:
        where = f"{path}: line {number}"
        if isinstance(item, str):
            report.add(where, item)
        else:
            items.append((where, item))
    if is_json and items:
        _check_columns(path, table, "key", list(dict.fromkeys(key for _, item in items for key in item)))
    for where, item in items:
        missing = [key for key in (table.image_column, table.caption_column) if key not in item]
        if missing:
            report.add(where, f"missing key: {' and '.join(missing)}; there are: {short_repr(list(item))}")
            continue
        captions = item[table.caption_column]
        if captions == []:
            report.add(where, f"image without captions: {table.caption_column} is an empty list")
            continue
        split = item.get(table.split_column)
        yield _Row(where, item[table.image_column], captions if isinstance(captions, list) else [captions], split)


def _check_columns(path: Path, table: TableSettings, what: str, names: list[str]) -> None:
    wanted = {"image_column": table.image_column, "caption_column": table.caption_column}
    if table.split_column != TableSettings.split_column:
        # A column named by the user must exist; splits are not drawn instead.
        wanted["split_column"] = table.split_column
    missing = {setting: name for setting, name in wanted.items() if name not in names}
    if missing:
        raise UserError(
            f"{path}: no {what} {' and '.join(map(repr, missing.values()))}; there are: "
            f"{', '.join(map(short_repr, names))}; name yours with "
            f"{' and '.join(f'--data.table.{setting}' for setting in missing)}"
        )
    repeated = {name for name in (*wanted.values(), table.split_column) if names.count(name) > 1}
    if repeated:
        raise UserError(f"{path}: the {what} {' and '.join(map(repr, sorted(repeated)))} occurs more than once")
