"""Encoded images to batches for encoding, shard after shard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import tensorflow as tf

from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import EncodedImages
from vse_tf.preprocessing.view import ImageView


class ImageReader:
    """Reads and decodes images in parallel.

    It uses threads and not `tf.data`: making an iterator over this graph takes a second, and a collection has many
    shards.

    Args:
        view: how images are prepared.
        workers: number of parallel reads (default: number of CPU cores).
        crops: numbers of random crops, which follow the centre view of each image; it is decoded once. The same number
            and position give the same window.

    Example:
        >>> images = FileImages(["a.jpg", "cut.jpg"])
        >>> for pixels, rows in ImageReader(view).batches(images, 128, BadImages("skip", 10**8)):
        ...     print(pixels.shape, rows)
        (1, 224, 224, 3) [0]
    """

    def __init__(self, view: ImageView, workers: int | None = None, crops: Sequence[int] = ()) -> None:
        self.view = view
        self.workers = workers or os.cpu_count() or 1
        self.crops = tuple(crops)
        # Traced once, with the first file.
        signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int32)]
        self._prepare = tf.function(self._views_of, input_signature=signature, autograph=False)

    def batches(self, images: EncodedImages, batch_size: int, bad: BadImages) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
        """Read images in order.

        Args:
            images: the images.
            batch_size: number of images in a batch.
            bad: what to do with images that cannot be read.

        Yields:
            Images float32 `(b, h, w, 3)`, or `(b, 1 + crops, h, w, 3)` with `crops`, and int64 `(b,)`: the position of
            each in `images`.

        Raises:
            UserError: an image cannot be read and `bad` does not skip it.
        """
        views, rows = [], []
        for row, view in enumerate(self._views(images, ahead=2 * batch_size)):
            if view is None:
                bad.broken(images, row)
            else:
                views.append(view)
                rows.append(row)
            if len(views) == batch_size:
                yield tf.stack(views), np.array(rows)
                views, rows = [], []
        if views:
            yield tf.stack(views), np.array(rows)

    def _views(self, images: EncodedImages, ahead: int) -> Iterator[tf.Tensor | None]:
        pool = ThreadPoolExecutor(self.workers)
        try:
            remaining = iter(range(len(images)))
            waiting: deque[Future] = deque(pool.submit(self._read, images, row) for row in islice(remaining, ahead))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self._read, images, row) for row in islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, images: EncodedImages, row: int) -> tf.Tensor | None:
        try:
            # Not `tf.io.read_file`, which waits at a pipe, never ends at a device and opens addresses.
            return self._prepare(tf.constant(images.read(row)), tf.constant(row))
        except (OSError, tf.errors.OpError, ValueError):
            return None

    def _views_of(self, contents: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        if not self.crops:
            return self.view.of_file(contents, None)
        return self.view.all_of_file(contents, tf.stack([self.crops, tf.fill([len(self.crops)], row)], 1))
