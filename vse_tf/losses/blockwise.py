"""Similarities in row blocks: exact losses and gradients of large batches in little memory.

A batch of B pairs has B x B similarities. Up to `DENSE_ELEMENTS` they are computed as one matrix, which is fastest.
Above, they are computed in blocks of rows of about `BLOCK_ELEMENTS`, and once more in the backward pass instead of
being stored: one more matrix product, but memory that grows with B instead of B squared. The shapes decide. Run this
inside a `tf.function`, as `fit` does: eagerly the result is the same, but slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import tensorflow as tf

from vse_tf.losses.base import LOWEST, Pairs, positive_similarity, same_image, similarity

DENSE_ELEMENTS = 4096 * 4096
"""Similarity matrices of more elements than this (64 MiB of float32) are computed in row blocks."""

BLOCK_ELEMENTS = 2**23
"""Elements of one block's similarity matrix (32 MiB of float32); a block has at least one row."""

SMALLEST_SUM = 1e-30
"""Sums of exponentials above this have lost nothing to float32's range; its smallest normal number is 1e-38."""

RowLoss: TypeAlias = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""From similarities `(r, B)`, same-image mask `(r, B)` and positives' similarities `(r,)` to losses `(r,)`, or to
`(r, k)` for k values per row."""

T = TypeVar("T")


def both_directions(loss: RowLoss, pairs: Pairs, scale: float | tf.Tensor = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Image anchors against all captions, and caption anchors against all images.

    Args:
        loss: the loss of each row of similarities.
        pairs: the local pairs and the global batch.
        scale: factor on all similarities, for example one over the temperature.

    Returns:
        What `loss` gives for the local pairs, with images as anchors and with captions as anchors.
    """
    positive = positive_similarity(pairs) * scale
    image, text = pairs.image * scale, pairs.text * scale

    def dense() -> tuple[tf.Tensor, tf.Tensor]:
        same = same_image(pairs.image_id, pairs.all_image_id)
        to_text = similarity(image, pairs.all_text)
        # On one replica the second matrix is the transpose of the first: one matrix product instead of two.
        to_image = tf.transpose(to_text) if pairs.replicas == 1 else similarity(text, pairs.all_image)
        return loss(to_text, same, positive), loss(to_image, same, positive)

    def blocked() -> tuple[tf.Tensor, tf.Tensor]:
        to_text = _blocked_rows(loss, image, pairs.all_text, pairs.image_id, pairs.all_image_id, positive)
        return to_text, _blocked_rows(loss, text, pairs.all_image, pairs.image_id, pairs.all_image_id, positive)

    return by_size(image, pairs.all_text, dense, blocked)


def each_row(
    loss: RowLoss, anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor, all_ids: tf.Tensor, positive: tf.Tensor
) -> tf.Tensor:
    """The loss of each anchor against all candidates, in one direction.

    Args:
        loss: the loss of each row of similarities.
        anchors: `(b, dim)`.
        candidates: `(B, dim)`.
        ids: `(b,)` image ids of the anchors.
        all_ids: `(B,)` image ids of the candidates.
        positive: `(b,)` similarity of each anchor's positive.

    Returns:
        What `loss` gives, `(b,)` or `(b, k)`.
    """

    def dense() -> tf.Tensor:
        return loss(similarity(anchors, candidates), same_image(ids, all_ids), positive)

    def blocked() -> tf.Tensor:
        return _blocked_rows(loss, anchors, candidates, ids, all_ids, positive)

    return by_size(anchors, candidates, dense, blocked)


def by_size(anchors: tf.Tensor, candidates: tf.Tensor, dense: Callable[[], T], blocked: Callable[[], T]) -> T:
    """Run `dense` or `blocked`, depending on the number of similarities; if a size is unknown, the graph decides."""
    rows, columns = anchors.shape[0], candidates.shape[0]
    if rows is not None and columns is not None:
        return dense() if rows * columns <= DENSE_ELEMENTS else blocked()
    elements = tf.shape(anchors, tf.int64)[0] * tf.shape(candidates, tf.int64)[0]
    result: T = tf.cond(elements <= DENSE_ELEMENTS, dense, blocked)
    return result


