"""Image files to batches for encoding, shard after shard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
import tensorflow as tf

from vse_tf.data.bad_images import BadImages
from vse_tf.files import read_regular
from vse_tf.preprocessing.image_limits import MAX_BYTES
from vse_tf.preprocessing.view import ImageView


class ImageReader:
    """Reads image files in parallel.

    It uses threads and not `tf.data`: making an iterator over this graph takes a second, and a collection has many
    shards.

    Args:
        view: how images are prepared.
        workers: number of parallel reads (default: number of CPU cores).

    Example:
        >>> for images, rows in ImageReader(view).batches(["a.jpg", "cut.jpg"], 128, BadImages("skip", 10**8)):
        ...     print(images.shape, rows)
        (1, 224, 224, 3) [0]
    """

    def __init__(self, view: ImageView, workers: int | None = None) -> None:
        self.view = view
        self.workers = workers or os.cpu_count() or 1
        self._prepare = tf.function(
            lambda contents: view.of_file(contents, None), input_signature=[tf.TensorSpec([], tf.string)]
        )

    def batches(self, paths: Sequence[str], batch_size: int, bad: BadImages) -> Iterator[tuple[tf.Tensor, np.ndarray]]:
        """Read files in order.

        Args:
            paths: the files.
            batch_size: number of images in a batch.
            bad: what to do with images that cannot be read.

        Yields:
            Images float32 `(b, h, w, 3)`, and int64 `(b,)`: the position of each in `paths`.

        Raises:
            UserError: an image cannot be read and `bad` does not skip it.
        """
        views, rows = [], []
        for row, view in enumerate(self._views(paths, ahead=2 * batch_size)):
            if view is None:
                bad.broken(paths[row])
            else:
                views.append(view)
                rows.append(row)
            if len(views) == batch_size:
                yield tf.stack(views), np.array(rows)
                views, rows = [], []
        if views:
            yield tf.stack(views), np.array(rows)

    def _views(self, paths: Sequence[str], ahead: int) -> Iterator[tf.Tensor | None]:
        pool = ThreadPoolExecutor(self.workers)
        try:
            remaining = iter(paths)
            waiting: deque[Future] = deque(pool.submit(self._read, path) for path in islice(remaining, ahead))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self._read, path) for path in islice(remaining, 1))
        finally:
            pool.shutdown(cancel_futures=True)

    def _read(self, path: str) -> tf.Tensor | None:
        try:
            # Not `tf.io.read_file`, which waits at a pipe, never ends at a device and opens addresses.
            return self._prepare(tf.constant(read_regular(path, MAX_BYTES)))
        except (OSError, tf.errors.OpError, ValueError):
            return None
