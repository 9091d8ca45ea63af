"""From the entries of a source to records: contradictions reported, images checked, rows numbered, splits drawn."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vse_tf.cache import cache_folder
from vse_tf.config import DataSettings
from vse_tf.data.equal_files import equal_files
from vse_tf.data.records import Collection, EncodedImages, FileImages, Images, Record, Report, Split
from vse_tf.data.sources.files import json_type, problem_of_text, short_repr
from vse_tf.data.verify import verify
from vse_tf.errors import UserError
from vse_tf.setting_types import check_values

# Other common names of the validation split.
SPLIT_ALIASES = {"validation": "val", "valid": "val", "dev": "val"}
# Found in any letter case.
KNOWN_SPLITS = {"train", "val", "test", "restval", *SPLIT_ALIASES}
SPLIT_ORDER = ("train", "val", "test")
# More than any caption, less than the rest of a file behind an unclosed quotation mark.
LONGEST_CAPTION = 100_000
SPLIT_NAME = re.compile(r"[\w.+-]+")


@dataclass(slots=True)
class Entry:
    """One image as a source lists it.

    Args:
        image: path of its file, or a name for it.
        split: its split.
        where: file and line (or key) of its first mention.
        row: position in the source's array of images, if it has one.
        captions: its captions.
        identities: what makes its captions distinct: their ids, or their texts if the source has no ids.
        image_id: its COCO id, if the source has COCO ids.
        caption_ids: the COCO annotation id of each of `captions`, or None.
    """

    image: str
    split: str
    where: str
    row: int = 0
    captions: list[str] = field(default_factory=list)
    identities: set[Hashable] = field(default_factory=set)
    image_id: int | None = None
    caption_ids: list[int | None] = field(default_factory=list)


def checked_caption(text: object) -> tuple[str, str]:
    """A caption without surrounding white space, and what is wrong with it; empty if nothing is."""
    if not isinstance(text, str):
        return "", f"wrong type: the caption is {json_type(text)}, not a string"
    if problem := "" if text.isascii() else problem_of_text(text):
        return "", f"caption unreadable: {problem}"
    text = text.strip()
    if not text:
        return "", "empty caption"
    if len(text) > LONGEST_CAPTION:
        return "", f"caption too long: {len(text)} characters, at most {LONGEST_CAPTION} are read"
    return text, ""


class Gathering:
    """Collects the images and captions of a source; contradictions are reported and left out.

    Args:
        report: receives the problems.

    Example:
        >>> gathering = Gathering(Report())
        >>> entry = gathering.image("/images/cat.jpg", "train", "captions.csv: line 2")
        >>> gathering.caption(entry, "a cat", "captions.csv: line 2")
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self.repeated = 0
        self.first_repeated = ""
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> list[Entry]:
        """The images in the order of their first mention."""
        return list(self._entries.values())

    def remove(self, entry: Entry) -> None:
        """Take an image out."""
        del self._entries[entry.image]

    def image(self, image: str, split: str, where: str, merge: bool = False, row: int = 0) -> Entry | None:
        """Add an image.

        Args:
            image: path of its file, or a name for it.
            split: its split.
            where: file and line (or key).
            merge: a second mention adds captions to the first; otherwise it is a duplicate.
            row: position in the source's array of images.

        Returns:
            The image's entry, or None where this mention is left out.
        """
        entry = self._entries.get(image)
        if entry is None:
            if not SPLIT_NAME.fullmatch(split):
                self.report.add(where, f"bad split name: {short_repr(split)}; use letters, digits and . + - _")
                return None
            entry = self._entries[image] = Entry(image, split, where, row)
        elif entry.split != split:
            self.report.add(
                where, f"image in two splits: {image} is in {split} here, in {entry.split} at {entry.where}"
            )
            return None
        elif not merge:
            self.report.add(where, f"duplicate image: {image} is already at {entry.where}")
            return None
        return entry

    def caption(
        self,
        entry: Entry,
        text: object,
        where: str,
        identity: tuple[str, int | str] | None = None,
        caption_id: int | None = None,
    ) -> None:
        """Add a caption of an image.

        Args:
            entry: the image.
            text: the caption, if it is a string; surrounding white space is dropped.
            where: file and line (or key).
            identity: kind and value of its id, if the source has ids: two people can write the same words. A repeated
                id is a problem, but no caption is lost for it. Captions without ids are compared by their text;
                repeated ones are counted.
            caption_id: its COCO annotation id, if the source has COCO ids.
        """
        text, problem = checked_caption(text)
        if problem:
            self.report.add(where, problem)
            return
        key: Hashable = identity or text
        if key in entry.identities:
            if identity is None:
                self.repeated += 1
                self.first_repeated = self.first_repeated or where
                return
            kind, value = identity
            self.report.add(
                where,
                f"repeated {kind}: {value} belongs to another caption of {entry.image}, too; both captions are read",
            )
            caption_id = None
        entry.identities.add(key)
        entry.captions.append(text)
        entry.caption_ids.append(caption_id)

    def notes(self) -> list[str]:
        """What was done that is no problem, one line each."""
        if not self.repeated:
            return []
        what = "captions repeat others of their image and count"
        if self.repeated == 1:
            what = "caption repeats another of its image and counts"
        return [f"{self.repeated} {what} once; the first is at {self.first_repeated}"]


