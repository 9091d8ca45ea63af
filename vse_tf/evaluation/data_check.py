"""What `check` finds out about a data set: one object, which the text, the JSON file and the page show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vse_tf.data.equal_files import equal_files
from vse_tf.data.fingerprints import fingerprints
from vse_tf.data.records import Collection, EncodedImages, Split
from vse_tf.data.statistics import Statistics, statistics
from vse_tf.display import Phase
from vse_tf.evaluation.near_duplicates import NearDuplicate, near_duplicates
from vse_tf.evaluation.unlikely_captions import unlikely_captions

if TYPE_CHECKING:
    from vse_tf.plain_embedder import EncodedSplit

_EXAMPLES = 3
WEAK = 0.05
"""If more than this share of a split's captions is unlikely, the model is rather weak than the captions wrong."""


@dataclass(frozen=True)
class FoundCaption:
    """A caption that is unlike its own image.

    Args:
        split: name of the split.
        row: the image's row.
        caption: the caption.
        nearer: number of other images of the split that are nearer to it.
        images: number of images of the split.
    """

    split: str
    row: int
    caption: str
    nearer: int
    images: int


@dataclass
class DataCheck:
    """The results of a check.

    Args:
        collection: the data.
        statistics: what is in it.
        equal: groups of equal files in different splits, each as split and path.
        copies: copies of images in different splits that are not equal files.

    Attributes:
        unlikely: captions that are unlike their own image; None where no run was named.
    """

    collection: Collection
    statistics: Statistics
    equal: list[list[tuple[str, str]]]
    copies: list[NearDuplicate]
    unlikely: list[FoundCaption] | None = field(default=None)

    def name(self, split: str, row: int) -> str:
        """The file name of an image."""
        return Path(self.collection.splits[split].records[row].image).name

    def lines(self) -> list[str]:
        """What the command prints."""
        lines = []
        for name, each in self.statistics.splits.items():
            low, middle, high = each.per_image
            shortest, median, longest, most = each.words
            lines += [
                f"{name}: {each.images:,} images, {each.captions:,} captions; captions per image {low} to {high}, "
                f"median {middle:g}; words per caption {shortest} to {most}, median {median:g}, 99% up to {longest:g}"
            ]
            words = ", ".join(word for word, _ in each.unknown_words[:5])
            lines.append(f"  words unknown to training: {each.unknown:.1f}%" + (f" ({words}, …)" if words else ""))
            if each.shared_captions:
                lines.append(f"  captions that are in another split too: {each.shared_captions}")
        known = self.statistics
        lines.append(f"vocabulary: {known.vocabulary:,} words seen {known.min_count} times or more in train")
        lines += self._problems()
        return lines

    def _problems(self) -> list[str]:
        found = self.statistics.problems
        lines = [f"problems: {sum(found.values())}" if found else "problems: none"]
        lines += [f"  {count} x {kind}, for example {self.statistics.examples[kind]}" for kind, count in found.items()]
        lines.append(f"equal files in different splits: {len(self.equal)}")
        for group in self.equal[:_EXAMPLES]:
            lines.append("  " + " = ".join(f"{split} {Path(path).name}" for split, path in group))
        lines.append(f"near-duplicates in different splits: {len(self.copies)}")
        for pair in self.copies[:_EXAMPLES]:
            one, two = (f"{split} {self.name(split, row)}" for split, row in zip(pair.splits, pair.rows, strict=True))
            lines.append(f"  {one} ~ {two}{', mirrored' if pair.mirrored else ''} ({pair.similarity:.3f})")
        if self.unlikely is not None:
            lines.append(f"captions unlike their own image: {len(self.unlikely)}")
            for unlike in self.unlikely[:_EXAMPLES]:
                where = f"{unlike.split} {self.name(unlike.split, unlike.row)}"
                lines.append(f"  {where}: {unlike.caption!r}: {unlike.nearer} of {unlike.images - 1} images are nearer")
            for split, each in self.statistics.splits.items():
                count = sum(one.split == split for one in self.unlikely)
                if count > WEAK * each.captions:
                    lines.append(
                        f"  {count} of {each.captions} captions of {split}: so many indicate a weak model, not "
                        "that the captions are wrong"
                    )
        return lines

    def as_json(self) -> dict[str, Any]:
        """What `--output` writes."""
        copies = [
            {
                "splits": list(pair.splits),
                "images": [self.name(split, row) for split, row in zip(pair.splits, pair.rows, strict=True)],
                "similarity": pair.similarity,
                "mirrored": pair.mirrored,
            }
            for pair in self.copies
        ]
        unlikely = [
            {
                "split": one.split,
                "image": self.name(one.split, one.row),
                "caption": one.caption,
                "nearer": one.nearer,
                "images": one.images,
            }
            for one in self.unlikely or ()
        ]
        return {
            **self.statistics.as_json(),
            "notes": list(self.collection.notes),
            "equal_files": [[[split, Path(path).name] for split, path in group] for group in self.equal],
            "near_duplicates": copies,
            **({} if self.unlikely is None else {"unlikely_captions": unlikely}),
        }


def check_data(
    collection: Collection, min_count: int, max_pixels: int, workers: int | None = None, progress: bool = False
) -> DataCheck:
    """Check a data set.

    Args:
        collection: the data, with problems skipped.
        min_count: `text.min_count`.
        max_pixels: `data.max_pixels`.
        workers: number of parallel reads.
        progress: show bars.
    """
    splits = collection.splits
    files = {name: split.images for name, split in splits.items() if isinstance(split.images, EncodedImages)}
    equal = equal_files(files, workers)
    prints = {name: fingerprints(name, split.images, max_pixels, workers, progress) for name, split in splits.items()}
    with Phase("looking for copies"):
        copies = near_duplicates({name: each for name, each in prints.items() if each is not None})
    same = {frozenset(group) for group in equal}
    further = [pair for pair in copies if not _listed(pair, splits, same)]
    return DataCheck(collection, statistics(collection, min_count), equal, further)


def found_captions(split: Split, encoded: EncodedSplit) -> list[FoundCaption]:
    """The captions of a split that are unlike their own image, the least likely first.

    Args:
        split: the split.
        encoded: its embeddings.
    """
    captions = [caption for row in encoded.rows for caption in split.records[row].captions]
    return [
        FoundCaption(split.name, int(encoded.rows[one.image]), captions[one.caption], one.nearer, len(encoded.rows))
        for one in unlikely_captions(encoded)
    ]


def _listed(pair: NearDuplicate, splits: dict[str, Split], equal: set[frozenset[tuple[str, str]]]) -> bool:
    """Whether a pair are equal files, which are listed by themselves."""
    places: Sequence[tuple[str, str]] = [
        (split, splits[split].records[row].image) for split, row in zip(pair.splits, pair.rows, strict=True)
    ]
    return any(group.issuperset(places) for group in equal)
