"""What to say when no image of a caption file is in the folder that the user named."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from vse_tf.data.sources.files import short_repr
from vse_tf.errors import UserError, shell_path

# Names that are looked for elsewhere, and places where they are.
NAMES, PLACES, DEPTH = 3, 200, 2


def check_any_found(file: Path, folders: Sequence[Path], missing: Mapping[str, str], found: int) -> None:
    """Stop if none of a file's images is in the image folder: the folder is another one, and no image is at fault.

    Args:
        file: the caption file.
        folders: the image folder, or several.
        missing: what is wrong with each image that was not found, by its name.
        found: number of images that were found.

    Raises:
        UserError: none was found; the message names the folder that has them, if it is near.
    """
    if found or len(missing) < 2 or not all(what.startswith("missing image") for what in missing.values()):
        return
    where = " or ".join(map(str, folders))
    if not any(_entries(folder) for folder in folders):
        where += ", which is empty"
    raise UserError(f"{file}: none of its {len(missing):,} images is in {where}; {_hint(folders[0], missing)}")


def _hint(folder: Path, missing: Mapping[str, str]) -> str:
    names = list(islice(missing, NAMES))
    # A name that leads elsewhere is not followed.
    inside = [name for name in names if not os.path.isabs(name) and ".." not in Path(name).parts]  # noqa: PTH117
    if place := next((place for place in islice(_near(folder), PLACES) if _has(place, inside)), None):
        return f"they are in {place}: name it with --data.images {shell_path(place)}"
    first = names[0]
    if _has(folder, [Path(name).name for name in inside]):
        return (
            f"that folder has {short_repr(Path(first).name)} where the file says {short_repr(first)}: write the paths "
            "in the file as they are below the folder"
        )
    # The name, and perhaps a similar one that is there.
    what = missing[first].removeprefix("missing image: ")
    if "(there is " in what:
        return f"the first is {what}: write the names in the file as they are in the folder"
    return f"the first is {what}; name the folder that has them with --data.images"


def _has(folder: Path, names: Sequence[str]) -> bool:
    return bool(names) and all(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 - false for impossible names


def _near(folder: Path) -> Iterator[Path]:
    yield from _below(folder, DEPTH)
    above = folder.absolute().parent
    yield above
    yield from _below(above, DEPTH)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """The folders below a folder, the nearest first; links are not followed."""
    folders = sorted(Path(entry.path) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False))
    yield from folders
    if depth > 1:
        for each in folders:
            yield from _below(each, depth - 1)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
