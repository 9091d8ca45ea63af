"""Images with a class each: a folder of one folder per class, or a table. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vse_tf.data.records import Problem
from vse_tf.data.sources.files import read_text, short_repr
from vse_tf.data.sources.image_folder import ImageFolder
from vse_tf.data.sources.rows import csv_rows
from vse_tf.errors import UserError
from vse_tf.indexing.items import image_items


@dataclass(frozen=True)
class Labels:
    """The classes of a classification.

    Args:
        names: their names, as folders or tables have them.
        words: what the prompts say for each.
    """

    names: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class LabelledImages:
    """Image files, each with its class.

    Args:
        paths: the files.
        labels: position of each one's class.
        unused: number of images whose class is not among the labels, by class.
    """

    paths: tuple[str, ...]
    labels: tuple[int, ...]
    unused: dict[str, int]


def read_labels(path: str | Path) -> Labels:
    """Read the classes: one per line, its name or, after a tab, other words for the prompts.

    Args:
        path: UTF-8 text file.

    Raises:
        UserError: it cannot be read, or has fewer than two classes or one of them twice.
    """
    names, words = [], []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        name, tab, said = line.partition("\t")
        name, said = name.strip(), said.strip()
        if not name:
            continue
        if name in names:
            raise UserError(f"{path}: line {number}: {short_repr(name)} is there twice")
        names.append(name)
        words.append(said if tab and said else name)
    if len(names) < 2:
        raise UserError(f"{path}: a classification needs two classes or more, one per line; there is {len(names)}")
    return Labels(tuple(names), tuple(words))


def read_prompts(path: str | Path) -> list[str]:
    """Read prompts: one per line, with `{}` where the words of the class go.

    Args:
        path: UTF-8 text file.

    Raises:
        UserError: it cannot be read or is empty, or a line lacks `{}`.
    """
    prompts = []
    for number, line in enumerate(read_text(Path(path)).splitlines(), 1):
        if not line.strip():
            continue
        if "{}" not in line:
            raise UserError(f"{path}: line {number}: {short_repr(line)} has no {{}} in the place of the class")
        prompts.append(line.strip())
    if not prompts:
        raise UserError(f"{path}: the file has no prompt")
    return prompts


def labelled_images(place: str | Path, labels: Labels) -> LabelledImages:
    """Find images and their classes.

    Args:
        place: a folder with one folder per class, or a CSV file with the columns `image` and `label`; its paths start
            from its own folder.
        labels: the classes.

    Raises:
        UserError: the place cannot be read, an image is missing, or no image has one of the classes.
    """
    path = Path(place)
    found = _of_folder(path) if path.is_dir() else _of_table(path)
    number = {name: position for position, name in enumerate(labels.names)}
    paths, numbers, unused = [], [], dict[str, int]()
    for image, name in found:
        if name in number:
            paths.append(image)
            numbers.append(number[name])
        else:
            unused[name] = unused.get(name, 0) + 1
    if not paths:
        there = ", ".join(short_repr(name) for name in list(unused)[:5]) or "no image"
        raise UserError(f"{place}: no image of the {len(number)} classes; there are {there}")
    return LabelledImages(tuple(paths), tuple(numbers), unused)


def _of_folder(folder: Path) -> Sequence[tuple[str, str]]:
    found = []
    for item in image_items(folder):
        if isinstance(item, Problem):
            raise UserError(f"--images: {item}")
        name, slash, _ = item.id.partition("/")
        if slash:
            found.append((str(folder / item.id), name))
    return found


def _of_table(path: Path) -> Sequence[tuple[str, str]]:
    text = read_text(path)

    def check(header: list[str]) -> None:
        missing = [name for name in ("image", "label") if name not in header]
        if missing:
            raise UserError(f"{path}: line 1: no column {' or '.join(missing)}; the columns are {', '.join(header)}")

    folder, found = ImageFolder(path.parent, "images"), []
    for line, row in csv_rows(path, text, check):
        if isinstance(row, str):
            raise UserError(f"{path}: line {line}: {row}")
        try:
            found.append((folder.find(row["image"]), row["label"].strip()))
        except ValueError as error:
            raise UserError(f"{path}: line {line}: {error}") from None
    return found
