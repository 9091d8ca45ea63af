"""The source `precomp`: precomputed image features `{split}_ims.npy` and captions `{split}_caps.txt`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from vse_tf.cache import cache_folder, cached_result
from vse_tf.config import DataSettings
from vse_tf.data.records import Collection, Images, Report
from vse_tf.data.sources.building import Entry, Gathering, collect, split_names
from vse_tf.data.sources.files import one_path, read_array, read_text
from vse_tf.display import phase_if
from vse_tf.errors import UserError

IMAGES, CAPTIONS = "_ims.npy", "_caps.txt"
# Number of bytes of features read in one step.
BLOCK_BYTES = 1 << 26
# Number of values of two rows that are compared first: nearly all different rows differ in them.
FIRST_VALUES = 16


class FeatureImages:
    """Images that are rows of a feature array. A memory-mapped file stays on disk; only requested rows are read.

    Args:
        array: `(n, d)` or `(n, regions, d)`, memory-mapped or not.
        index: the array's row for each image, integers `(images,)`.

    Example:
        >>> FeatureImages(np.zeros([10, 2048]), np.array([0, 5])).load(np.array([1])).shape
        (1, 2048)
    """

    kind: Literal["files", "pixels", "features"] = "features"

    def __init__(self, array: np.ndarray, index: np.ndarray) -> None:
        self.array = array
        self.index = np.asarray(index, np.int64)

    def __len__(self) -> int:
        return len(self.index)

    def load(self, rows: np.ndarray) -> np.ndarray:
        """Features of the given rows.

        Args:
            rows: row numbers, integers `(n,)`.

        Returns:
            float32 `(n, d)` or `(n, regions, d)`, a fresh array.
        """
        return np.array(self.array[self.index[np.asarray(rows, np.int64)]], np.float32)


def read_precomp(settings: DataSettings, progress: bool = True) -> Collection:
    """Read a folder of precomputed features.

    Each split has `{split}_ims.npy` (`(N, d)` or `(N, regions, d)`) and `{split}_caps.txt` with one caption per line.
    With k·N captions each image has k of them, in order. With N captions an image's row is repeated for each of its
    captions, as in the field's older files: equal neighbours are one image. `dev` is `val`.

    Args:
        settings: `annotations` is the folder.
        progress: show a progress bar if it takes longer than a second.

    Raises:
        UserError: the folder's problems, by file and line.
    """
    folder = one_path(settings.annotations, "data.annotations", f"folder of *{IMAGES} and *{CAPTIONS}")
    names = _split_files(folder)
    report = Report()
    gathering = Gathering(report)
    _check_shapes(folder, names)
    arrays: dict[str, np.ndarray] = {}
    for name, split in names.items():
        arrays[split] = _read_split(folder, name, split, settings, gathering, progress)

    def images(split: str, entries: list[Entry]) -> Images:
        return FeatureImages(arrays[split], np.array([entry.row for entry in entries], np.int64))

    return collect("precomp", gathering, settings, images)


def _split_files(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        reason = "not a folder" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {reason}; --data.annotations names the folder of *{IMAGES} and *{CAPTIONS}")
    found = {
        suffix: {path.name.removesuffix(suffix) for path in folder.glob(f"?*{suffix}")} for suffix in (IMAGES, CAPTIONS)
    }
    unpaired = [f"{name}{IMAGES} has no {name}{CAPTIONS}" for name in sorted(found[IMAGES] - found[CAPTIONS])]
    unpaired += [f"{name}{CAPTIONS} has no {name}{IMAGES}" for name in sorted(found[CAPTIONS] - found[IMAGES])]
    if unpaired:
        raise UserError(f"{folder}: {'; '.join(unpaired)}")
    if not found[IMAGES]:
        raise UserError(f"{folder}: no *{IMAGES} and *{CAPTIONS} there; name the folder with --data.annotations")
    return split_names(sorted(found[IMAGES]), str(folder))


def _check_shapes(folder: Path, names: dict[str, str]) -> None:
    """Refuse splits whose features differ in shape: one model cannot take both."""
    first: tuple[Path, tuple[int, ...]] | None = None
    # The other splits are compared with train, if it is there.
    for name in sorted(names, key=lambda name: names[name] != "train"):
        path = folder / f"{name}{IMAGES}"
        shape = _open_array(path).shape[1:]
        first = first or (path, shape)
        if shape != first[1]:
            raise UserError(
                f"{path}: features {shape} per image, but {first[1]} in {first[0]}; all splits need features of one "
                "shape: make them again in the same way, or move the files of a split away"
            )


def _read_split(
    folder: Path, name: str, split: str, settings: DataSettings, gathering: Gathering, progress: bool
) -> np.ndarray:
    path, text_path = folder / f"{name}{IMAGES}", folder / f"{name}{CAPTIONS}"
    array = _open_array(path)
    lines = list(io.StringIO(read_text(text_path)))
    starts = _starts(array, len(lines), path, text_path, cache_folder(settings), progress)
    bad: set[int] = set()
    if settings.verify != "none":
        folder = cache_folder(settings)
        bad = set(cached_result(folder, path, "finite", lambda: non_finite_rows(array, path.name, progress)))
    ends = [*starts[1:], len(array)]
    per_row = len(lines) // len(array)
    where = f"{text_path}: line"
    for start, end in zip(starts, ends, strict=True):
        image = f"{path}[{start}]"
        if start in bad:
            gathering.report.add(image, "non-finite features")
            continue
        entry = gathering.image(image, split, image, row=start)
        for number in range(start * per_row, end * per_row) if entry else ():
            if entry:
                # Repeated captions stay: published figures count each line.
                gathering.caption(entry, lines[number], f"{where} {number + 1}", ("line", number))
    return array


def _open_array(path: Path) -> np.ndarray:
    array = read_array(path, str(path))
    if array.dtype.kind not in "fiu" or array.ndim not in (2, 3) or not array.size:
        contents = f"an array {array.shape} of {array.dtype}"
        raise UserError(f"{path}: it holds {contents}; numbers (images, d) or (images, regions, d) are expected")
    return array


def _starts(
    array: np.ndarray, captions: int, path: Path, text_path: Path, cache_dir: Path, progress: bool
) -> list[int]:
    """The array's row of each image, ascending."""
    if captions == len(array):
        return cached_result(cache_dir, path, "starts", lambda: run_starts(array, path.name, progress))
    if captions % len(array) or not captions:
        raise UserError(
            f"{path} has {len(array)} rows and {text_path} {captions} lines: the number of lines must be a multiple of "
            "the number of rows"
        )
    return list(range(len(array)))


