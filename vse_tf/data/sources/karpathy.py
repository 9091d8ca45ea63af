"""The source `karpathy`: `dataset_{flickr8k,flickr30k,coco}.json` and an image folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vse_tf.config import DataSettings
from vse_tf.data.records import Collection, Report
from vse_tf.data.sources.building import Gathering, collect_files, split_names
from vse_tf.data.sources.files import (
    integer_or_none,
    json_type,
    one_path,
    read_json,
    same_id,
    several_paths,
    short_repr,
)
from vse_tf.data.sources.image_folder import ImageFolders
from vse_tf.data.sources.missing_images import check_any_found
from vse_tf.errors import UserError


def read_karpathy(settings: DataSettings, progress: bool = True) -> Collection:
    """Read a caption file in Karpathy's layout.

    The file is an object with a list `images`; each has `filename`, `split`, `sentences` (its captions, each with `raw`
    or `tokens`) and perhaps `filepath`, a subfolder of the image folder. The split `restval` joins `train` unless
    `restval_as_train` is off. Equal captions of an image count as two if their `sentid` differs. If an image has a
    `cocoid`, it and the `sentid` of its captions are used as COCO ids.

    Args:
        settings: `annotations` is the file, `images` the folder, or several that hold the images together.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: the file's problems, by key and imgid.
    """
    path = one_path(settings.annotations, "data.annotations", "caption file (dataset_*.json)")
    roots = several_paths(settings.images, "data.images", "image folder")
    folders = ImageFolders(roots)
    items = _images(read_json(path), path)
    report = Report()
    gathering = Gathering(report)
    splits = dict.fromkeys(i["split"] for i in items if isinstance(i, dict) and isinstance(i.get("split"), str))
    names = split_names(splits, str(path), any_case=True)
    if settings.restval_as_train:
        names = {name: "train" if split == "restval" else split for name, split in names.items()}
    missing: dict[str, str] = {}
    found = 0
    for index, item in enumerate(items):
        where = f"{path}: images[{index}]"
        if isinstance(item, dict) and isinstance(item.get("imgid"), int):
            where += f" (imgid {item['imgid']})"
        if not _well_formed(item, where, report):
            continue
        try:
            image = folders.find(item.get("filepath") or "", item["filename"])
        except ValueError as error:
            missing[str(Path(item.get("filepath") or "", item["filename"]))] = str(error)
            report.add(where, str(error))
            continue
        found += 1
        entry = gathering.image(image, names[item["split"]], where)
        if entry is None:
            continue
        entry.image_id = integer_or_none(item.get("cocoid"))
        for number, caption in enumerate(item["sentences"]):
            place = f"{where}.sentences[{number}]"
            words = _caption_text(caption, place, report)
            if words is not None:
                sentid = same_id(caption.get("sentid"))
                identity = ("sentid", sentid) if isinstance(sentid, (int, str)) else None
                # Only COCO's captions are numbered by COCO.
                caption_id = None if entry.image_id is None else integer_or_none(sentid)
                gathering.caption(entry, words, place, identity, caption_id)
    check_any_found(path, roots, missing, found)
    return collect_files("karpathy", gathering, settings, progress)


def _images(data: object, path: Path) -> list[Any]:
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise UserError(f"{path}: not a Karpathy caption file: an object with a list 'images' is expected")
    if "annotations" in data:
        raise UserError(f"{path}: this is a COCO caption file; read it with --data.source coco")
    return data["images"]


def _well_formed(item: object, where: str, report: Report) -> bool:
    if not isinstance(item, dict):
        report.add(where, f"wrong type: the image is {json_type(item)}, not an object")
        return False
    count = len(report.problems)
    for key, wanted, name in (("filename", str, "a string"), ("split", str, "a string"), ("sentences", list, "a list")):
        if key not in item:
            report.add(where, f"missing key: {key}")
        elif not isinstance(item[key], wanted):
            report.add(f"{where}.{key}", f"wrong type: {json_type(item[key])}, not {name}")
    if not isinstance(item.get("filepath") or "", str):
        report.add(f"{where}.filepath", f"wrong type: {json_type(item['filepath'])}, not a string")
    return len(report.problems) == count


def _caption_text(caption: object, where: str, report: Report) -> str | None:
    if not isinstance(caption, dict):
        report.add(where, f"wrong type: the caption is {json_type(caption)}, not an object")
        return None
    raw, tokens = caption.get("raw"), caption.get("tokens")
    if isinstance(raw, str):
        return raw
    if raw is not None:
        report.add(f"{where}.raw", f"wrong type: {json_type(raw)}, not a string")
    elif isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        return " ".join(tokens)
    elif tokens is None:
        report.add(where, "missing key: raw (or tokens)")
    else:
        report.add(f"{where}.tokens", f"wrong type: {short_repr(tokens)}, not a list of strings")
    return None
