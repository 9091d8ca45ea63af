"""Images as Python callers have them: paths, encoded bytes, PIL images and arrays."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterable
from typing import Any, NoReturn, TypeAlias

import numpy as np
from PIL import Image, ImageOps

ImageInput: TypeAlias = str | os.PathLike[str] | bytes | np.ndarray | Image.Image
KINDS = "a path, the bytes of an image file, a PIL image or an array"
# Modes that PNG has, so that nothing is converted before the one decoder sees it.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def is_one_image(images: object, rank: int) -> bool:
    """Whether it is one image, and not an iterable of images.

    Args:
        images: what the caller gave.
        rank: number of axes of an image that is an array.

    Raises:
        TypeError: it is neither.
        ValueError: an array with another number of axes.
    """
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return True
    if hasattr(images, "__array__"):
        array = np.asarray(images)
        # An array of paths is a list of paths.
        if array.dtype.kind in "OUS" and array.ndim == 1:
            return False
        if array.ndim not in (rank, rank + 1):
            raise ValueError(
                f"images is an array of shape {array.shape}; one image has {rank} axes, several have one more"
            )
        return array.ndim == rank
    if isinstance(images, Iterable):
        return False
    raise TypeError(f"images is {_a(images)}; give {KINDS}, or an iterable of them")


def is_path(image: object) -> bool:
    """Whether an image is given by its path."""
    return isinstance(image, (str, os.PathLike))


def encoded_bytes(image: Any) -> bytes | None:
    """An image as the bytes of an image file; None if it is an array.

    A PIL image becomes a BMP, or a PNG if it has transparency or another mode than RGB, so that these and the
    orientation are handled as they are for files.
    """
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    if not isinstance(image, Image.Image):
        return None
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in _PNG_MODES:
        upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
    file = io.BytesIO()
    if upright.mode == "RGB" and not upright.has_transparency_data:
        upright.save(file, "BMP")  # nothing to compress, and to unpack again
    else:
        upright.save(file, "PNG", compress_level=1)
    return file.getvalue()


def pixels(image: object, name: str) -> np.ndarray:
    """The pixels of an image that is an array: uint8 `(h, w, 3)`.

    Args:
        image: the image.
        name: of the argument, for the message.

    Raises:
        TypeError: it is no array, or its values are not uint8.
        ValueError: it has another shape.
    """
    array = _array(image, name)
    if array.dtype != np.uint8:
        raise TypeError(f"{name} is an array of {array.dtype}; give RGB values in 0..255 as uint8")
    if array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"{name} is an array of shape {array.shape}; give (h, w, 3)")
    return array


def features(image: object, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The precomputed features of an image: float32 of this shape.

    Args:
        image: the features.
        name: of the argument, for the message.
        shape: shape that the model takes.

    Raises:
        TypeError: it is no array of numbers.
        ValueError: it has another shape.
    """
    if is_path(image) or encoded_bytes(image) is not None:
        raise TypeError(f"{name} is {_a(image)}; this model takes arrays of precomputed features {shape}, no images")
    array = _array(image, name)
    if array.shape != shape:
        raise ValueError(f"{name} has the shape {array.shape}; this model takes features {shape} per image")
    return array.astype(np.float32)


def raise_unreadable(path: str, what: str) -> NoReturn:
    """Raise Python's own error for an image file that cannot be read.

    Args:
        path: the file.
        what: what is wrong, as `data.records.unreadable` says it.
    """
    if what.startswith("missing image"):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    raise (OSError if what.startswith("cannot be read") else ValueError)(f"{path}: {what}")


def _array(image: object, name: str) -> np.ndarray:
    if not hasattr(image, "__array__"):
        raise TypeError(f"{name} is {_a(image)}; give {KINDS}")
    array = np.asarray(image)
    if array.dtype.kind not in "buif":
        raise TypeError(f"{name} is an array of {array.dtype}; give numbers")
    return array


def _a(value: object) -> str:
    kind = type(value).__name__
    return "None" if value is None else f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
