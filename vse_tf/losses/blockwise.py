"""Similarities in row blocks: exact losses and gradients of large batches in little memory.

A batch of B pairs has B x B similarities. Up to `DENSE_ELEMENTS` of them are held at once, which is fastest. Above,
rows are worked through in blocks of about `BLOCK_ELEMENTS`, and the backward pass computes each block's similarities
again instead of keeping them: one more matrix product, and memory that grows with B instead of B squared. The choice
is made from the shapes. Compute inside a `tf.function`, as `fit` does: run eagerly the result is the same, slower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from vse_tf.losses.base import LOWEST, Pairs, positive_similarity, same_image, similarity

DENSE_ELEMENTS = 4096 * 4096
"""Similarity matrices of more elements than this (64 MiB of float32) are worked through in row blocks."""

BLOCK_ELEMENTS = 2**23
"""Elements of one block's similarity matrix (32 MiB of float32); a block has at least one row."""

SMALLEST_SUM = 1e-30
"""Sums of exponentials above this have lost nothing to float32's range; its smallest normal number is 1e-38."""

RowLoss = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tf.Tensor]
"""From similarities `(r, B)`, same-image mask `(r, B)` and positives' similarities `(r,)` to losses `(r,)`, or
`(r, k)` for k values a row."""


def both_directions(loss: RowLoss, pairs: Pairs, scale: Any = 1.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Image anchors against all captions, and caption anchors against all images.

    Args:
        loss: the loss of each row of similarities.
        pairs: the local pairs and the global batch.
        scale: factor on all similarities, for example one over the temperature.

    Returns:
        The losses of the local pairs in each direction, `(b,)` or what `loss` gives: images first, captions second.
    """
    positive = positive_similarity(pairs) * scale
    image, text = pairs.image * scale, pairs.text * scale

    def dense() -> tuple[tf.Tensor, tf.Tensor]:
        same = same_image(pairs.ids, pairs.all_ids)
        to_text = similarity(image, pairs.texts)
        # On one replica the second direction is the first one's transpose: one matrix product instead of two.
        to_image = tf.transpose(to_text) if pairs.replicas == 1 else similarity(text, pairs.images)
        return loss(to_text, same, positive), loss(to_image, same, positive)

    def blocked() -> tuple[tf.Tensor, tf.Tensor]:
        to_text = _blocked_rows(loss, image, pairs.texts, pairs.ids, pairs.all_ids, positive)
        return to_text, _blocked_rows(loss, text, pairs.images, pairs.ids, pairs.all_ids, positive)

    return by_size(image, pairs.texts, dense, blocked)


def each_row(
    loss: RowLoss, anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor, all_ids: tf.Tensor, positive: tf.Tensor
) -> tf.Tensor:
    """One direction: the loss of each anchor against all candidates.

    Args:
        loss: the loss of each row of similarities.
        anchors: `(b, dim)`.
        candidates: `(B, dim)`.
        ids: `(b,)` identities of the anchors' images.
        all_ids: `(B,)` identities of the candidates' images.
        positive: `(b,)` similarity of each anchor's positive.

    Returns:
        `(b,)`, or `(b, k)` if `loss` gives k values a row.
    """

    def dense() -> tf.Tensor:
        return loss(similarity(anchors, candidates), same_image(ids, all_ids), positive)

    def blocked() -> tf.Tensor:
        return _blocked_rows(loss, anchors, candidates, ids, all_ids, positive)

    return by_size(anchors, candidates, dense, blocked)


def by_size(anchors: tf.Tensor, candidates: tf.Tensor, dense: Callable[[], Any], blocked: Callable[[], Any]) -> Any:
    """Run `dense` or `blocked`, as the number of similarities asks; where a size is unknown, the graph decides."""
    rows, columns = anchors.shape[0], candidates.shape[0]
    if rows is not None and columns is not None:
        return dense() if rows * columns <= DENSE_ELEMENTS else blocked()
    elements = tf.shape(anchors, tf.int64)[0] * tf.shape(candidates, tf.int64)[0]
    return tf.cond(elements <= DENSE_ELEMENTS, dense, blocked)


def positives_and_negatives(
    image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The diagonal of z = `image @ text.T`, and log-sum-exp over the negatives of every row and column.

    Both directions come from one pass over one set of exponentials: those of z - c, where c is a bound on all z. An
    entry's gradient is its exponential divided by its row's sum plus the same divided by its column's. Dense, the
    exponentials are kept, and the gradient of the diagonal, which is no negative, goes in its place among theirs; in
    blocks they are computed again: forward one matrix product, backward three.

    Where a row lies so far below c that its exponentials vanish (a very low temperature, or an anchor without
    negatives), everything is computed again with a maximum of each row and column's own.

    Args:
        image: `(B, dim)` rows, the temperature divided out.
        text: `(B, dim)` columns.
        ids: `(B,)` identities of the images; entries of equal identities are left out.

    Returns:
        `(B,)` similarities of the pairs, `(B,)` over each row's negatives and `(B,)` over each column's; about `LOWEST`
        where no negative is left.
    """
    # Inside a branch of `tf.cond` a custom gradient finds only tensors that the branch itself made.
    return by_size(
        image,
        text,
        lambda: _log_sum_exp(tf.identity(image), tf.identity(text), ids, keep=True),
        lambda: _log_sum_exp(tf.identity(image), tf.identity(text), ids, keep=False),
    )


def _log_sum_exp(
    image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor, keep: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    blocks = _Blocks(image, text)

    @tf.custom_gradient
    def log_sum_exp(image: tf.Tensor, text: tf.Tensor) -> Any:
        def exponentials(z: tf.Tensor, same: tf.Tensor) -> tf.Tensor:
            return tf.where(same, 0.0, tf.exp(z - bound))

        def of_block(at: tf.Tensor) -> tf.Tensor:
            return exponentials(similarity(tf.gather(image, at), text), same_image(tf.gather(ids, at), ids))

        def add_block(i: tf.Tensor, rows: Any, columns: tf.Tensor) -> tuple[Any, ...]:
            at, weight = blocks.rows(i)
            found = of_block(at)
            return i + 1, rows.write(i, tf.reduce_sum(found, axis=1)), columns + _column_sums(found, weight)

        with _off_the_tape():
            if keep:
                z = similarity(image, text)
                positive, bound = tf.linalg.diag_part(z), tf.reduce_max(z)
                kept = exponentials(z, same_image(ids, ids))
                by_row, by_column = tf.reduce_sum(kept, axis=1), _column_sums(kept, tf.ones_like(kept[:, 0]))
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
                if keep:
                    weights = tf.linalg.set_diag(kept * (row_share[:, None] + column_share), of_positive)
                    return tf.matmul(weights, text), tf.matmul(weights, image, transpose_a=True)

                def add_block(i: tf.Tensor, d_image: Any, d_text: tf.Tensor) -> tuple[Any, ...]:
                    at, weight = blocks.rows(i)
                    weights = of_block(at) * (tf.gather(row_share, at)[:, None] + column_share)
                    anchors = tf.gather(image, at) * weight[:, None]
                    d_text += tf.matmul(weights, anchors, transpose_a=True)
                    return i + 1, d_image.write(i, tf.matmul(weights, text)), d_text

                _, d_image, d_text = blocks.loop(add_block, (0, blocks.array(), tf.zeros_like(text)))
                return and_of_positive(blocks.join(d_image), d_text)

            def safe_gradient() -> tuple[tf.Tensor, tf.Tensor]:
                return and_of_positive(*safe.backward(log_rows, log_columns, of_row, of_column))

            return tf.cond(in_range, in_range_gradient, safe_gradient)

        return (positive, log_rows, log_columns), gradient

    return log_sum_exp(image, text)


def _column_sums(values: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """`(B,)` sums down the columns, rows weighted: as a product, which is faster than a reduction."""
    return tf.linalg.matvec(values, weight, transpose_a=True)


class _SafeLogSumExp:
    """`positives_and_negatives` at any range: a maximum for each row and a running one for each column."""

    def __init__(self, blocks: _Blocks, image: tf.Tensor, text: tf.Tensor, ids: tf.Tensor) -> None:
        self.blocks = blocks
        self.image = image
        self.text = text
        self.ids = ids

    def forward(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Over each row and over each column."""

        def add_block(i: tf.Tensor, rows: Any, peak: tf.Tensor, total: tf.Tensor) -> tuple[Any, ...]:
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
        """Gradients of image and text from what `forward` gave and its gradients."""

        def add_block(i: tf.Tensor, d_image: Any, d_text: tf.Tensor) -> tuple[Any, ...]:
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
    """Find each pair's most similar negatives. No gradient: gather what was found and compare it again.

    Args:
        pairs: the local pairs and the global batch.
        count: how many; a batch of fewer candidates gives fewer.

    Returns:
        For images and then for captions as anchors: `(b, k)` positions among the candidates, hardest first, and
        `(b, k)` bool: whether that one is a negative, which it is not where an anchor has fewer than k.
    """
    image, text, images, texts = (tf.stop_gradient(x) for x in pairs[:4])

    def masked(anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        return tf.where(same_image(ids, pairs.all_ids), LOWEST, similarity(anchors, candidates))

    def hardest(similarities: tf.Tensor) -> tf.Tensor:
        return tf.math.top_k(similarities, tf.minimum(count, tf.shape(similarities)[1]))[1]

    def dense() -> tuple[tf.Tensor, tf.Tensor]:
        to_text = masked(image, texts, pairs.ids)
        to_image = tf.transpose(to_text) if pairs.replicas == 1 else masked(text, images, pairs.ids)
        return hardest(to_text), hardest(to_image)

    def in_blocks(anchors: tf.Tensor, candidates: tf.Tensor) -> tf.Tensor:
        blocks = _Blocks(anchors, candidates)

        def add_block(i: tf.Tensor, found: Any) -> tuple[Any, ...]:
            at, _ = blocks.rows(i)
            return i + 1, found.write(i, hardest(masked(tf.gather(anchors, at), candidates, tf.gather(pairs.ids, at))))

        return blocks.join(blocks.loop(add_block, (0, blocks.array(tf.int32)))[1])

    with _off_the_tape():
        both = by_size(image, texts, dense, lambda: (in_blocks(image, texts), in_blocks(text, images)))
        of_image, of_text = ((at, tf.not_equal(pairs.ids[:, None], tf.gather(pairs.all_ids, at))) for at in both)
        return of_image, of_text


def _blocked_rows(
    loss: RowLoss, anchors: tf.Tensor, candidates: tf.Tensor, ids: tf.Tensor, all_ids: tf.Tensor, positive: tf.Tensor
) -> tf.Tensor:
    """`each_row` in row blocks; the backward pass runs each block again under its own tape."""
    blocks = _Blocks(anchors, candidates)

    def block(at: tf.Tensor, anchors: tf.Tensor, candidates: tf.Tensor, positive: tf.Tensor) -> tf.Tensor:
        return loss(similarity(anchors, candidates), same_image(tf.gather(ids, at), all_ids), positive)

    @tf.custom_gradient
    def rows(anchors: tf.Tensor, candidates: tf.Tensor, positive: tf.Tensor) -> Any:
        def forward(i: tf.Tensor, losses: Any) -> tuple[Any, ...]:
            at, _ = blocks.rows(i)
            return i + 1, losses.write(i, block(at, tf.gather(anchors, at), candidates, tf.gather(positive, at)))

        with _off_the_tape():
            losses = blocks.join(blocks.loop(forward, (0, blocks.array()))[1])

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            def backward(i: tf.Tensor, d_anchors: Any, d_candidates: tf.Tensor, d_positive: Any) -> tuple[Any, ...]:
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
    return rows(tf.identity(anchors), tf.identity(candidates), tf.identity(positive))


class _Blocks:
    """Row blocks of equal size over `(rows, columns)` similarities; the last one repeats the last row with weight 0."""

    def __init__(self, anchors: tf.Tensor, candidates: tf.Tensor) -> None:
        rows, columns = (x.shape[0] if x.shape[0] is not None else tf.shape(x)[0] for x in (anchors, candidates))
        self.count = rows
        most = (
            max(1, BLOCK_ELEMENTS // columns) if isinstance(columns, int) else tf.maximum(1, BLOCK_ELEMENTS // columns)
        )
        self.blocks = -(-rows // most)
        self.size = -(-rows // self.blocks)

    def rows(self, i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The positions of block i's rows, `(size,)`, and their weights: 1, or 0 for a repetition."""
        at = i * self.size + tf.range(self.size)
        return tf.minimum(at, self.count - 1), tf.cast(at < self.count, tf.float32)

    def array(self, dtype: tf.DType = tf.float32) -> Any:
        """An empty array that takes one entry a block."""
        return tf.TensorArray(dtype, size=self.blocks, element_shape=None, infer_shape=True)

    def loop(self, body: Callable[..., tuple[Any, ...]], start: Sequence[Any]) -> Any:
        """Run the body over all blocks, one at a time: two at once would need twice the memory."""
        return tf.while_loop(lambda i, *_: i < self.blocks, body, tuple(start), parallel_iterations=1)

    def join(self, array: Any) -> tf.Tensor:
        """The entries of all blocks below one another, without the repetitions."""
        return array.concat()[: self.count]


def _off_the_tape() -> contextlib.AbstractContextManager[Any]:
    """Keep eager tapes from holding every block; in a graph nothing is held that no gradient asks for."""
    return tf.init_scope() if tf.executing_eagerly() else contextlib.nullcontext()
