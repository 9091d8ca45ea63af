"""A GRU that skips padding: the weights and the result of Keras' GRU in a fraction of its time on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="vse_tf")
class PackedGRU(keras.layers.GRU):
    """`keras.layers.GRU` for the last states of sequences of different lengths.

    Sequences are sorted by length, so that step t multiplies only those longer than t (packed sequences). The products
    with the inputs are computed for all tokens at once. The backward pass is written out: one product per step, and one
    per gate for the weights. Padding costs nothing. Weights, their names and the configuration are those of Keras.
    Under mixed precision, products run in the compute dtype, gates and states in float32.

    Args:
        units: width of the state.
        **kwargs: as for `keras.layers.GRU`, its default activations, `reset_after` and no dropout; only
            `go_backwards`, initializers, regularizers, constraints, `name` and `dtype` may differ.

    Call arguments:
        sequences: `(batch, length, d)`.
        mask: bool `(batch, length)`, true at tokens, padding on the right; None: no padding.

    Call returns:
        `(batch, units)`, the state at the last token of each sequence; zeros without tokens.

    Example:
        >>> PackedGRU(1024)(embedded, mask=token_ids >= 0).shape
        (128, 1024)
    """

    # Set while a tower is traced for export: the graph then has no stored gates.
    without_gradient = False

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        plain = (self.activation, self.recurrent_activation) == (keras.activations.tanh, keras.activations.sigmoid)
        more = self.dropout or self.recurrent_dropout or self.return_sequences or self.return_state or self.stateful
        if not plain or not self.reset_after or not self.use_bias or more:
            raise ValueError(
                "PackedGRU takes tanh and sigmoid, reset_after, a bias, no dropout; it returns the last state"
            )

    def call(
        self,
        sequences: tf.Tensor,
        initial_state: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        if initial_state is not None:
            raise ValueError("PackedGRU takes no initial state")
        mask = tf.ones(tf.shape(sequences)[:2], tf.bool) if mask is None else tf.convert_to_tensor(mask)
        if self.go_backwards:
            sequences = tf.reverse_sequence(sequences, tf.reduce_sum(tf.cast(mask, tf.int32), 1), seq_axis=1)
        weights = [tf.convert_to_tensor(w) for w in (self.cell.kernel, self.cell.recurrent_kernel, self.cell.bias)]
        if self.without_gradient:
            state = last_state_alone(sequences, mask, weights, tf.as_dtype(self.compute_dtype))
            return tf.ensure_shape(tf.cast(state, self.compute_dtype), [sequences.shape[0], self.units])
        # Eager tensor arrays cannot hold entries of different sizes.
        run = tf.function(last_state, autograph=False) if tf.executing_eagerly() else last_state
        state = run(sequences, mask, weights, tf.as_dtype(self.compute_dtype))
        return tf.ensure_shape(tf.cast(state, self.compute_dtype), [sequences.shape[0], self.units])


@tf.autograph.experimental.do_not_convert
def last_state(sequence: tf.Tensor, mask: tf.Tensor, weights: list[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """The state `(batch, units)` at the last token of each sequence, float32; the products run in `dtype`."""
    order, count, start, place, last, previous = _packing(mask)
    # At least one step: the first one is outside the loop.
    steps, units = tf.maximum(1, tf.reduce_sum(tf.cast(count > 0, tf.int32))), weights[1].shape[0]

    def product(a: tf.Tensor, b: tf.Tensor, **transposed: bool) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.cast(a, dtype), tf.cast(b, dtype), **transposed), tf.float32)

    # For the values of each step, after `first` rows of zeros.
    def array(first: int) -> tf.TensorArray:
        made = tf.TensorArray(tf.float32, steps + 1, infer_shape=False, element_shape=[None, units])
        return made.write(0, tf.zeros([first, units]))

    def loop(goes_on: Callable[..., tf.Tensor], body: Callable[..., tuple], begin: tuple) -> tuple:
        shapes = (tf.TensorShape([]), tf.TensorShape([None, units]), *[tf.TensorShape(None)] * (len(begin) - 2))
        return tf.while_loop(goes_on, body, begin, shape_invariants=shapes, parallel_iterations=1)

    @tf.custom_gradient
    def run(tokens: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
        kernels, (update_bias, reset_bias, bias) = tf.split(kernel, 3, axis=1), tf.split(bias, 3, axis=1)
        # The gates add both biases; the reset gate scales the inner bias of the candidate.
        biases = (tf.reduce_sum(update_bias, 0), tf.reduce_sum(reset_bias, 0), bias[0])
        from_input = [product(tokens, k) + b for k, b in zip(kernels, biases, strict=True)]
        weights = tf.cast(recurrent, dtype)

        def cell(
            t: int | tf.Tensor, before: tf.Tensor, from_state: Sequence[tf.Tensor], arrays: Sequence[tf.TensorArray]
        ) -> tuple[Any, ...]:
            # `part[start[t] : start[t] + count[t]]` would be a dozen operations for each part.
            first, size = tf.stack([start[t], 0]), tf.stack([count[t], -1])
            given = [tf.slice(part, first, size) for part in from_input]
            update, reset = tf.sigmoid(given[0] + from_state[0]), tf.sigmoid(given[1] + from_state[1])
            candidate = tf.tanh(given[2] + reset * (inner := from_state[2] + bias[1]))
            after = candidate + update * (before - candidate)
            values = zip(arrays, (after, update, reset, candidate, inner), strict=True)
            return (t + 1, after, *(a.write(t + 1, value) for a, value in values))

        def forward(t: tf.Tensor, state: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
            before = state[: count[t]]
            return cell(t, before, tf.split(product(before, weights), 3, axis=1), arrays)

        # The first step has no state to multiply.
        zeros = tf.zeros([count[0], units])
        begin = cell(0, zeros, [zeros] * 3, [array(first) for first in (1, 0, 0, 0, 0)])
        _, _, states, *gates = loop(lambda t, *_: t < steps, forward, begin)
        all_states = states.concat()

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            upstream, back = tf.gather(upstream, order), tf.transpose(tf.cast(recurrent, dtype))

            def cell_back(t: int | tf.Tensor, flow: tf.Tensor, arrays: Sequence[tf.TensorArray]) -> tuple[Any, ...]:
                """The gradients of a step: `flow` is that of the sequences that continue, the others end here."""
                update, reset, candidate, inner = (a.read(t + 1) for a in gates)
                here = tf.concat([flow, upstream[tf.shape(flow)[0] : count[t]]], 0)
                direct = here * update
                d_candidate = (here - direct) * (1 - candidate * candidate)
                d_update = direct * (1 - update) * (states.read(t)[: count[t]] - candidate)
                parts = (d_update, (d_inner := d_candidate * reset) * (1 - reset) * inner, d_inner, d_candidate)
                return direct, parts[:3], [a.write(t + 1, part) for a, part in zip(arrays, parts, strict=True)]

            def backward(t: tf.Tensor, flow: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
                direct, of_state, written = cell_back(t, flow, arrays)
                return (t - 1, direct + product(tf.concat(of_state, 1), back), *written)

            begin = (steps - 1, tf.zeros([0, units]), *(array(0) for _ in range(4)))
            _, flow, *arrays = loop(lambda t, *_: t > 0, backward, begin)
            *d_gates, d_inner, d_candidate = (a.concat() for a in cell_back(0, flow, arrays)[2])
            of_input, of_state = [*d_gates, d_candidate], [*d_gates, d_inner]
            before, ones = tf.gather(all_states, previous), tf.ones([1, tf.shape(tokens)[0]])
            return (
                tf.add_n([product(d, k, transpose_b=True) for d, k in zip(of_input, kernels, strict=True)]),
                tf.concat([product(tokens, d, transpose_a=True) for d in of_input], 1),
                tf.concat([product(before, d[count[0] :], transpose_a=True) for d in of_state], 1),
                tf.concat([tf.concat([tf.matmul(ones, d) for d in side], 1) for side in (of_input, of_state)], 0),
            )

        return tf.gather(all_states, last), gradient

    tokens = tf.gather(tf.reshape(sequence, [-1, sequence.shape[-1]]), place)
    return run(*(tf.cast(value, tf.float32) for value in (tokens, *weights)))


@tf.autograph.experimental.do_not_convert
def last_state_alone(sequence: tf.Tensor, mask: tf.Tensor, weights: list[tf.Tensor], dtype: tf.DType) -> tf.Tensor:
    """`last_state` without what its gradient needs: no gate is stored, and a step is one product with all gates."""
    order, count, start, place, *_ = _packing(mask)
    kernel, recurrent, (input_bias, inner_bias) = *(tf.cast(w, dtype) for w in weights[:2]), tf.unstack(weights[2])
    units = recurrent.shape[0]
    steps = tf.reduce_sum(tf.cast(count > 0, tf.int32))
    # The gates add both biases; the reset gate scales the inner bias of the candidate.
    gate_bias = tf.concat([input_bias[: 2 * units] + inner_bias[: 2 * units], input_bias[2 * units :]], 0)
    tokens = tf.gather(tf.reshape(sequence, [-1, sequence.shape[-1]]), place)
    given = tf.cast(tf.matmul(tf.cast(tokens, dtype), kernel), tf.float32) + tf.cast(gate_bias, tf.float32)
    inner_bias = tf.cast(inner_bias[2 * units :], tf.float32)

    def cell(t: int | tf.Tensor, state: tf.Tensor, product: Callable[[tf.Tensor], tf.Tensor]) -> tuple[Any, ...]:
        alive = count[t]
        before, part = state[:alive], given[start[t] : start[t] + alive]
        from_state = product(before)
        update, reset = tf.split(tf.sigmoid(part[:, : 2 * units] + from_state[:, : 2 * units]), 2, axis=1)
        candidate = tf.tanh(part[:, 2 * units :] + reset * (from_state[:, 2 * units :] + inner_bias))
        # Sequences that have ended keep their state.
        return t + 1, tf.concat([candidate + update * (before - candidate), state[alive:]], 0)

    def step(t: tf.Tensor, state: tf.Tensor) -> tuple[Any, ...]:
        return cell(t, state, lambda before: tf.cast(tf.matmul(tf.cast(before, dtype), recurrent), tf.float32))

    # The first step has no state to multiply.
    zeros = tf.zeros([tf.shape(mask)[0], units])
    begin = cell(0, zeros, lambda before: tf.zeros([tf.shape(before)[0], 3 * units]))
    shapes = tf.TensorShape([]), tf.TensorShape([None, units])
    _, state = tf.while_loop(lambda t, _: t < steps, step, begin, shape_invariants=shapes, parallel_iterations=1)
    return tf.gather(state, tf.argsort(order))


def _packing(mask: tf.Tensor) -> tuple[tf.Tensor, ...]:
    # The order of the sequences; number and start of the tokens of each step; the places of the tokens; and among the
    # states, which are in the order of the tokens after one of zeros, the places of the last state of each sequence and
    # of the previous state of each token of the later steps.
    lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
    order = tf.argsort(lengths, direction="DESCENDING", stable=True)
    alive = tf.transpose(tf.gather(mask, order))
    count = tf.reduce_sum(tf.cast(alive, tf.int32), axis=1)
    start = tf.cumsum(count, exclusive=True)
    step, row = tf.unstack(tf.cast(tf.where(alive), tf.int32), axis=1)
    place = tf.gather(order, row) * tf.shape(mask)[1] + step
    last = tf.where(lengths > 0, 1 + tf.gather(start, tf.maximum(lengths - 1, 0)) + tf.argsort(order), 0)
    return order, count, start, place, last, 1 + tf.gather(start, step[count[0] :] - 1) + row[count[0] :]
