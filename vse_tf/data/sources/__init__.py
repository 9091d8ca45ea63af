"""Sources: each reads one kind of caption data and returns the same kind of records."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

from vse_tf.addresses import is_address, typed
from vse_tf.config import DataSettings
from vse_tf.data.records import Collection
from vse_tf.data_settings import COLLECTIONS, PACKED
from vse_tf.display import say
from vse_tf.errors import UserError
from vse_tf.remote.copies import local_folder, local_path
from vse_tf.setting_types import Paths
from vse_tf.source_detection import with_source

__all__ = ["named_paths", "read"]


def read(settings: DataSettings, progress: bool = True) -> Collection:
    """Read the images and captions that the settings name.

    With `on_bad=fail` all problems of the source are in one error; with `on_bad=skip` bad captions and images are
    left out and listed in `Collection.skipped`. A file that cannot be read at all, or that lacks a required column or
    key, is always an error. What else a user should know is in `Collection.notes`. The module of a source describes
    its files; relative paths start at the working directory.

    Args:
        settings: the section `data`.
        progress: print the notes, and show a progress bar if it takes longer than a second.

    Returns:
        The splits that have images, by name; rows are dense from 0 in each.

    Raises:
        UserError: the problems, with file and line or key.

    Example:
        >>> from vse_tf.config import ShapesSettings
        >>> data = read(DataSettings(source="shapes", shapes=ShapesSettings(train_scenes=64, gallery_scenes=16)))
        >>> len(data.splits["train"]), len(data.splits["train"].captions)
        (64, 320)
    """
    collection = _read(_with_copies(with_source(settings)), progress)
    for note in collection.notes if progress else ():
        say(note, sys.stderr)
    return collection


def named_paths(settings: DataSettings) -> list[str]:
    """The files and folders in the settings that reading the data opens, each with its key.

    Args:
        settings: the section `data`.

    Example:
        >>> named_paths(DataSettings(source="table", annotations="captions.csv"))
        ['data.annotations captions.csv']
    """
    source, named = settings.source, list[tuple[str, Paths]]()
    if source in ("tfds", "auto"):
        named += [("tfds.name", settings.tfds.name), ("tfds.data_dir", settings.tfds.data_dir)]
    if source not in ("tfds", "shapes"):
        named += [("annotations", settings.annotations), ("images", settings.images)]
    if source in ("coco", "auto"):
        named += [(f"split_ids.{split}", files) for split, files in (settings.split_ids or {}).items()]
    named.append(("cache_dir", settings.cache_dir))
    return [
        f"data.{key} {path}" for key, paths in named for path in ([paths] if isinstance(paths, str) else paths or [])
    ]


def _with_copies(settings: DataSettings) -> DataSettings:
    """The settings with the local copies of remote files; shards stay, which are fetched one by one."""
    if settings.source == "tfds" and is_address(settings.tfds.data_dir):
        name = (settings.tfds.name or "").partition("/")[0].partition(":")[0]
        folder = local_folder(f"{settings.tfds.data_dir}/{name}", settings)
        return replace(settings, tfds=replace(settings.tfds, data_dir=str(folder.parent), download=False))
    named = [settings.annotations] if isinstance(settings.annotations, str) else settings.annotations or []
    if settings.source in PACKED or not any(map(is_address, named)):
        return settings
    for path in filter(is_address, named):
        typed(path)
    if settings.source != "precomp" and not settings.images:
        raise UserError(
            "data.images: name the local folder of the images; images in a bucket are read as shards, which "
            "python -m vse_tf.pack writes"
        )
    copies = [str(local_path(path, settings)) for path in named]
    return replace(settings, annotations=copies if isinstance(settings.annotations, list) else copies[0])


def _read(settings: DataSettings, progress: bool) -> Collection:
    # Each source's module is imported only when it is used: some need TensorFlow.
    if settings.source == "shapes":
        from vse_tf.data.shapes import read_shapes  # noqa: PLC0415

        return read_shapes(settings.shapes)
    if settings.source not in COLLECTIONS:
        raise UserError(f"--data.source {settings.source!r}: choose one of {', '.join(('shapes', *COLLECTIONS))}")
    module = importlib.import_module(f"vse_tf.data.sources.{settings.source}")
    return getattr(module, f"read_{settings.source}")(settings, progress)
