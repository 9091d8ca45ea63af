"""Reads the examples of a prepared TensorFlow Datasets set in any order, where it is stored as ArrayRecord."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vse_tf.cache import cached_result
from vse_tf.data.packed_images import PackedFile
from vse_tf.data.sources.packed import Shard
from vse_tf.data.sources.shard_index import ShardIndex, read_index
from vse_tf.data.verify import RULES, read_image_header
from vse_tf.display import phase_if
from vse_tf.errors import UserError
from vse_tf.preprocessing.image_headers import format_of

FORMAT = 1
Example = tuple[bytes, list[object]]


@dataclass(frozen=True)
class RecordFile(PackedFile):
    """A split of a prepared set; the start of an image is the number of its example.

    Its path, size and modification time are those of the set's description, which is written last.

    Args:
        example: encoded image and captions of an example, by its number.
    """

    example: Callable[[int], Example]

    def read(self, start: int, length: int, skipped: int = 0) -> bytes:
        try:
            return self.example(start)[0][skipped:length]
        except Exception as error:
            # The library raises what it likes for a damaged file.
            raise OSError(str(error).split("\n")[0] or type(error).__name__) from None


def example_readers(
    builder: Any, splits: Sequence[str], image: tuple[str, ...], caption: tuple[str, ...]
) -> dict[str, Callable[[int], Example]] | None:
    """How each split's examples are read; None if the set is not stored as ArrayRecord.

    Args:
        builder: the builder of a prepared set.
        splits: its splits.
        image: the keys that lead to the image.
        caption: the keys that lead to the captions.

    Raises:
        UserError: a split cannot be read, or its images are no images.
    """
    import tensorflow_datasets as tfds  # noqa: PLC0415

    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        return None
    decoders: Any = tfds.decode.SkipDecoding()
    for key in reversed(image):
        decoders = {key: decoders}

    def reader(split: str) -> Callable[[int], Example]:
        source = builder.as_data_source(split=split, decoders=decoders)

        def read(number: int) -> Example:
            example = source[number]
            contents = _follow(example, image)
            if not isinstance(contents, bytes):
                contents = _png(contents)
            return contents, [_text(value) for value in np.ravel(np.asarray(_follow(example, caption), object))]

        return read

    readers = {}
    for split in splits:
        try:
            readers[split] = reader(split)
            readers[split](0)
        except Exception as error:
            # The library raises what it likes.
            reason = str(error).split("\n")[0][:300] or type(error).__name__
            raise UserError(f"{builder.info.full_name}: the split {split!r} cannot be read: {reason}") from None
    return readers


def record_shards(
    builder: Any,
    readers: Mapping[str, Callable[[int], Example]],
    names: Mapping[str, str],
    features: Mapping[str, str],
    cache: Path,
    progress: bool,
) -> Iterator[Shard]:
    """The splits of a set with their indexes.

    Args:
        builder: the builder of a prepared set.
        readers: what `example_readers` returned.
        names: our name of each split.
        features: the features that are read, on which a cached index depends.
        cache: the cache folder.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        OSError: the set's description cannot be read.
    """
    described = Path(str(builder.data_path)) / "dataset_info.json"
    for split, read in readers.items():
        where, count = f"{builder.info.full_name}/{split}", builder.info.splits[split].num_examples
        key = hashlib.sha256(json.dumps([FORMAT, split, dict(features)]).encode()).hexdigest()[:12]

        make = partial(_values, where, count, read, progress)
        values = cached_result(cache, described, f"tfds-{RULES}-{key}", make)
        try:
            index = read_index(where, values)
        except ValueError:
            index = _index(where, count, read, progress)
        stat = described.stat()
        yield Shard(index, RecordFile(str(described), stat.st_size, stat.st_mtime_ns, read), names[split])


def _values(where: str, count: int, read: Callable[[int], Example], progress: bool) -> dict[str, Any]:
    return _index(where, count, read, progress).values()


def _index(where: str, count: int, read: Callable[[int], Example], progress: bool) -> ShardIndex:
    index = ShardIndex(where)
    with phase_if(progress, f"indexing {where}", count, "images") as indexing:
        for number in range(count):
            _add(index, number, read)
            indexing.update()
    return index


def _add(index: ShardIndex, number: int, read: Callable[[int], Example]) -> None:
    try:
        contents, captions = read(number)
    except Exception as error:
        index.problem(f"example {number}", f"damaged example: {str(error).splitlines()[0][:300]}")
        return
    name = f"{number:08d}.{format_of(contents).replace('jpeg', 'jpg') or 'bin'}"
    header, _ = read_image_header(BytesIO(contents), len(contents))
    index.add(name, number, len(contents), header, captions)


def _png(pixels: Any) -> bytes:
    """An image that is stored as an array, as a PNG file."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
        raise TypeError(f"the image is no image but {getattr(pixels, 'dtype', type(pixels).__name__)}")
    buffer = BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _follow(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = [each[key] for each in tree] if isinstance(tree, list) else tree[key]
    return tree


def _text(value: object) -> object:
    """Bytes that are not UTF-8 are reported as problems later."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
