"""From the indexes of shards to records: what the sources `webdataset` and `parquet` share."""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vse_tf.cache import cache_folder, cached_result
from vse_tf.config import DataSettings
from vse_tf.data.packed_images import PackedFile, PackedImages
from vse_tf.data.records import Collection, Record, Report, Split
from vse_tf.data.sources.building import (
    SPLIT_NAME,
    SPLIT_ORDER,
    draw_splits,
    problems_file,
    split_names,
    with_equal_note,
)
from vse_tf.data.sources.files import short_repr
from vse_tf.data.sources.shard_index import ShardIndex
from vse_tf.data.verify import RULES, decode_check, verdict_of
from vse_tf.display import phase_if


@dataclass(frozen=True)
class Shard:
    """A shard and its index.

    Args:
        index: its images and captions.
        file: the file that holds the images: the shard itself, or one in the cache folder.
        split: the split in its name; None if there is none.
    """

    index: ShardIndex
    file: PackedFile
    split: str | None


@dataclass
class _Samples:
    """The good samples of all shards, column by column: a million of them shall fit into memory."""

    names: list[str] = field(default_factory=list)
    captions: list[tuple[str, ...]] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    image_ids: dict[int, int] = field(default_factory=dict)
    caption_ids: dict[int, tuple[int, ...]] = field(default_factory=dict)
    numbers: array[int] = field(default_factory=lambda: array("i"))
    starts: array[int] = field(default_factory=lambda: array("q"))
    lengths: array[int] = field(default_factory=lambda: array("q"))


def collect_packed(source: str, shards: Iterable[Shard], settings: DataSettings, progress: bool) -> Collection:
    """The collection of the images in shards, in the order of the shards.

    Args:
        source: kind of source.
        shards: the shards; each is looked at once.
        settings: `verify`, `max_pixels`, `on_bad`, `cache_dir`, `workers`, `restval_as_train` and those of the drawn
            splits are read.
        progress: show a progress bar.

    Raises:
        UserError: there are problems and `on_bad` is `fail`, or no image is left.
    """
    report, samples, files = Report(), _Samples(), list[PackedFile]()
    for shard in shards:
        _take(shard, len(files), settings, samples, report, progress)
        files.append(shard.file)
    splits = _splits(samples, settings, report)
    rows: dict[str, list[int]] = {}
    for row, split in enumerate(splits):
        if split is not None:
            rows.setdefault(split, []).append(row)
    skipped = report.settle(settings.on_bad, sum(map(len, rows.values())), problems_file(settings))
    ordered = [*(name for name in SPLIT_ORDER if name in rows), *(name for name in rows if name not in SPLIT_ORDER)]
    images = PackedImages(samples.names, files, samples.numbers, samples.starts, samples.lengths)
    made = {}
    for name in ordered:
        records = tuple(_record(samples, row, name, place) for place, row in enumerate(rows[name]))
        made[name] = Split(name, records, images.chosen(rows[name]))
    collection = Collection(source, made, skipped)
    return collection if settings.verify == "none" else with_equal_note(collection, settings.workers)


def _take(shard: Shard, number: int, settings: DataSettings, samples: _Samples, report: Report, progress: bool) -> None:
    """Add the good samples of a shard, and report what is wrong with the others."""
    index = shard.index
    for where, what in (*index.problems, *index.bad_captions):
        report.add(where, what)
    undecodable = _undecodable(shard, settings, progress) if settings.verify == "decode" else {}
    splits: dict[str, str] = {}
    for position, sample in enumerate(index.samples):
        if settings.verify != "none":
            reason = sample.reason or verdict_of(sample.width, sample.height, sample.scans, settings.max_pixels)
            if reason := reason or undecodable.get(str(position), ""):
                report.add(index.place(sample.name), f"undecodable image: {reason}")
                continue
        if not sample.captions:
            report.add(index.place(sample.name), "image without captions")
            continue
        split = sample.split or shard.split
        row = len(samples.names)
        samples.names.append(f"{index.path}/{sample.name}")
        samples.captions.append(tuple(sample.captions))
        # One string for all samples of a split.
        samples.splits.append(split and splits.setdefault(split, split))
        if sample.image_id is not None:
            samples.image_ids[row] = sample.image_id
        if sample.caption_ids:
            samples.caption_ids[row] = tuple(sample.caption_ids)
        samples.numbers.append(number)
        samples.starts.append(sample.start)
        samples.lengths.append(sample.length)


def _undecodable(shard: Shard, settings: DataSettings, progress: bool) -> dict[str, str]:
    """Why images cannot be decoded, by their position in the index; cached until the shard changes."""
    check, samples = decode_check(settings.max_pixels), shard.index.samples
    passing: dict[str, str] = {}
    images = PackedImages(
        [sample.name for sample in samples],
        [shard.file],
        [0] * len(samples),
        [sample.start for sample in samples],
        [sample.length for sample in samples],
    )

    def of(position: int) -> tuple[str, bool]:
        try:
            return check(images.read(position))
        except OSError as error:
            return f"cannot be read: {error.strerror or error}", False

    def decode() -> dict[str, str]:
        found: dict[str, str] = {}
        name = f"decoding the images of {Path(shard.index.path).name}"
        with (
            ThreadPoolExecutor(settings.workers or os.cpu_count() or 1) as pool,
            phase_if(progress, name, len(samples), "images") as decoding,
        ):
            for position, (reason, lasting) in enumerate(pool.map(of, range(len(samples)))):
                decoding.update()
                if reason:
                    (found if lasting else passing)[str(position)] = reason
        return found

    # Several shards may share a file.
    places = hashlib.sha256(json.dumps([shard.index.path, images.starts.tolist()]).encode()).hexdigest()[:12]
    name = f"decoded-{RULES}-{settings.max_pixels}-{places}"
    return cached_result(cache_folder(settings), Path(shard.file.path), name, decode, shard.file.state) | passing


def _splits(samples: _Samples, settings: DataSettings, report: Report) -> list[str | None]:
    """The split of each sample; None where it is left out."""
    there = dict.fromkeys(split for split in samples.splits if split)
    if not there:
        # By the names without the folder of the shards, which another machine may call otherwise.
        drawn = draw_splits(map(_key, samples.names), settings)
        return [drawn[_key(name)] for name in samples.names]
    good = [split for split in there if SPLIT_NAME.fullmatch(split)]
    names = split_names(good, "the shards", any_case=True)
    if settings.restval_as_train:
        names = {name: "train" if split == "restval" else split for name, split in names.items()}
    for name, split in zip(samples.names, samples.splits, strict=True):
        if split is None:
            report.add(name, f"missing key: {settings.table.split_column}, which other samples have")
        elif split not in names:
            report.add(name, f"bad split name: {short_repr(split)}; use letters, digits and . + - _")
    return [names.get(split) if split else None for split in samples.splits]


def _key(name: str) -> str:
    return os.path.basename(name)  # noqa: PTH119 - faster


def _record(samples: _Samples, row: int, split: str, place: int) -> Record:
    name = samples.names[row]
    ids = samples.caption_ids.get(row, ())
    return Record(name, samples.captions[row], split, place, name, image_id=samples.image_ids.get(row), caption_ids=ids)
