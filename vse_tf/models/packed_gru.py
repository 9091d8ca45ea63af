"""A GRU that computes real tokens only: Keras' GRU, its weights and its result, at a fraction of the time on a CPU."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="vse_tf")
class PackedGRU(keras.layers.GRU):
    """`keras.layers.GRU` for rows of unequal length whose last state is wanted.

    Rows are sorted by length, so that step t multiplies only the rows that are longer than t (packed sequences), the
    inputs' product is one for all tokens, and the backward pass is written out: one product a step, and one for all
    steps together for each weight. Padding costs nothing. Weights, their names and the configuration are Keras' own and
    interchangeable. Under mixed precision products run in the compute dtype, gates and states in float32.

    Args:
        units: width of the state.
        **kwargs: as for `keras.layers.GRU`, its default activations, `reset_after` and no dropout; only
            `go_backwards`, initializers, regularizers, constraints, `name` and `dtype` may differ.

    Call arguments:
        sequences: `(batch, length, d)`.
        mask: bool `(batch, length)`, true at tokens, padding on the right; None takes every position.

    Returns:
        `(batch, units)`, the state at each row's last token; zeros for a row without any.

    Example:
        >>> PackedGRU(1024)(embedded, mask=token_ids >= 0).shape
        (128, 1024)
    """

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, **kwargs)
        plain = (self.activation, self.recurrent_activation) == (keras.activations.tanh, keras.activations.sigmoid)
        if not plain or not self.reset_after or not self.use_bias or self.dropout or self.recurrent_dropout:
            raise ValueError("PackedGRU takes tanh and sigmoid, reset_after, a bias and no dropout")
        if self.return_sequences or self.return_state or self.stateful:
            raise ValueError("PackedGRU gives the last state only")

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> tf.Tensor:
        if initial_state is not None:
            raise ValueError("PackedGRU starts from zeros")
        mask = tf.ones(tf.shape(sequences)[:2], tf.bool) if mask is None else tf.convert_to_tensor(mask)
        if self.go_backwards:
            lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
            sequences = tf.reverse_sequence(sequences, lengths, seq_axis=1, batch_axis=0)
        cell = self.cell
        kernel, recurrent, bias = (tf.convert_to_tensor(w) for w in (cell.kernel, cell.recurrent_kernel, cell.bias))
        # Eagerly, arrays of rows of changing number are not to be had.
        run = tf.function(last_state) if tf.executing_eagerly() else last_state
        state = run(sequences, mask, kernel, recurrent, bias, tf.as_dtype(self.compute_dtype))
        return tf.ensure_shape(tf.cast(state, self.compute_dtype), [sequences.shape[0], self.units])


def last_state(
    sequence: tf.Tensor, mask: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor, dtype: tf.DType
) -> tf.Tensor:
    """The state of a GRU at each row's last token, float32 `(batch, units)`.

    Args:
        sequence: `(batch, length, d)`.
        mask: bool `(batch, length)`, padding on the right.
        kernel: `(d, 3 units)`, gates in Keras' order: update, reset, candidate.
        recurrent: `(units, 3 units)`.
        bias: `(2, 3 units)`, of the input and of the state.
        dtype: of the matrix products.
    """
    rows, length = tf.unstack(tf.shape(sequence)[:2])
    order = tf.argsort(tf.reduce_sum(tf.cast(mask, tf.int32), axis=1), direction="DESCENDING", stable=True)
    alive = tf.transpose(tf.gather(mask, order))
    count = tf.reduce_sum(tf.cast(alive, tf.int32), axis=1)
    start = tf.cumsum(count, exclusive=True)
    # One step at least: arrays without an entry cannot be joined.
    steps = tf.maximum(1, tf.reduce_sum(tf.cast(count > 0, tf.int32)))
    # Place of every token, step by step, in the rows below one another.
    step_and_row = tf.cast(tf.where(alive), tf.int32)
    place = tf.gather(order, step_and_row[:, 1]) * length + step_and_row[:, 0]
    units = recurrent.shape[0]

    def product(a: tf.Tensor, b: tf.Tensor, **transposed: bool) -> tf.Tensor:
        return tf.cast(tf.matmul(tf.cast(a, dtype), tf.cast(b, dtype), **transposed), tf.float32)

    def arrays(number: int) -> tuple[tf.TensorArray, ...]:
        return tuple(
            tf.TensorArray(tf.float32, steps, infer_shape=False, element_shape=[None, None]) for _ in range(number)
        )

    def below(changed: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """The state with its first rows replaced."""
        return tf.ensure_shape(tf.concat([changed, state[tf.shape(changed)[0] :]], 0), state.shape)

    @tf.custom_gradient
    def run(tokens: tf.Tensor, kernel: tf.Tensor, recurrent: tf.Tensor, bias: tf.Tensor) -> Any:
        from_input = product(tokens, kernel) + bias[0]
        weights = tf.cast(recurrent, dtype)

        def forward(t: tf.Tensor, state: tf.Tensor, *kept: tf.TensorArray) -> tuple[Any, ...]:
            n = count[t]
            before, given = state[:n], from_input[start[t] : start[t] + n]
            inner = product(before, weights) + bias[1]
            gates = tf.sigmoid(given[:, : 2 * units] + inner[:, : 2 * units])
            update, reset = gates[:, :units], gates[:, units:]
            inner = inner[:, 2 * units :]
            candidate = tf.tanh(given[:, 2 * units :] + reset * inner)
            after = candidate + update * (before - candidate)
            values = (before, gates, candidate, inner)
            return (t + 1, below(after, state), *(k.write(t, v) for k, v in zip(kept, values, strict=True)))

        loop = {"parallel_iterations": 1}
        begin = (0, tf.zeros([rows, units]), *arrays(4))
        _, state, *kept = tf.while_loop(lambda t, *_: t < steps, forward, begin, **loop)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            weights = tf.cast(recurrent, dtype)

            def backward(t: tf.Tensor, flow: tf.Tensor, of_gates: Any, of_input: Any, of_inner: Any) -> tuple[Any, ...]:
                n = count[t]
                before, gates, candidate, inner = (array.read(t) for array in kept)
                update, reset = gates[:, :units], gates[:, units:]
                here = flow[:n]
                d_candidate = here * (1 - update) * (1 - candidate * candidate)
                d_update = here * (before - candidate)
                d_gates = tf.concat([d_update, d_candidate * inner], 1) * gates * (1 - gates)
                d_inner = d_candidate * reset
                down = here * update + product(tf.concat([d_gates, d_inner], 1), weights, transpose_b=True)
                written = of_gates.write(t, d_gates), of_input.write(t, d_candidate), of_inner.write(t, d_inner)
                return (t - 1, below(down, flow), *written)

            begin = (steps - 1, tf.ensure_shape(tf.convert_to_tensor(upstream), state.shape), *arrays(3))
            found = tf.while_loop(lambda t, *_: t >= 0, backward, begin, **loop)
            d_gates, d_candidate, d_inner = (array.concat() for array in found[2:])
            of_input, of_inner = tf.concat([d_gates, d_candidate], 1), tf.concat([d_gates, d_inner], 1)
            return (
                product(of_input, kernel, transpose_b=True),
                product(tokens, of_input, transpose_a=True),
                product(kept[0].concat(), of_inner, transpose_a=True),
                tf.stack([tf.reduce_sum(of_input, 0), tf.reduce_sum(of_inner, 0)]),
            )

        return state, gradient

    tokens = tf.gather(tf.reshape(sequence, [rows * length, sequence.shape[-1]]), place)
    weights = (tf.cast(value, tf.float32) for value in (kernel, recurrent, bias))
    state = run(tf.cast(tokens, tf.float32), *weights)
    return tf.gather(state, tf.argsort(order))
