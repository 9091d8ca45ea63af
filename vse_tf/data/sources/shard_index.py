"""The index of a shard: where its images are, what their headers say, and their captions, as values for a JSON file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vse_tf.data.sources.building import checked_caption
from vse_tf.data.sources.files import integer_or_none, json_type, problem_of_text, short_repr


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a shard.

    Args:
        name: its name in the shard.
        start: first byte in the file that holds the images.
        length: number of bytes.
        width: in pixels, from its header; 0 if it could not be read.
        height: in pixels.
        scans: number of times that decoding goes over all pixels.
        reason: why its header cannot be used; empty if it can.
        captions: its captions.
        split: its split, if the shard has one.
        image_id: its COCO id, if the shard has COCO ids.
        caption_ids: the COCO annotation id of each of `captions`; empty if the shard has none.
    """

    name: str
    start: int
    length: int
    width: int
    height: int
    scans: int
    reason: str
    captions: list[str]
    split: str | None = None
    image_id: int | None = None
    caption_ids: list[int] = field(default_factory=list)

    @property
    def values(self) -> list[Any]:
        """The sample as a list that JSON can hold; `Sample(*values)` is the sample again."""
        return [getattr(self, name) for name in self.__slots__]


class ShardIndex:
    """Collects the samples of a shard; what is wrong with it is noted.

    Args:
        path: the shard, for messages.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.samples: list[Sample] = []
        self.problems: list[tuple[str, str]] = []
        self.bad_captions: list[tuple[str, str]] = []

    def problem(self, name: str, what: str) -> None:
        """Note a problem.

        Args:
            name: the member or row; empty for the shard itself.
            what: what is wrong with it.
        """
        self.problems.append((self.place(name), what))

    def bad_caption(self, name: str, what: str) -> None:
        """Note what is wrong with a caption or a split; the image can be used without."""
        self.bad_captions.append((self.place(name), what))

    def place(self, name: str) -> str:
        """A member or row, for messages."""
        shown = name if name.isprintable() and not problem_of_text(name) else short_repr(name)
        return f"{self.path}: {shown}" if name else self.path

    def add(
        self,
        name: str,
        start: int,
        length: int,
        header: tuple[int, int, int, str],
        captions: list[object],
        split: object = None,
        ids: dict[str, Any] | None = None,
    ) -> None:
        """Add an image.

        Args:
            name: its name.
            start: first byte.
            length: number of bytes.
            header: its width, height and scans, and why it cannot be used: see `read_image_header`.
            captions: its captions as the shard has them.
            split: its split as the shard has it.
            ids: values that may have a COCO `image_id` and `caption_ids`.
        """
        texts, numbers = [], (ids or {}).get("caption_ids")
        for caption in captions:
            text, problem = checked_caption(caption)
            if problem:
                self.bad_caption(name, problem)
            else:
                texts.append(text)
        complete = isinstance(numbers, list) and len(numbers) == len(texts) == len(captions)
        if not complete or not all(integer_or_none(number) is not None for number in numbers or []):
            numbers = []
        if split is not None and not isinstance(split, str):
            self.bad_caption(name, f"wrong type: the split is {json_type(split)}, not a string")
            texts, split = [], None
        sample = Sample(
            name,
            start,
            length,
            *header,
            texts,
            split.strip() if split else None,
            integer_or_none((ids or {}).get("image_id")),
            numbers or [],
        )
        self.samples.append(sample)

    def values(self) -> dict[str, Any]:
        """The index as a value that JSON can hold."""
        samples = [sample.values for sample in self.samples]
        return {"samples": samples, "problems": self.problems, "bad_captions": self.bad_captions}


def read_index(path: str, values: object) -> ShardIndex:
    """The index that `ShardIndex.values` was.

    Raises:
        ValueError: it is not one. A cache folder may be shared with others.
    """
    index = ShardIndex(path)
    try:
        assert isinstance(values, dict)
        index.samples = [Sample(*each) for each in values["samples"]]
        index.problems = [(str(where), str(what)) for where, what in values["problems"]]
        index.bad_captions = [(str(where), str(what)) for where, what in values["bad_captions"]]
        for sample in index.samples:
            _check(sample)
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(f"not the index of a shard: {error}") from None
    return index


def _check(sample: Sample) -> None:
    numbers = (sample.start, sample.length, sample.width, sample.height, sample.scans, *sample.caption_ids)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise TypeError("a number is missing")
    if not all(type(text) is str for text in (sample.name, sample.reason, sample.split or "", *sample.captions)):
        raise TypeError("a text is missing")
