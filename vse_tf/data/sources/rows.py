"""The rows of text tables: fields between separators, or JSON objects, each with its line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vse_tf.data.sources.files import json_type, problem_of_text, short_repr
from vse_tf.errors import UserError

IMAGE_NAME = re.compile(r"[^\t\n\"]*\.(jpe?g|jfif|png|gif|bmp|webp|tiff?|heic|avif)(#\d+)?", re.IGNORECASE)
# Number of lines of a field that are looked at.
LINES = 1000
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of a table are written.

    Args:
        separator: the character between two fields.
        quoted: fields may be in double quotes, as RFC 4180 has it; otherwise a quotation mark is a character.
        spaced: blanks after a separator do not count.
    """

    separator: str = ","
    quoted: bool = True
    spaced: bool = False

    def reader(self, text: str, strict: bool = True) -> Any:
        """A reader of the `csv` module."""
        return csv.reader(
            io.StringIO(text, newline=""),
            delimiter=self.separator,
            quoting=csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE,
            skipinitialspace=self.spaced,
            strict=strict,
        )


def looks_like_image(name: str) -> bool:
    """Whether a string has the suffix of an image file."""
    return IMAGE_NAME.fullmatch(name.strip()) is not None


def field_rows(
    path: Path, text: str, layout: Layout, is_image: Callable[[str], bool] = looks_like_image
) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table; blank lines are skipped.

    Args:
        path: the file, for messages.
        text: its contents.
        layout: how it is written.
        is_image: whether a string is the name of an image, as a row has one.

    Yields:
        The row's first line number, and its fields.

    Raises:
        UserError: a quotation mark is wrong, or encloses rows.
    """
    # Python's own limit of 131,072 is one for the process and would end the reading at a long caption.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    reader = layout.reader(text)
    start, width = 1, 0
    try:
        for fields in reader:
            number, start = start, reader.line_num + 1
            width = width or len(fields)
            if number + 1 < start:
                _check_lines(path, number, fields, layout, width, is_image)
            if fields:
                yield number, fields
    except csv.Error as error:
        # The reader stops at the last line; the line to look at is that of the opening mark.
        end = f" (noticed in line {reader.line_num})" if reader.line_num > start else ""
        raise UserError(
            f"{path}: line {start}: broken CSV: {error}{end}; is a quotation mark of this line not closed, or not "
            "doubled?"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _check_lines(
    path: Path, number: int, fields: list[str], layout: Layout, width: int, is_image: Callable[[str], bool]
) -> None:
    """Refuse a field of several lines that are rows themselves."""
    for column, field in enumerate(fields):
        lines = field.splitlines()
        last = len(lines) - 1
        if last > 0:
            # The first line lacks the columns before the field, and the last those after it.
            least = [width - column, *[width] * (last - 1), min(width, 2)]
            some = lines[:LINES]
            rows = [n for n, line in enumerate(some) if _is_row(line, max(2, least[n]), layout, is_image)]
            if rows:
                raise UserError(
                    f"{path}: line {number}: stray quotation mark: the one that opens here closes in line "
                    f"{number + last}, and {len(rows)} of these lines look like rows, the first is line "
                    f"{number + rows[0]}: {short_repr(lines[rows[0]])}; close or double the mark (captions of such "
                    "lines can be given as JSONL)"
                )
            number += last


def _is_row(line: str, least: int, layout: Layout, is_image: Callable[[str], bool]) -> bool:
    # Quotation marks of the line itself may be anywhere.
    fields = line.split(layout.separator)
    return len(fields) >= least and any(is_image(field.strip()) for field in fields)


def csv_rows(
    path: Path, text: str, check_header: Callable[[list[str]], None]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """The rows of a CSV file as RFC 4180 has it (commas, double quotes, line breaks inside quotes), with a header.

    Args:
        path: the file, for messages.
        text: its contents.
        check_header: called with the names of the columns before the first row.

    Yields:
        The row's first line number, and its fields by column, or what is wrong with it.

    Raises:
        UserError: a quotation mark is wrong.
    """
    header: list[str] = []
    for number, fields in field_rows(path, text, Layout()):
        if not header:
            header = [name.strip() for name in fields]
            check_header(header)
        elif len(fields) == len(header):
            yield number, dict(zip(header, fields, strict=True))
        else:
            yield number, wrong_count(len(fields), len(header))


def wrong_count(found: int, wanted: int, reference: str = "the header") -> str:
    """What is wrong with a row of another number of fields."""
    return f"wrong number of fields: {found}, {reference} has {wanted}"


def json_rows(text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a JSONL file; blank lines are skipped.

    Yields:
        The line number, and the object, or what is wrong with the line.
    """
    # Only "\n" ends a line: JSON strings may hold U+2028 and its like.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            yield number, f"broken JSON: {problem_of_text(line) or reason}"
        else:
            yield (
                number,
                item if isinstance(item, dict) else f"wrong type: the line is {json_type(item)}, not an object",
            )


def array_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """The objects of a file that is one JSON array.

    Yields:
        The line number of the object's start, and the object, or what is wrong with it.

    Raises:
        UserError: the array is broken.
    """
    decode = json.JSONDecoder().raw_decode
    line, counted = 1, 0

    def skip_space(place: int) -> int:
        found = _SPACE.match(text, place)
        return found.end() if found else place

    place = skip_space(skip_space(0) + 1)
    closed = text[place : place + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, place), place
        try:
            item, end = decode(text, place)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or str(error)
            at = getattr(error, "lineno", line)
            raise UserError(f"{path}: line {at}: broken JSON: {reason}") from None
        yield line, item if isinstance(item, dict) else f"wrong type: the item is {json_type(item)}, not an object"
        place = skip_space(end)
        closed = text[place : place + 1] == "]"
        if not closed and text[place : place + 1] != ",":
            at = line + text.count("\n", counted, place)
            raise UserError(f"{path}: line {at}: broken JSON: a comma or ] is missing after an item")
        if not closed:
            place = skip_space(place + 1)
    rest = text[place + 1 :].strip()
    if rest:
        at = line + text.count("\n", counted, place)
        raise UserError(f"{path}: line {at}: broken JSON: {short_repr(rest[:20])} follows the array")
