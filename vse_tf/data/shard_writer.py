"""Writes a collection as tar shards, which the source `webdataset` reads."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from vse_tf.atomic import atomic_file, write_json
from vse_tf.config import OnBad
from vse_tf.data.records import Collection, EncodedImages, Problem, Record, Split, unreadable
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.files import file_errors, read_json
from vse_tf.preprocessing.image_headers import format_of

# What the shards of a folder were written from; a repeated command continues where it stopped.
PLAN = "pack.json"
# A member's header, and what its contents are filled up to.
BLOCK = 512
# Names that stay: all of the name up to its only dot is the key of a sample.
_NAME = re.compile(r"[^./\\\x00-\x1f][^./\\\x00-\x1f]*\.(jpe?g|png|webp|gif|bmp)", re.IGNORECASE)


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be written.

    Args:
        name: its file name.
        split: the split that its images are of.
        rows: their rows.
    """

    name: str
    split: Split
    rows: range


def plan_shards(collection: Collection, largest: int) -> list[PlannedShard]:
    """Divide a collection into shards: every split in row order, a shard at most so large where an image allows it.

    Args:
        collection: the images and captions.
        largest: bytes of a shard.

    Raises:
        UserError: the collection holds features and no images.
    """
    planned = []
    for split in collection.splits.values():
        starts, filled = [0], 0
        for row, size in enumerate(_sizes(split)):
            if filled and filled + size > largest:
                starts.append(row)
                filled = 0
            filled += int(size)
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(split)], strict=True)):
            planned.append(PlannedShard(f"{split.name}-{number:05d}.tar", split, range(start, end)))
    return planned


def write_shards(
    shards: list[PlannedShard], folder: Path, on_bad: OnBad = "fail", progress: bool = True
) -> list[Problem]:
    """Write shards into a folder; those that an earlier call has written stay.

    The same images and captions give the same bytes. A shard has the file's image and a `.json` with its captions and
    split for each image.

    Args:
        shards: what `plan_shards` returned.
        folder: the folder; it is made if it is missing.
        on_bad: stop at an image that cannot be read (`fail`) or leave it out (`skip`).
        progress: show a progress bar.

    Returns:
        The problems of the images that were left out.

    Raises:
        UserError: the folder holds something else or cannot be written, or an image cannot be read.
    """
    _check_plan(folder, shards)
    problems: list[Problem] = []
    with (
        file_errors(folder, "written"),
        phase_if(progress, "packing", sum(len(shard.rows) for shard in shards), "images") as packing,
    ):
        for shard in shards:
            path = folder / shard.name
            if not path.exists():
                with atomic_file(path) as file:
                    for problem in _write(file, shard):
                        packing.update()
                        if problem and on_bad == "fail":
                            raise UserError(f"{problem}; fix it, or leave such images out with --data.on_bad skip")
                        problems += [problem] if problem else []
            else:
                packing.update(len(shard.rows))
    return problems


def _check_plan(folder: Path, shards: list[PlannedShard]) -> None:
    """Refuse a folder that holds something else, and note what its shards are written from."""
    plan = {"format": 1, "sha256": _digest(shards), "shards": [shard.name for shard in shards]}
    path = folder / PLAN
    with file_errors(path):
        if path.exists():
            try:
                found = read_json(path)
            except ValueError:
                found = None
            if found != plan:
                raise UserError(
                    f"{folder} holds shards of other data, or of another size; delete it or name another folder"
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something that is no set of shards; name another folder")
    with file_errors(path, "written"):
        write_json(path, plan)


def _digest(shards: list[PlannedShard]) -> str:
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(json.dumps([shard.name, shard.rows.start, shard.rows.stop]).encode())
    for split in {shard.split.name: shard.split for shard in shards}.values():
        for record in split.records:
            digest.update(_description(record).encode())
        if isinstance(split.images, EncodedImages):
            for state in split.images.states():
                digest.update(json.dumps(state).encode())
    return digest.hexdigest()


def _write(file: BinaryIO, shard: PlannedShard) -> Iterator[Problem | None]:
    """Write a shard; for each image, why it is left out, or None."""
    keys: set[str] = set()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for row in shard.rows:
            record = shard.split.records[row]
            try:
                contents = _contents(shard.split, row)
            except OSError as error:
                yield Problem(record.image, unreadable(error))
                continue
            key, suffix = _key(record, contents, keys)
            for name, part in ((f"{key}.{suffix}", contents), (f"{key}.json", _description(record).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
            yield None


def _key(record: Record, contents: bytes, keys: set[str]) -> tuple[str, str]:
    """The key of a sample, and the suffix of its image: those of the image's name where that is possible."""
    key, _, suffix = Path(record.image).name.rpartition(".")
    kept = _NAME.fullmatch(f"{key}.{suffix}") is not None
    if not kept or key in keys:
        key = f"{record.row:08d}"
        while key in keys:
            key += "_"
    if not kept:
        suffix = format_of(contents).replace("jpeg", "jpg") or "jpg"
    keys.add(key)
    return key, suffix


def _description(record: Record) -> str:
    ids: dict[str, object] = {"image_id": record.image_id} if record.image_id is not None else {}
    ids |= {"caption_ids": record.caption_ids} if record.caption_ids else {}
    return json.dumps({"captions": record.captions, "split": record.split, **ids}, ensure_ascii=False)


def _contents(split: Split, row: int) -> bytes:
    if isinstance(split.images, EncodedImages):
        return split.images.read(row)
    buffer = io.BytesIO()
    Image.fromarray(split.images.load(np.array([row]))[0]).save(buffer, "PNG")
    return buffer.getvalue()


def _sizes(split: Split) -> np.ndarray:
    """About how many bytes each image takes in a shard, with its captions."""
    images = split.images
    if images.kind == "features":
        raise UserError("the data hold features and no images; only images are packed")
    if isinstance(images, EncodedImages):
        sizes = np.maximum(images.sizes(), 0)
    else:
        sizes = np.full(len(split), images.load(np.zeros([1], np.int64)).nbytes)
    texts = np.array([len(_description(record).encode()) for record in split.records], np.int64)
    return 2 * BLOCK + -(-sizes // BLOCK) * BLOCK + -(-texts // BLOCK) * BLOCK