def collect_files(source: str, gathering: Gathering, settings: DataSettings, progress: bool) -> Collection:
    """The collection of images that are files.

    Args:
        source: kind of source.
        gathering: the images; each `image` is an existing file.
        settings: `verify`, `max_pixels`, `on_bad`, `cache_dir` and `workers` are read.
        progress: show a progress bar.

    Raises:
        UserError: there are problems and `on_bad` is `fail`, or no image is left.
    """
    entries = gathering.entries
    bad = verify(
        [entry.image for entry in entries],
        settings.verify,
        settings.max_pixels,
        cache_folder(settings),
        settings.workers,
        progress,
    )
    for entry in entries:
        if entry.image in bad:
            gathering.report.add(entry.where, f"undecodable image: {entry.image}: {bad[entry.image]}")
            gathering.remove(entry)
    collection = collect(
        source, gathering, settings, lambda _, found: FileImages(tuple(entry.image for entry in found))
    )
    return collection if settings.verify == "none" else with_equal_note(collection, settings.workers)


def with_equal_note(collection: Collection, workers: int | None = None) -> Collection:
    """The collection with a note of the images that are in more than one split, if there are any.

    Args:
        collection: a collection of encoded images.
        workers: number of parallel reads (default: number of CPU cores).
    """
    images = {name: split.images for name, split in collection.splits.items()}
    equal = equal_files({name: each for name, each in images.items() if isinstance(each, EncodedImages)}, workers)
    return dataclasses.replace(collection, notes=(*collection.notes, *_equal_note(equal))) if equal else collection


def _equal_note(groups: list[list[tuple[str, str]]]) -> list[str]:
    (split, path), *rest = groups[0]
    other, copy = next(file for file in rest if file[0] != split)
    what = "image is" if len(groups) == 1 else "images are"
    return [
        f"{len(groups)} {what} in more than one split, as equal files of different names; the first is {path} in "
        f"{split} and {copy} in {other}: what is measured on them says little"
    ]


