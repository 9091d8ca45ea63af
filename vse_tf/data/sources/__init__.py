"""Sources: each reads one kind of caption data and gives the same records."""

from __future__ import annotations

from vse_tf.config import DataSettings
from vse_tf.data.records import Collection
from vse_tf.errors import UserError
from vse_tf.setting_types import Paths

__all__ = ["named_paths", "read"]


def read(settings: DataSettings, progress: bool = True) -> Collection:
    """Read the images and captions that the settings name.

    Every problem of the source is found before anything is said: `on_bad=fail` stops with all of them in one error,
    `on_bad=skip` leaves the bad captions and images out and lists them in `Collection.skipped`. A file that cannot be
    read at all, or lacks what the source needs (a column, a key), is always an error. A source's module says what it
    reads; relative paths are taken from the working directory.

    Args:
        settings: the section `data`.
        progress: show a progress bar where it takes longer than a second.

    Returns:
        The splits that have images, by name; rows are dense from 0 within each.

    Raises:
        UserError: the problems, with file and line or key.

    Example:
        >>> data = read(DataSettings(source="table", annotations="captions.csv"))
        >>> data.splits["val"].records[0].captions
        ('a cat on a mat',)
    """
    # One module a source, imported when it is asked for: some of them need TensorFlow.
    match settings.source:
        case "shapes":
            from vse_tf.data.shapes import read_shapes  # noqa: PLC0415

            return read_shapes(settings.shapes)
        case "karpathy":
            from vse_tf.data.sources.karpathy import read_karpathy  # noqa: PLC0415

            return read_karpathy(settings, progress)
        case "coco":
            from vse_tf.data.sources.coco import read_coco  # noqa: PLC0415

            return read_coco(settings, progress)
        case "table":
            from vse_tf.data.sources.table import read_table  # noqa: PLC0415

            return read_table(settings, progress)
        case "precomp":
            from vse_tf.data.sources.precomp import read_precomp  # noqa: PLC0415

            return read_precomp(settings, progress)
        case "tfds":
            from vse_tf.data.sources.tfds import read_tfds  # noqa: PLC0415

            return read_tfds(settings, progress)
    raise UserError(f"--data.source {settings.source!r}: choose one of shapes, karpathy, coco, table, precomp, tfds")


def named_paths(settings: DataSettings) -> list[str]:
    """The files and folders that reading the data opens as the settings name them, each with its key.

    Args:
        settings: the section `data`.

    Example:
        >>> named_paths(DataSettings(source="table", annotations="captions.csv"))
        ['data.annotations captions.csv']
    """
    if settings.source == "shapes":
        named: list[tuple[str, Paths]] = []
    elif settings.source == "tfds":
        named = [("tfds.name", settings.tfds.name), ("tfds.data_dir", settings.tfds.data_dir)]
    else:
        named = [("annotations", settings.annotations), ("images", settings.images)]
        if settings.source == "coco":
            named += [(f"split_ids.{split}", files) for split, files in (settings.split_ids or {}).items()]
    named.append(("cache_dir", settings.cache_dir))
    return [
        f"data.{key} {path}" for key, paths in named for path in ([paths] if isinstance(paths, str) else paths or [])
    ]
