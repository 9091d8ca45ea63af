"""The source `coco`: official `captions_*.json` files and their image folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vse_tf.config import DataSettings
from vse_tf.data.records import Collection, Report
from vse_tf.data.sources.building import Gathering, collect_files, draw_splits, split_names
from vse_tf.data.sources.files import integer_or_none, json_type, read_array, read_json, same_id, several_paths
from vse_tf.data.sources.image_folder import ImageFolder
from vse_tf.data.sources.missing_images import check_any_found
from vse_tf.errors import UserError

FILE_SPLITS = {"captions_train": "train", "captions_val": "val", "captions_test": "test"}


@dataclass(slots=True)
class _Image:
    """One item of a file's `images`, with its annotations and their positions in the file."""

    name: str
    path: Path
    folder: ImageFolder
    where: str
    number: int | None = None
    split: str = ""
    annotations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def place(self, index: int, annotation: dict[str, Any]) -> str:
        number = annotation.get("id")
        return f"{self.path}: annotations[{index}]" + (f" (id {number})" if isinstance(number, int) else "")


def read_coco(settings: DataSettings, progress: bool = True) -> Collection:
    """Read COCO caption files.

    Each file is an object with the lists `images` (`id`, `file_name`) and `annotations` (`id`, `image_id`, `caption`).
    Each file has its own image ids. The splits come from `split_ids`, else from the file's name (`captions_train*`,
    `captions_val*`, `captions_test*`), else the split of each image is drawn. With `split_ids`, annotations in no list
    are not read.

    Args:
        settings: `annotations` names one or more files; `images` one folder for all files, or one for each in the same
            order; `split_ids` the `.npy` files of annotation ids of each split.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: the files' problems, by key.
    """
    report = Report()
    split_of = _split_of(settings.split_ids, report) if settings.split_ids else None
    images: list[_Image] = []
    for path, folder in _files(settings):
        images += _read_file(path, folder, report)
    if split_of is None:
        _name_splits(images, settings)
    else:
        _check_ids(split_of, images, report)
        images = _select(images, split_of, report)
    gathering = Gathering(report)
    missing: dict[str, str] = {}
    for image in images:
        try:
            file = image.folder.find(image.name)
        except ValueError as error:
            missing[image.name] = str(error)
            report.add(image.where, str(error))
            continue
        entry = gathering.image(file, image.split, image.where)
        if entry is None:
            continue
        entry.image_id = image.number
        for index, annotation in image.annotations:
            number = annotation.get("id")
            identity = ("annotation id", number) if isinstance(number, (int, str)) else None
            place = image.place(index, annotation)
            gathering.caption(entry, annotation["caption"], place, identity, integer_or_none(number))
    if images:
        folders = dict.fromkeys(Path(image.folder.root) for image in images)
        check_any_found(images[0].path, list(folders), missing, len(images) - len(missing))
    return collect_files("coco", gathering, settings, progress)