def run_starts(array: np.ndarray, name: str = "", progress: bool = False) -> list[int]:
    """First row of each run of equal neighbouring rows.

    Args:
        array: `(n, …)`; rows are equal when all their bytes are.
        name: name for the progress bar.
        progress: show a progress bar if it takes longer than a second.

    Returns:
        Ascending row numbers, the first is 0.

    Example:
        >>> run_starts(np.array([[1.0], [1.0], [2.0]]))
        [0, 2]
    """
    starts = [0]
    for start, end in _blocks(array, f"comparing {name}", progress):
        # One row beyond the block, to compare the pair across its border too.
        pairs = array[start : end + 1]
        first_values = _bytes(pairs.reshape(len(pairs), -1)[:, :FIRST_VALUES])
        same = (first_values[1:] == first_values[:-1]).all(axis=1)
        candidates = np.flatnonzero(same)
        if len(candidates):
            rows = _bytes(pairs)
            same[candidates] = (rows[candidates] == rows[candidates + 1]).all(axis=1)
        starts += (np.flatnonzero(~same) + start + 1).tolist()
    return starts


def non_finite_rows(array: np.ndarray, name: str = "", progress: bool = False) -> list[int]:
    """Rows with a value that is not finite as float32.

    Args:
        array: `(n, …)`.
        name: name for the progress bar.
        progress: show a progress bar if it takes longer than a second.

    Returns:
        Ascending row numbers.
    """
    bad: list[int] = []
    for start, end in _blocks(array, f"checking {name}", progress):
        with np.errstate(over="ignore"):
            rows = np.asarray(array[start:end], np.float32).reshape(end - start, -1)
        bad += (np.flatnonzero(~np.isfinite(rows).all(axis=1)) + start).tolist()
    return bad


def _blocks(array: np.ndarray, label: str, progress: bool) -> Iterator[tuple[int, int]]:
    step = max(1, BLOCK_BYTES // max(1, array[0].nbytes))
    with phase_if(progress, label, len(array), "images") as bar:
        for start in range(0, len(array), step):
            end = min(start + step, len(array))
            yield start, end
            bar.update(end - start)


def _bytes(rows: np.ndarray) -> np.ndarray:
    """The rows' bytes, so that a NaN equals itself."""
    return np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