def collect(
    source: str,
    gathering: Gathering,
    settings: DataSettings,
    images: Callable[[str, list[Entry]], Images],
) -> Collection:
    """The collection of entries that have captions: rows are dense from 0 in each split, empty splits are left out.

    Args:
        source: kind of source.
        gathering: the images and the problems so far.
        settings: `on_bad` is read.
        images: returns the images of a split from its name and entries.

    Raises:
        UserError: there are problems and `on_bad` is `fail`, or no image is left.
    """
    report = gathering.report
    by_split: dict[str, list[Entry]] = {}
    for entry in gathering.entries:
        if entry.captions:
            by_split.setdefault(entry.split, []).append(entry)
        else:
            report.add(entry.where, f"image without captions: {entry.image}")
    skipped = report.settle(settings.on_bad, sum(map(len, by_split.values())), problems_file(settings))
    names = [name for name in SPLIT_ORDER if name in by_split]
    splits = {}
    for name in [*names, *(name for name in by_split if name not in SPLIT_ORDER)]:
        records = tuple(_record(entry, name, row) for row, entry in enumerate(by_split[name]))
        splits[name] = Split(name, records, images(name, by_split[name]))
    return Collection(source, splits, skipped, tuple(gathering.notes()))


def problems_file(settings: DataSettings) -> Path:
    """Where the problems of this source are listed if there are too many for a message."""
    named = settings.tfds.name if settings.source == "tfds" else settings.annotations
    first = (named if isinstance(named, str) else next(iter(named or []), None)) or settings.source
    digest = hashlib.sha256(os.fsencode(os.path.abspath(first))).hexdigest()[:8]  # noqa: PTH100 - links differ
    name = re.sub(r"[^\w.-]", "_", os.path.basename(first))[:60]  # noqa: PTH119 - also of a path with a NUL
    return cache_folder(settings) / "problems" / f"{name}-{digest}.txt"


def split_names(names: Iterable[str], where: str, any_case: bool = False) -> dict[str, str]:
    """Our name for each split name of a source: `dev`, `valid` and `validation` are `val`, in any letter case.

    Args:
        names: the source's names.
        where: file, for the message.
        any_case: names that differ in letter case only may occur together.

    Raises:
        UserError: two of the names mean the same split.
    """
    sources: dict[str, str] = {}
    targets: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        target = targets[name] = SPLIT_ALIASES.get(folded, folded) if folded in KNOWN_SPLITS else name
        other = sources.setdefault(target, name)
        if other != name and not (any_case and other.casefold() == folded):
            raise UserError(f"{where}: the splits {other!r} and {name!r} both mean {target!r}; rename one")
    return targets


def draw_splits(keys: Iterable[str], settings: DataSettings) -> dict[str, str]:
    """Draw a split for each image, from its name and the seed alone: the order of the images does not matter.

    Images are sorted by a hash of seed and name; the first share goes to val, the next to test, the rest to train. A
    share above zero gets at least one image, unless none would remain for train.

    Args:
        keys: names of the images, the same on every machine.
        settings: `val_fraction`, `test_fraction` and `split_seed`.

    Returns:
        The split of each name.

    Raises:
        UserError: a fraction is out of range, or the fractions leave no image for train.
    """
    check_values(settings, "data.")
    if settings.val_fraction + settings.test_fraction >= 1:
        raise UserError(
            "--data.val_fraction and --data.test_fraction leave no image for train; their sum must be below 1"
        )

    def draw(key: str) -> tuple[bytes, str]:
        text = f"{settings.split_seed}\0{key}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).digest(), key

    order = sorted(set(keys), key=draw)
    count = len(order)
    val = min(_share(settings.val_fraction, count), max(count - 1, 0))
    test = min(_share(settings.test_fraction, count), max(count - 1 - val, 0))
    return {key: "val" if i < val else "test" if i < val + test else "train" for i, key in enumerate(order)}


def _record(entry: Entry, split: str, row: int) -> Record:
    ids = tuple(number for number in entry.caption_ids if number is not None)
    if len(ids) < len(entry.captions):
        ids = ()
    return Record(
        entry.image,
        tuple(entry.captions),
        split,
        row,
        entry.where,
        image_id=entry.image_id,
        caption_ids=ids,
    )


def _share(fraction: float, count: int) -> int:
    return max(1, round(fraction * count)) if fraction > 0 else 0
