"""HEIC, AVIF and TIFF images among those to embed, converted when they are read. No TensorFlow here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vse_tf.data.records import EncodedImages, as_encoded
from vse_tf.preprocessing.photo_formats import as_decodable


class PhotoImages(EncodedImages):
    """Images of which HEIC, AVIF and TIFF files are read as BMP or PNG; see `as_decodable`.

    Args:
        images: paths, or encoded images.
        max_pixels: images with more pixels are refused.
    """

    def __init__(self, images: Sequence[str] | EncodedImages, max_pixels: int) -> None:
        self.images = as_encoded(images)
        self.names = self.images.names
        self.max_pixels = max_pixels

    def read(self, row: int, start: int = 0) -> bytes:
        """The contents of an image file, converted if they are complete; see `EncodedImages`.

        Raises:
            OSError: they cannot be read.
            ValueError: they cannot be converted.
        """
        contents = self.images.read(row, start)
        return contents if start else as_decodable(contents, self.max_pixels)

    def sizes(self) -> np.ndarray:
        return self.images.sizes()

    def chosen(self, rows: Sequence[int] | np.ndarray) -> PhotoImages:
        return PhotoImages(self.images.chosen(rows), self.max_pixels)

    def states(self) -> Iterator[list[Any]]:
        return self.images.states()
