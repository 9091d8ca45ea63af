"""From what a source lists to records: contradictions reported, images checked, rows numbered, splits drawn."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

from vse_tf.config import DataSettings
from vse_tf.data.cache import cache_folder
from vse_tf.data.records import Collection, FileImages, Images, Record, Report, Split
from vse_tf.data.sources.files import json_type, problem_of_text, short_repr
from vse_tf.data.verify import verify
from vse_tf.errors import UserError

# Other names that the field gives to the validation split.
SPLIT_ALIASES = {"validation": "val", "valid": "val", "dev": "val"}
SPLIT_ORDER = ("train", "val", "test")
# Above any caption; what follows an unclosed quotation mark to a file's end is longer.
LONGEST_CAPTION = 100_000
SPLIT_NAME = re.compile(r"[\w.+-]+")


@dataclass(slots=True)
class Entry:
    """One image as a source lists it.

    Args:
        image: path of its file, or a name for it.
        split: its split.
        where: file and line (or key) of its first mention.
        row: position in the source's array of images, where it has one.
        captions: its captions.
        known: what tells its captions apart: their texts, or their ids where the source has such.
        image_id: its COCO id, where the source gives COCO ids.
        caption_ids: the COCO annotation id of each of `captions`, or None.
    """

    image: str
    split: str
    where: str
    row: int = 0
    captions: list[str] = field(default_factory=list)
    known: set[Hashable] = field(default_factory=set)
    image_id: int | None = None
    caption_ids: list[int | None] = field(default_factory=list)


class Gathering:
    """Images and captions while a source is being read; what contradicts goes into the report and is left out.

    Args:
        report: takes the problems.

    Example:
        >>> gathering = Gathering(Report())
        >>> entry = gathering.image("/photos/cat.jpg", "train", "captions.csv: line 2")
        >>> gathering.caption(entry, "a cat", "captions.csv: line 2")
    """

    def __init__(self, report: Report) -> None:
        self.report = report
        self._entries: dict[str, Entry] = {}

    @property
    def entries(self) -> list[Entry]:
        """The images in the order of their first mention."""
        return list(self._entries.values())

    def image(self, image: str, split: str, where: str, merge: bool = False, row: int = 0) -> Entry | None:
        """Note an image.

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
        self, entry: Entry, text: object, where: str, identity: Hashable = None, caption_id: int | None = None
    ) -> None:
        """Note a caption of an image.

        Args:
            entry: the image.
            text: what should be the caption; surrounding white space is dropped.
            where: file and line (or key).
            identity: what tells it from the image's other captions (default: its text). Two people can write the same
                words, so where captions have ids, the id counts.
            caption_id: its COCO annotation id, where the source gives COCO ids.
        """
        if not isinstance(text, str):
            self.report.add(where, f"wrong type: the caption is {json_type(text)}, not a string")
            return
        problem = problem_of_text(text)
        if problem:
            self.report.add(where, f"caption unreadable: {problem}")
            return
        text = text.strip()
        if not text:
            self.report.add(where, "empty caption")
            return
        if len(text) > LONGEST_CAPTION:
            self.report.add(where, f"caption too long: {len(text)} characters, at most {LONGEST_CAPTION} are read")
            return
        identity = text if identity is None else identity
        if identity in entry.known:
            self.report.add(where, f"duplicate caption: {entry.image} already has {short_repr(text)}")
            return
        entry.known.add(identity)
        entry.captions.append(text)
        entry.caption_ids.append(caption_id)


def collect_files(
    source: str, entries: Sequence[Entry], settings: DataSettings, report: Report, progress: bool
) -> Collection:
    """The collection of images that are files.

    Args:
        source: kind of source.
        entries: the images, `image` being an existing file.
        settings: `verify`, `max_pixels`, `on_bad`, the cache folder and `workers` count here.
        report: the problems so far.
        progress: show a progress bar.

    Raises:
        UserError: there are problems and `on_bad` is `fail`, or nothing is left.
    """
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
            report.add(entry.where, f"undecodable image: {entry.image}: {bad[entry.image]}")
    good = [entry for entry in entries if entry.image not in bad]
    return collect(source, good, settings, report, lambda _, found: FileImages(tuple(entry.image for entry in found)))


def collect(
    source: str,
    entries: Sequence[Entry],
    settings: DataSettings,
    report: Report,
    images: Callable[[str, list[Entry]], Images],
) -> Collection:
    """Settle the report and number what is left: rows dense from 0 within each split, splits without images absent.

    Args:
        source: kind of source.
        entries: the images in order.
        settings: `on_bad` counts here.
        report: the problems so far.
        images: gives the images of a split from its name and entries.

    Raises:
        UserError: there are problems and `on_bad` is `fail`, or nothing is left.
    """
    by_split: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.captions:
            by_split.setdefault(entry.split, []).append(entry)
        else:
            report.add(entry.where, f"image without captions: {entry.image}")
    skipped = report.settle(settings.on_bad, sum(map(len, by_split.values())))
    names = [name for name in SPLIT_ORDER if name in by_split]
    splits = {}
    for name in [*names, *(name for name in by_split if name not in SPLIT_ORDER)]:
        records = tuple(_record(entry, name, row) for row, entry in enumerate(by_split[name]))
        splits[name] = Split(name, records, images(name, by_split[name]))
    return Collection(source, splits, skipped)


def split_names(names: Iterable[str], where: str) -> dict[str, str]:
    """The project's name for each split name that a source uses: `dev`, `valid` and `validation` are `val`.

    Args:
        names: the source's names.
        where: file, for the message.

    Raises:
        UserError: two of the names mean the same split.
    """
    meant: dict[str, str] = {}
    for name in dict.fromkeys(names):
        target = SPLIT_ALIASES.get(name, name)
        if target in meant:
            raise UserError(f"{where}: the splits {meant[target]!r} and {name!r} both mean {target!r}; rename one")
        meant[target] = name
    return {name: target for target, name in meant.items()}


def draw_splits(keys: Iterable[str], settings: DataSettings) -> dict[str, str]:
    """Draw a split for each image, from its name and the seed alone: the order of the images does not matter.

    Images are sorted by a hash of seed and name; the first share goes to val, the next to test, the rest to train. A
    share above zero gets at least one image while train keeps one.

    Args:
        keys: names of the images, the same on every machine.
        settings: `val_fraction`, `test_fraction` and `split_seed`.

    Returns:
        The split of each name.

    Raises:
        UserError: the fractions are not between 0 and 1, or leave nothing for train.
    """
    for name in ("val_fraction", "test_fraction"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"--data.{name} {getattr(settings, name)}: give a share from 0 up to, not including, 1")
    if settings.val_fraction + settings.test_fraction >= 1:
        raise UserError(
            "--data.val_fraction and --data.test_fraction leave no image for train: their sum must be below 1"
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
