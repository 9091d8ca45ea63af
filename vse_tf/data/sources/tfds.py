"""The source `tfds`: any TensorFlow Datasets set with an image and captions.

A set that is stored as ArrayRecord is read where it is. The images of others are written to the cache folder once, as
encoded files, and are read from there.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vse_tf.atomic import check_folder, write_text
from vse_tf.cache import cache_folder
from vse_tf.cache_size import BoundedCache
from vse_tf.config import DataSettings, TfdsSettings
from vse_tf.data.records import Collection, Report
from vse_tf.data.sources.building import Gathering, collect_files, split_names
from vse_tf.data.sources.files import expanded
from vse_tf.data.sources.packed import collect_packed
from vse_tf.data.sources.tfds_folder import check_prepared
from vse_tf.data.sources.tfds_records import Example, example_readers, record_shards
from vse_tf.display import phase_if
from vse_tf.downloads import downloads
from vse_tf.errors import UserError
from vse_tf.files import open_regular, read_json, reason_of
from vse_tf.locks import process_lock
from vse_tf.preprocessing.image_headers import read_header

if TYPE_CHECKING:
    import tensorflow as tf
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import FeatureConnector

CAPTIONS, DONE = "captions.jsonl", "done.json"
IMAGE_NAME = re.compile(r"\d{8,}\.\w+")
# Tried if a data set does not list its splits.
USUAL_SPLITS = ("train", "validation", "test")


def read_tfds(settings: DataSettings, progress: bool = True) -> Collection:
    """Read a TensorFlow Datasets set.

    The caption feature may be a string, a sequence of strings or a string in each element of a sequence
    (`captions/text`). A set that is stored as ArrayRecord is read where it is. The images of others are written to
    `<cache folder>/tfds/<name>/<version>/<split>/` the first time; only complete splits are there. `validation` is
    `val`, and `restval` joins `train` unless `restval_as_train` is off.
    Equal captions of an image are no problem: users cannot change the set.

    Args:
        settings: `tfds` names the set and its features.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: no such set or feature, not prepared and `tfds.download` is off, or the problems of its records.
    """
    builder = _make_builder(settings.tfds)
    features = {"image": settings.tfds.image_feature, "caption": settings.tfds.caption_feature}
    for key, path in features.items():
        # Before a download of hours.
        _find_feature(builder, key, path)
    folder = cache_folder(settings)
    cache, root = BoundedCache(folder, settings.cache_size), folder / "tfds" / builder.info.full_name
    cache.claim(folder / "tfds" / builder.name)
    if not _is_current(builder, root, features):
        if builder.is_prepared() and (readers := _readers(builder, features)):
            names = _split_names(builder, list(readers), settings)
            shards = record_shards(builder, readers, names, features, folder, progress)
            return collect_packed("tfds", shards, settings, progress)
        # Before a download of hours.
        check_folder(root, "data.cache_dir")
        try:
            root.mkdir(parents=True, exist_ok=True)
            what = f"the images of {builder.info.full_name}"
            # Their size is known now, or once the set is prepared.
            cache.make_room(builder.info.dataset_size, what)
            _prepare(builder, settings.tfds)
            cache.make_room(builder.info.dataset_size, what)
            splits = list(builder.info.splits) or list(USUAL_SPLITS)
            for split in splits:
                _write_split(builder, split, root, features, progress)
            write_text(root / DONE, json.dumps(features | {"splits": splits}))
        except OSError as error:
            raise UserError(
                f"{root}: the images cannot be written ({error.strerror or error}); name another folder with "
                "--data.cache_dir"
            ) from None
    report = Report()
    gathering = Gathering(report)
    splits = _done(root)["splits"]
    names = _split_names(builder, splits, settings)
    for split in splits:
        for number, (file, captions) in enumerate(_written_examples(root / split / CAPTIONS)):
            where = f"{builder.info.full_name}: {split}[{number}]"
            entry = gathering.image(str(root.absolute() / split / file), names[split], where)
            for place, caption in enumerate(captions if entry else ()):
                if entry:
                    gathering.caption(entry, caption, where, ("caption", place))
    return collect_files("tfds", gathering, settings, progress)


def _readers(builder: DatasetBuilder, features: dict[str, str]) -> dict[str, Callable[[int], Example]] | None:
    image, caption = (_find_feature(builder, key, path) for key, path in features.items())
    return example_readers(builder, list(builder.info.splits), image, caption)


def _split_names(builder: DatasetBuilder, splits: list[str], settings: DataSettings) -> dict[str, str]:
    names = split_names(splits, builder.info.full_name)
    if settings.restval_as_train:
        names = {name: "train" if split == "restval" else split for name, split in names.items()}
    return names


def _written_examples(path: Path) -> Iterator[tuple[str, list[str]]]:
    """File name and captions of each example. Names are checked: a cache folder may be shared with others."""
    try:
        with open_regular(path) as lines:
            for line in lines:
                file, *captions = json.loads(line)
                if not isinstance(file, str) or not IMAGE_NAME.fullmatch(file):
                    raise ValueError(f"it names the image {str(file)[:100]!r}")
                yield file, captions
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: {reason}; delete the folder {path.parent} and repeat") from None


def _make_builder(settings: TfdsSettings) -> DatasetBuilder:
    import tensorflow_datasets as tfds  # noqa: PLC0415

    if not settings.name:
        raise UserError("no data set given; name one with --data.tfds.name, for example coco_captions")
    check_prepared(settings.name, settings.data_dir)
    data_dir = str(expanded(settings.data_dir)) if settings.data_dir else None
    try:
        return tfds.builder(settings.name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError:
        # The package's own message lists a thousand names.
        raise UserError(f"--data.tfds.name {settings.name}: TensorFlow Datasets has no such set") from None
    except Exception as error:
        # Unknown versions and configs and malformed names raise AssertionError or ValueError.
        raise UserError(f"--data.tfds.name {settings.name}: {_one_line(error)}") from None


def _prepare(builder: DatasetBuilder, settings: TfdsSettings) -> None:
    if builder.is_prepared():
        return
    if not settings.download:
        raise UserError(
            f"--data.tfds.name {settings.name}: the set is not prepared in {builder.data_dir}; name its folder with "
            "--data.tfds.data_dir or allow --data.tfds.download true"
        )
    advice = (
        "without a network name a folder that another machine prepared with --data.tfds.data_dir, or read the caption "
        "file and the images themselves with --data.source table, karpathy or coco"
    )
    with downloads(f"--data.tfds.name {settings.name}: the data set", advice):
        try:
            builder.download_and_prepare()
        except Exception as error:
            # A data set's own script may raise anything: a moved file, a full disk, a manual download.
            raise UserError(f"--data.tfds.name {settings.name}: preparing it failed: {_one_line(error)}") from error


def _is_current(builder: DatasetBuilder, root: Path, features: dict[str, str]) -> bool:
    """Whether all splits have been written already, from the same features and with the same number of examples."""
    done = _done(root)
    splits = done.get("splits") or []
    if not isinstance(splits, list) or not splits or not all(isinstance(name, str) for name in splits):
        return False
    if any("/" in name or name.startswith(".") for name in splits) or done != features | {"splits": splits}:
        return False
    return all(_is_written(builder, split, root, features) for split in splits)


def _is_written(builder: DatasetBuilder, split: str, root: Path, features: dict[str, str]) -> bool:
    done = _done(root / split)
    known = builder.info.splits
    expected = known[split].num_examples if split in known else None
    return done == features | {"examples": done.get("examples")} and expected in (None, done["examples"])


def _done(folder: Path) -> dict[str, Any]:
    try:
        done = read_json(folder / DONE)
    except (OSError, ValueError):
        return {}
    return done if isinstance(done, dict) else {}


def _write_split(builder: DatasetBuilder, split: str, root: Path, features: dict[str, str], progress: bool) -> None:
    """Write the images and captions of a split to a temporary folder, then rename it."""
    with process_lock(root / f".{split}.lock", "writes these images"):
        # Another process may have written it meanwhile.
        if _is_written(builder, split, root, features):
            return
        part = root / f".{split}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        known = builder.info.splits
        total = known[split].num_examples if split in known else None
        count = 0
        with (part / CAPTIONS).open("w", encoding="utf-8") as lines:
            examples = _examples(builder, split, features)
            with phase_if(progress, f"writing {builder.name} {split}", total, "images") as writing:
                for image, captions in examples:
                    name = f"{count:08d}.{_suffix(image)}"
                    (part / name).write_bytes(image)
                    lines.write(json.dumps([name, *captions]) + "\n")
                    count += 1
                    writing.update()
        (part / DONE).write_text(json.dumps(features | {"examples": count}))
        shutil.rmtree(root / split, ignore_errors=True)
        part.rename(root / split)


def _examples(builder: DatasetBuilder, split: str, features: dict[str, str]) -> Iterator[tuple[bytes, list[str]]]:
    """Encoded image and captions of each example."""
    import tensorflow as tf  # noqa: PLC0415

    image, caption = (_find_feature(builder, key, path) for key, path in features.items())
    dataset = _open_split(builder, split, image, caption)
    read_image = _image_reader(dataset.element_spec, image, features["image"])
    try:
        for example in dataset:
            yield read_image(_follow(example, image)), _strings(_follow(example, caption), features["caption"])
    except tf.errors.OpError as error:
        raise UserError(
            f"{builder.info.full_name}: reading the split {split!r} broke off: {_one_line(error)}"
        ) from None


def _open_split(
    builder: DatasetBuilder, split: str, image: tuple[str, ...], caption: tuple[str, ...]
) -> tf.data.Dataset:
    import tensorflow_datasets as tfds  # noqa: PLC0415

    skip = _nest(image, tfds.decode.SkipDecoding())
    ways: list[Callable[[], Any]] = [
        # Other features (boxes, masks) are not even parsed.
        lambda: tfds.decode.PartialDecoding(_merge(_nest(image, True), _nest(caption, True)), decoders=skip),
        lambda: skip,
        # Images stored as arrays, or builders that cannot return encoded bytes (the mocked one).
        lambda: None,
    ]
    read_config = tfds.ReadConfig(try_autocache=False)
    for way in ways:
        try:
            dataset = builder.as_dataset(split=split, decoders=way(), shuffle_files=False, read_config=read_config)
            for _ in dataset.take(1):
                break
            return dataset
        except Exception as error:
            reason = _one_line(error)
    raise UserError(f"{builder.info.full_name}: the split {split!r} cannot be read: {reason}")


def _image_reader(spec: dict[str, Any], path: tuple[str, ...], name: str) -> Callable[[Any], bytes]:
    import tensorflow as tf  # noqa: PLC0415

    leaf = _follow(spec, path)
    dtype, rank = getattr(leaf, "dtype", None), getattr(getattr(leaf, "shape", None), "rank", None)
    if dtype == tf.string and rank == 0:
        return lambda value: bytes(value.numpy())
    if dtype in (tf.uint8, tf.uint16) and rank in (None, 3):
        return lambda value: bytes(tf.io.encode_png(value).numpy())
    raise UserError(f"--data.tfds.image_feature {name}: not an image but {leaf}")


def _strings(value: tf.Tensor | tf.RaggedTensor, name: str) -> list[str]:
    import tensorflow as tf  # noqa: PLC0415

    flat = value.flat_values if isinstance(value, tf.RaggedTensor) else value
    if getattr(flat, "dtype", None) != tf.string:
        raise UserError(f"--data.tfds.caption_feature {name}: not text but {getattr(flat, 'dtype', type(flat))}")
    # Bytes that are not UTF-8 are reported as problems later.
    return [text.decode("utf-8", "surrogateescape") for text in np.ravel(flat.numpy()).tolist()]


def _find_feature(builder: DatasetBuilder, key: str, path: str) -> tuple[str, ...]:
    """The keys that lead to a feature. A key may contain a `/`, as `image/filename` of `coco_captions` does."""

    def find(feature: FeatureConnector, rest: str) -> tuple[str, ...] | None:
        if not rest:
            return ()
        feature = getattr(feature, "feature", feature)
        names = list(feature.keys()) if hasattr(feature, "keys") else []
        for name in sorted(names, key=len, reverse=True):
            if rest == name or rest.startswith(f"{name}/"):
                found = find(feature[name], rest[len(name) + 1 :])
                if found is not None:
                    return name, *found
        return None

    found = find(builder.info.features, path)
    if not found:
        raise UserError(
            f"--data.tfds.{key}_feature {path}: {builder.info.full_name} has no such feature; there are: "
            f"{', '.join(_paths(builder.info.features))}"
        )
    return found


def _paths(feature: FeatureConnector) -> list[str]:
    feature = getattr(feature, "feature", feature)
    if not hasattr(feature, "keys"):
        return [""]
    return [f"{name}/{rest}".rstrip("/") for name in feature for rest in _paths(feature[name])]


def _follow(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _nest(path: tuple[str, ...], value: object) -> dict[str, Any]:
    key, *rest = path
    return {key: _nest(tuple(rest), value) if rest else value}


def _merge(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(one)
    for key, value in other.items():
        merged[key] = _merge(merged[key], value) if isinstance(merged.get(key), dict) else value
    return merged


def _suffix(image: bytes) -> str:
    try:
        name = read_header(image).format
    except ValueError:
        return "bin"
    return "jpg" if name == "jpeg" else name


def _one_line(error: Exception) -> str:
    text = str(error).strip()
    return text.split("\n")[0][:300] or type(error).__name__
