"""Checks image files before training; results are cached until a file changes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from vse_tf.cache import read_cached, write_cached
from vse_tf.config import Verify
from vse_tf.display import phase_if
from vse_tf.errors import tensorflow_reason
from vse_tf.files import open_regular
from vse_tf.preprocessing.image_headers import checked_header, read_header
from vse_tf.preprocessing.image_limits import BYTES, MAX_BYTES, NOT_AN_IMAGE, PHOTO, RefusedImageError, above_limit

# Enough for the header of nearly every image; if it is not, the complete file is read.
HEADER_BYTES = 65536
# Stored with the results: raise it when the rules for usable images change.
RULES = 2
# Number of files given to the threads at a time, so that a large set does not become a million futures at once.
BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Check:
    """The result of checking one image file.

    Args:
        size: size of the file in bytes.
        mtime_ns: its modification time in nanoseconds.
        how: the check that was made.
        width: in pixels, from its header; 0 if it could not be read.
        height: in pixels.
        scans: number of times that decoding goes over all pixels.
        reason: why the image cannot be used; empty if it can.
        lasting: checking the same file again gives the same result.
    """

    size: int
    mtime_ns: int
    how: Literal["headers", "decode"]
    width: int
    height: int
    scans: int
    reason: str
    lasting: bool = True

    def suffices(self, how: Verify, max_pixels: int) -> bool:
        """Whether this result answers the check `how` too."""
        return how == "headers" or self.how == "decode" or bool(self.verdict(max_pixels))

    def verdict(self, max_pixels: int) -> str:
        """Why the image cannot be used under this limit; empty if it can."""
        return self.reason or verdict_of(self.width, self.height, self.scans, max_pixels)


def verdict_of(width: int, height: int, scans: int, max_pixels: int) -> str:
    """Why an image with this header cannot be used; empty if it can.

    Args:
        width: in pixels.
        height: in pixels.
        scans: number of times that decoding goes over all pixels.
        max_pixels: `data.max_pixels`.
    """
    if width * height > max_pixels:
        return f"{width * height} pixels, more than data.max_pixels={max_pixels}"
    return above_limit(width, height, scans, max_pixels)


def verify(
    paths: Sequence[str],
    how: Verify,
    max_pixels: int,
    cache_dir: Path,
    workers: int | None = None,
    progress: bool = True,
) -> dict[str, str]:
    """Find the image files that cannot be used.

    Args:
        paths: image files.
        how: `headers` reads the first 64 KiB of each (kind, width and height; of a progressive JPEG all, for its
            scans), `decode` decodes each file once as training does, `none` checks nothing.
        max_pixels: images with more pixels, according to their header, cannot be used.
        cache_dir: results are cached in its `verify/`, by path, size and modification time; a `decode` result serves
            for `headers` too.
        workers: number of parallel checks (default: number of CPU cores).
        progress: show a progress bar if it takes longer than a second.

    Returns:
        The reason, one line, for each file that cannot be used.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "notes.jpg").write_text("buy a dog")
        ...     verify([f"{folder}/notes.jpg"], "headers", 10**8, Path(folder, "cache"))
        {'/.../notes.jpg': 'not a JPEG, PNG, GIF, BMP or WebP image'}
    """
    if how == "none" or not paths:
        return {}
    file = _cache_file(paths, cache_dir)
    known = _load(file)
    checks: dict[str, Check] = {}
    todo: list[str] = []
    for path in dict.fromkeys(paths):
        found = known.get(os.path.abspath(path))  # noqa: PTH100 - links need not be resolved
        if found and found.suffices(how, max_pixels) and _unchanged(path, found):
            checks[path] = found
        else:
            todo.append(path)
    if todo:
        check = check_header
        if how == "decode":
            # Traced before the threads need it.
            decode_check(max_pixels)
            check = functools.partial(_check_by_decoding, max_pixels=max_pixels)
        try:
            for path, result in _run(check, todo, workers, progress):
                checks[path] = result
        finally:
            # Also when interrupted: finished checks are not repeated.
            new = {os.path.abspath(path): checks[path] for path in todo if path in checks}  # noqa: PTH100
            _save(file, known | {path: result for path, result in new.items() if result.lasting})
    verdicts = {path: checks[path].verdict(max_pixels) for path in dict.fromkeys(paths)}
    return {path: verdict for path, verdict in verdicts.items() if verdict}


def check_header(path: str) -> Check:
    """Check one file by its header.

    Args:
        path: image file.
    """
    return _check_contents(path, HEADER_BYTES)[0]


@functools.lru_cache(maxsize=2)
def decode_check(max_pixels: int) -> Callable[[bytes], tuple[str, bool]]:
    """A check that decodes an image.

    Args:
        max_pixels: images with more pixels cannot be used.

    Returns:
        A function from the contents of an image file to why it cannot be decoded, empty if it can, and whether decoding
        it again gives the same result.
    """
    import tensorflow as tf  # noqa: PLC0415

    from vse_tf.preprocessing.image_formats import LAYOUT  # noqa: PLC0415
    from vse_tf.preprocessing.images import decode_checked  # noqa: PLC0415

    # One traced graph for all calls: eager decoding spends longer in Python than in the decoder.
    @tf.function(input_signature=[tf.TensorSpec([], tf.string), LAYOUT])
    def size(contents: tf.Tensor, layout: tf.Tensor) -> tf.Tensor:
        return tf.shape(decode_checked(contents, layout))

    size.get_concrete_function()

    def check(contents: bytes) -> tuple[str, bool]:
        try:
            layout = checked_header(contents, max_pixels).layout
            with tf.device("CPU:0"):
                size(tf.constant(contents), tf.constant(layout, tf.int64))
        except (tf.errors.OpError, ValueError) as error:
            return tensorflow_reason(error), isinstance(error, (tf.errors.InvalidArgumentError, ValueError))
        return "", True

    return check


def _check_by_decoding(path: str, max_pixels: int) -> Check:
    header, contents = _check_contents(path, None)
    if header.verdict(max_pixels):
        return header
    reason, lasting = decode_check(max_pixels)(contents)
    return dataclasses.replace(header, how="decode", reason=reason, lasting=lasting)


def _check_contents(path: str, limit: int | None) -> tuple[Check, bytes]:
    size = mtime_ns = 0
    try:
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
            header, contents = read_image_header(file, size, complete=limit is None)
    except OSError as error:
        return Check(size, mtime_ns, "headers", 0, 0, 0, f"cannot be read: {error.strerror or error}", False), b""
    return Check(size, mtime_ns, "headers", *header), contents


def read_image_header(file: BinaryIO, size: int, complete: bool = False) -> tuple[tuple[int, int, int, str], bytes]:
    """Read an image's header.

    Args:
        file: an open file, at the first byte of the image.
        size: bytes of the image.
        complete: read all of it.

    Returns:
        Width and height in pixels, scans, why the image cannot be used (empty if it can), and the bytes that were read.

    Raises:
        OSError: the file cannot be read.
    """
    contents = b""
    try:
        if size > MAX_BYTES:
            raise RefusedImageError(BYTES, size)
        contents = file.read(min(HEADER_BYTES, size))
        try:
            header = read_header(contents)
        except RefusedImageError as error:
            # Metadata of a camera can push the frame header of a JPEG behind the first part.
            if len(contents) >= size or error.code in (NOT_AN_IMAGE, PHOTO):
                raise
            header = None
        if header is None or not header.complete or complete:
            contents += file.read(size - len(contents))
            header = read_header(contents)
    except ValueError as error:
        return (0, 0, 0, str(error) if size else "empty file"), contents
    return (header.width, header.height, header.scans, ""), contents


def _run(
    check: Callable[[str], Check], paths: list[str], workers: int | None, progress: bool
) -> Iterator[tuple[str, Check]]:
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    try:
        with phase_if(progress, "checking images", len(paths), "images") as checking:
            for start in range(0, len(paths), BLOCK):
                block = paths[start : start + BLOCK]
                for path, result in zip(block, pool.map(check, block), strict=True):
                    checking.update()
                    yield path, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cache_file(paths: Sequence[str], cache_dir: Path) -> Path:
    folders = {os.path.dirname(os.path.abspath(path)) for path in paths}  # noqa: PTH100, PTH120
    shared = os.path.commonpath(folders)
    return cache_dir / "verify" / f"images-{hashlib.sha256(os.fsencode(shared)).hexdigest()[:24]}.json"


def _load(file: Path) -> dict[str, Check]:
    found = read_cached(file)
    if not isinstance(found, dict) or found.get("rules") != RULES:
        return {}
    try:
        return {path: Check(*fields) for path, fields in found["images"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}


def _save(file: Path, checks: dict[str, Check]) -> None:
    images = {path: [c.size, c.mtime_ns, c.how, c.width, c.height, c.scans, c.reason] for path, c in checks.items()}
    write_cached(file, {"rules": RULES, "images": images})


def _unchanged(path: str, check: Check) -> bool:
    try:
        stat = os.stat(path)  # noqa: PTH116 - as above
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (check.size, check.mtime_ns)
