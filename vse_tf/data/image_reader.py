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
from vse_tf.preprocessing.image_formats import LAYOUT
from vse_tf.preprocessing.image_headers import checked_header
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
        # All readers of a view share its graph.
        signature = [tf.TensorSpec([], tf.string), LAYOUT]
        if self.crops:
            signature.append(tf.TensorSpec([], tf.int32))
            self._prepare = tf.function(self._all_views, input_signature=signature, autograph=False)
        else:
            self._prepare = view.traced(*signature)

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
            contents = images.read(row)
            layout = tf.constant(checked_header(contents, self.view.max_pixels).layout, tf.int64)
            inputs = [tf.constant(contents), layout] + ([tf.constant(row)] if self.crops else [])
            return self._prepare(*inputs)
        except (OSError, tf.errors.OpError, ValueError):
            return None

    def _all_views(self, contents: tf.Tensor, layout: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        seeds = tf.stack([self.crops, tf.fill([len(self.crops)], row)], 1)
        return self.view.all_of_checked(contents, layout, seeds)