def _files(settings: DataSettings) -> list[tuple[Path, ImageFolder]]:
    """The caption files and the image folder of each."""
    paths = several_paths(settings.annotations, "data.annotations", "caption file (captions_*.json)")
    roots = several_paths(settings.images, "data.images", "image folder")
    repeated = [str(path) for path, count in Counter(paths).items() if count > 1]
    if repeated:
        raise UserError(f"--data.annotations names {' and '.join(repeated)} more than once")
    if len(roots) not in (1, len(paths)):
        raise UserError(
            f"--data.images names {len(roots)} folders and --data.annotations {len(paths)} files; "
            "give one folder for all files or one for each"
        )
    folders = {root: ImageFolder(root) for root in roots}
    return [(path, folders[root]) for path, root in zip(paths, roots * (len(paths) // len(roots)), strict=True)]


def _read_file(path: Path, folder: ImageFolder, report: Report) -> list[_Image]:
    data = read_json(path)
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("images", "annotations")):
        raise UserError(f"{path}: not a COCO caption file: an object with lists 'images' and 'annotations' is expected")
    images: dict[Hashable, _Image] = {}
    bad: set[Hashable] = set()
    for index, item in enumerate(data["images"]):
        where = f"{path}: images[{index}]"
        number = same_id(item.get("id")) if isinstance(item, dict) else None
        if not _has(item, {"id": (int, str), "file_name": (str,)}, where, report):
            if isinstance(number, (int, str)):
                bad.add(number)
        elif number in images:
            report.add(where, f"duplicate image: id {number} is already at {images[number].where}")
        else:
            name = f"{where} (id {number})"
            images[number] = _Image(item["file_name"], path, folder, name, integer_or_none(number))
    for index, item in enumerate(data["annotations"]):
        where = f"{path}: annotations[{index}]"
        if not _has(item, {"image_id": (int, str), "caption": (object,)}, where, report):
            continue
        if isinstance(item.get("id"), str):
            item["id"] = same_id(item["id"])
        number = same_id(item["image_id"])
        if number in images:
            images[number].annotations.append((index, item))
        elif number not in bad:
            report.add(where, f"unknown image id: {number} is not among the file's images")
    return list(images.values())


def _has(item: object, keys: dict[str, tuple[type, ...]], where: str, report: Report) -> bool:
    if not isinstance(item, dict):
        report.add(where, f"wrong type: {json_type(item)}, not an object")
        return False
    count = len(report.problems)
    for key, types in keys.items():
        if key not in item:
            report.add(where, f"missing key: {key}")
        elif not isinstance(item[key], types) or (isinstance(item[key], bool) and object not in types):
            report.add(f"{where}.{key}", f"wrong type: {json_type(item[key])}")
    return len(report.problems) == count


def _name_splits(images: Sequence[_Image], settings: DataSettings) -> None:
    """Splits from the files' names, or drawn."""
    unnamed = []
    for image in images:
        split = next((split for start, split in FILE_SPLITS.items() if image.path.name.startswith(start)), None)
        if split is None:
            unnamed.append(image)
        else:
            image.split = split
    drawn = draw_splits((image.name for image in unnamed), settings) if unnamed else {}
    for image in unnamed:
        image.split = drawn[image.name]


def _split_of(split_ids: dict[str, list[str]], report: Report) -> dict[int, str]:
    """The split of each annotation id."""
    names = split_names(split_ids, "data.split_ids")
    split_of: dict[int, str] = {}
    for name, files in split_ids.items():
        for path in several_paths(files, f"data.split_ids.{name}", "file of annotation ids (.npy)"):
            for number in _load_ids(path, name):
                other = split_of.setdefault(number, names[name])
                if other != names[name]:
                    report.add(f"{path} ({name})", f"annotation id in two splits: {number} is also in {other}")
    return split_of


def _load_ids(path: Path, split: str) -> list[int]:
    """The distinct ids of a file."""
    key = f"{path} (data.split_ids.{split})"
    ids = read_array(path, key)
    if ids.dtype.kind not in "iu":
        raise UserError(f"{key}: it holds values of type {ids.dtype}; an array of integer annotation ids is expected")
    return list(dict.fromkeys(ids.ravel().tolist()))


def _check_ids(split_of: dict[int, str], images: Sequence[_Image], report: Report) -> None:
    """Ids of no caption are problems; ids of captions in two files are an error."""
    file_of: dict[int, Path] = {}
    clashes: dict[int, Path] = {}
    for image in images:
        for _, annotation in image.annotations:
            number = annotation.get("id")
            if isinstance(number, int) and number in split_of and file_of.setdefault(number, image.path) != image.path:
                clashes[number] = image.path
    if clashes:
        number, path = next(iter(clashes.items()))
        raise UserError(
            f"{len(clashes)} annotation ids of data.split_ids occur in more than one file, the first is {number} in "
            f"{file_of[number]} and {path}; the ids do not say which is meant; leave one of the files out"
        )
    unknown: dict[str, list[int]] = {}
    for number, split in split_of.items():
        if number not in file_of:
            unknown.setdefault(split, []).append(number)
    for split, numbers in unknown.items():
        report.add(
            f"data.split_ids.{split}",
            f"unknown annotation ids: {len(numbers)} are in no caption file, the first is {numbers[0]}",
        )


def _select(images: Sequence[_Image], split_of: dict[int, str], report: Report) -> list[_Image]:
    """The named annotations and their images; an image is in the split of its first annotation."""
    chosen = []
    for image in images:
        named = [(index, a) for index, a in image.annotations if isinstance(a.get("id"), int) and a["id"] in split_of]
        if not named:
            continue
        image.split = split_of[named[0][1]["id"]]
        image.annotations = []
        for index, annotation in named:
            split = split_of[annotation["id"]]
            if split == image.split:
                image.annotations.append((index, annotation))
            else:
                first = f"{image.split} at {image.place(*named[0])}"
                report.add(
                    image.place(index, annotation), f"image in two splits: {image.name} is in {split} here, in {first}"
                )
        chosen.append(image)
    return chosen