def positives_and_negatives(
    image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The diagonal of z = `image @ text.T`, and log-sum-exp over the negatives of every row and column.

    Both directions use the same exponentials: those of z - c, where c is a bound on all z. The gradient of an entry is
    its exponential over the sum of its row plus its exponential over the sum of its column. The dense form stores the
    exponentials and puts the gradient of the diagonal, which holds no negatives, in its place among theirs; in blocks
    they are computed again: one matrix product forward, three backward.

    If a row is so far below c that its exponentials vanish (at a very low temperature, or for an anchor without
    negatives), everything is computed again with the maximum of each row and column instead of c.

    Args:
        image: `(B, dim)` rows, divided by the temperature.
        text: `(B, dim)` columns.
        ids: `(B,)` image ids; entries of equal ids are masked.

    Returns:
        `(B,)` similarities of the pairs, `(B,)` log-sum-exp over the negatives of each row and `(B,)` of each column;
        about `LOWEST` if there are no negatives.
    """
    # Inside a branch of `tf.cond` a custom gradient finds only tensors that the branch itself made.
    return by_size(
        image,
        text,
        lambda: _log_sum_exp(tf.identity(image), tf.identity(text), ids, dense=True),
        lambda: _log_sum_exp(tf.identity(image), tf.identity(text), ids, dense=False),
    )


def _log_sum_exp(
    image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor, dense: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    blocks = _Blocks(image, text)

    def log_sum_exp(image: tf.Tensor, text: tf.Tensor) -> Any:
        def exponentials(z: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
            return tf.where(same, 0.0, tf.exp(z - bound))

        def of_block(at: tf.Tensor) -> tf.Tensor:
            return exponentials(similarity(tf.gather(image, at), text), same_image(tf.gather(ids, at), ids))

        def add_block(i: tf.Tensor, rows: tf.TensorArray, columns: tf.Tensor) -> tuple[Any, ...]:
            at, weight = blocks.rows(i)
            found = of_block(at)
            return i + 1, rows.write(i, tf.reduce_sum(found, axis=1)), columns + _column_sums(found, weight)

        with _off_the_tape():
            if dense:
                z = similarity(image, text)
                positive, bound = tf.linalg.diag_part(z), tf.reduce_max(z)
                stored = exponentials(z, same_image(ids, ids))
                by_row, by_column = tf.reduce_sum(stored, axis=1), _column_sums(stored, tf.ones_like(stored[:, 0]))
            else:
                positive = tf.reduce_sum(image * text, axis=1)
                bound = tf.reduce_max(tf.norm(image, axis=1)) * tf.reduce_max(tf.norm(text, axis=1))
                _, rows, by_column = blocks.loop(add_block, (0, blocks.array(), tf.zeros_like(text[:, 0])))
                by_row = blocks.join(rows)
            in_range = tf.minimum(tf.reduce_min(by_row), tf.reduce_min(by_column)) > SMALLEST_SUM
            safe = _SafeLogSumExp(blocks, image, text, ids)
            log_rows, log_columns = tf.cond(
                in_range, lambda: (bound + tf.math.log(by_row), bound + tf.math.log(by_column)), safe.forward
            )

        def gradient(of_positive: tf.Tensor, of_row: tf.Tensor, of_column: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def and_of_positive(d_image: tf.Tensor, d_text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return d_image + of_positive[:, None] * text, d_text + of_positive[:, None] * image

            def in_range_gradient() -> tuple[tf.Tensor, tf.Tensor]:
                row_share, column_share = of_row / by_row, of_column / by_column
                if dense:
                    weights = tf.linalg.set_diag(stored * (row_share[:, None] + column_share), of_positive)
                    return tf.matmul(weights, text), tf.matmul(weights, image, transpose_a=True)

                def add_block(i: tf.Tensor, d_image: tf.TensorArray, d_text: tf.Tensor) -> tuple[Any, ...]:
                    at, weight = blocks.rows(i)
                    weights = of_block(at) * (tf.gather(row_share, at)[:, None] + column_share)
                    anchors = tf.gather(image, at) * weight[:, None]
                    d_text += tf.matmul(weights, anchors, transpose_a=True)
                    return i + 1, d_image.write(i, tf.matmul(weights, text)), d_text

                _, d_image, d_text = blocks.loop(add_block, (0, blocks.array(), tf.zeros_like(text)))
                return and_of_positive(blocks.join(d_image), d_text)

            def safe_gradient() -> tuple[tf.Tensor, tf.Tensor]:
                return and_of_positive(*safe.backward(log_rows, log_columns, of_row, of_column))

            gradients: tuple[tf.Tensor, tf.Tensor] = tf.cond(in_range, in_range_gradient, safe_gradient)
            return gradients

        return (positive, log_rows, log_columns), gradient

    result: tuple[tf.Tensor, tf.Tensor, tf.Tensor] = tf.custom_gradient(log_sum_exp)(image, text)
    return result


def _column_sums(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """`(B,)` weighted sums of each column, as a matrix product: faster than a reduction."""
    return tf.linalg.matvec(values, weight, transpose_a=True)


class _SafeLogSumExp:
    """`positives_and_negatives` at any range: with the maximum of each row and a running maximum of each column."""

    def __init__(self, blocks: _Blocks, image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor) -> None:
        self.blocks = blocks
        self.image = image
        self.text = text
        self.ids = ids

    def forward(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Log-sum-exp of each row and of each column."""

        def add_block(i: tf.Tensor, rows: tf.TensorArray, peak: tf.Tensor, total: tf.Tensor) -> tuple[Any, ...]:
            at, weight = self.blocks.rows(i)
            z = self._logits(at)
            higher = tf.maximum(peak, tf.reduce_max(z, axis=0))
            total = total * tf.exp(peak - higher) + _column_sums(tf.exp(z - higher), weight)
            return i + 1, rows.write(i, tf.reduce_logsumexp(z, axis=1)), higher, total

        start = (0, self.blocks.array(), tf.fill(tf.shape(self.ids), LOWEST), tf.zeros_like(self.text[:, 0]))
        _, rows, peak, total = self.blocks.loop(add_block, start)
        return self.blocks.join(rows), peak + tf.math.log(total)

    def backward(
        self, by_row: tf.Tensor, by_column: tf.Tensor, of_row: tf.Tensor, of_column: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Gradients of image and text from the results of `forward` and their gradients."""

        def add_block(i: tf.Tensor, d_image: tf.TensorArray, d_text: tf.Tensor) -> tuple[Any, ...]:
            at, weight = self.blocks.rows(i)
            z = self._logits(at)
            in_row = tf.exp(z - tf.gather(by_row, at)[:, None]) * tf.gather(of_row, at)[:, None]
            weights = in_row + tf.exp(z - by_column) * of_column
            anchors = tf.gather(self.image, at) * weight[:, None]
            d_text += tf.matmul(weights, anchors, transpose_a=True)
            return i + 1, d_image.write(i, tf.matmul(weights, self.text)), d_text

        _, d_image, d_text = self.blocks.loop(add_block, (0, self.blocks.array(), tf.zeros_like(self.text)))
        return self.blocks.join(d_image), d_text

    def _logits(self, at: tf.Tensor) -> tf.Tensor:
        same = same_image(tf.gather(self.ids, at), self.ids)
        return tf.where(same, LOWEST, similarity(tf.gather(self.image, at), self.text))


def hardest_negatives(pairs: Pairs, count: int) -> tuple[tuple[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Find the most similar negatives of each pair, without a gradient: gather these and compare them again for one.

    Args:
        pairs: the local pairs and the global batch.
        count: number of negatives k; fewer in a batch of fewer candidates.

    Returns:
        For images and for captions as anchors: `(b, k)` positions of the candidates, hardest first, and `(b, k)` bool,
        false for candidates beyond the number of negatives that an anchor has.
    """
    image, text, images, texts = (tf.stop_gradient(x) for x in pairs[:4])

    def masked(anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        return tf.where(same_image(ids, pairs.all_image_id), LOWEST, similarity(anchors, candidates))

    def hardest(similarities: tf.Tensor) -> tf.Tensor:
        return tf.math.top_k(similarities, tf.minimum(count, tf.shape(similarities)[1]))[1]

    def dense() -> tuple[tf.Tensor, tf.Tensor]:
        to_text = masked(image, texts, pairs.image_id)
        to_image = tf.transpose(to_text) if pairs.replicas == 1 else masked(text, images, pairs.image_id)
        return hardest(to_text), hardest(to_image)

    def in_blocks(anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        blocks = _Blocks(anchors, candidates)

        def add_block(i: tf.Tensor, found: tf.TensorArray) -> tuple[Any, ...]:
            at, _ = blocks.rows(i)
            return i + 1, found.write(
                i, hardest(masked(tf.gather(anchors, at), candidates, tf.gather(pairs.image_id, at)))
            )

        return blocks.join(blocks.loop(add_block, (0, blocks.array(tf.int32)))[1])

    with _off_the_tape():
        both = by_size(image, texts, dense, lambda: (in_blocks(image, texts), in_blocks(text, images)))
        of_image, of_text = (
            (at, tf.not_equal(pairs.image_id[:, None], tf.gather(pairs.all_image_id, at))) for at in both
        )
        return of_image, of_text


def _blocked_rows(
    loss: RowLoss, anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor, all_ids: tf.Tensor, positive: tf.Tensor
) -> tf.Tensor:
    """`each_row` in row blocks; the backward pass computes each block again under its own tape."""
    blocks = _Blocks(anchors, candidates)

    def block(at: tf.Tensor, anchors: tf.Tensor, candidates: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return loss(similarity(anchors, candidates), same_image(tf.gather(ids, at), all_ids), positive)

    def rows(anchors: tf.Tensor, candidates: tf.Tensor, positive: tf.Tensor) -> Any:
        def forward(i: tf.Tensor, losses: tf.TensorArray) -> tuple[Any, ...]:
            at, _ = blocks.rows(i)
            return i + 1, losses.write(i, block(at, tf.gather(anchors, at), candidates, tf.gather(positive, at)))

        with _off_the_tape():
            losses = blocks.join(blocks.loop(forward, (0, blocks.array()))[1])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def backward(
                i: tf.Tensor, d_anchors: tf.TensorArray, d_candidates: tf.Tensor, d_positive: tf.TensorArray
            ) -> tuple[Any, ...]:
                at, weight = blocks.rows(i)
                inputs = [tf.gather(anchors, at), tf.identity(candidates), tf.gather(positive, at)]
                with tf.GradientTape() as tape:
                    tape.watch(inputs)
                    losses = block(at, *inputs)
                of_losses = tf.gather(upstream, at)
                of_losses *= tf.reshape(weight, [-1] + [1] * (of_losses.shape.rank - 1))
                none = tf.UnconnectedGradients.ZERO
                of_anchors, of_candidates, of_positive = tape.gradient(losses, inputs, of_losses, none)
                return (
                    i + 1,
                    d_anchors.write(i, of_anchors),
                    d_candidates + of_candidates,
                    d_positive.write(i, of_positive),
                )

            start = (0, blocks.array(), tf.zeros_like(candidates), blocks.array())
            _, d_anchors, d_candidates, d_positive = blocks.loop(backward, start)
            return blocks.join(d_anchors), d_candidates, blocks.join(d_positive)

        return losses, gradient

    # Inside a branch of `tf.cond` a custom gradient finds only tensors that the branch itself made.
    return tf.custom_gradient(rows)(tf.identity(anchors), tf.identity(candidates), tf.identity(positive))


class _Blocks:
    """Row blocks of equal size of a `(rows, columns)` matrix; the last one is filled with the last row at weight 0."""

    def __init__(self, anchors: tf.Tensor, candidates: tf.Tensor) -> None:
        rows, columns = (x.shape[0] if x.shape[0] is not None else tf.shape(x)[0] for x in (anchors, candidates))
        self.count = rows
        most = (
            max(1, BLOCK_ELEMENTS // columns) if isinstance(columns, int) else tf.maximum(1, BLOCK_ELEMENTS // columns)
        )
        self.blocks = -(-rows // most)
        self.size = -(-rows // self.blocks)

    def rows(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The positions of the rows of block i, `(size,)`, and their weights: 1, or 0 for a repetition."""
        at = i * self.size + tf.range(self.size)
        return tf.minimum(at, self.count - 1), tf.cast(at < self.count, tf.float32)

    def array(self, dtype: tf.DType = tf.float32) -> Any:
        """An empty array with one entry per block."""
        return tf.TensorArray(dtype, size=self.blocks, element_shape=None, infer_shape=True)

    def loop(self, body: Callable[..., tuple[Any, ...]], start: Sequence[Any]) -> Any:
        """Run the body for all blocks, one at a time: two at once would need twice the memory."""
        return tf.while_loop(lambda i, *_: i < self.blocks, body, tuple(start), parallel_iterations=1)

    def join(self, array: tf.TensorArray) -> tf.Tensor:
        """The entries of all blocks concatenated, without the repetitions."""
        return array.concat()[: self.count]


def _off_the_tape() -> contextlib.AbstractContextManager[Any]:
    """Keep eager tapes from recording the blocks; graphs store nothing that no gradient needs."""
    return tf.init_scope() if tf.executing_eagerly() else contextlib.nullcontext()
