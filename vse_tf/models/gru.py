"""The recurrent text encoder."""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

from vse_tf.config import TextSettings
from vse_tf.models.encoders import Encoder
from vse_tf.models.masking import SplitPadding
from vse_tf.models.packed_gru import PackedGRU


def gru_encoder(
    vocabulary_size: int,
    embedding_dim: int = 300,
    units: int = 1024,
    *,
    bidirectional: bool = False,
    packed: bool = True,
    dropout: float = 0.0,
    precision: str = "float32",
) -> Encoder:
    """Word embedding U(−0.1, 0.1) → dropout → GRU, whose state at the last token is the feature.

    Source: the reference code of arXiv 2110.08872.

    Args:
        vocabulary_size: number of token ids.
        embedding_dim: width of the word embedding.
        units: width of the state.
        bidirectional: average it with the state at the first token of a second GRU, which reads backwards.
        packed: use `PackedGRU`, which skips padding, in place of Keras' GRU.
        dropout: dropout rate of the word embeddings.
        precision: numeric precision, a Keras dtype policy.

    Returns:
        A function from int32 `(batch, length)`, negative ids as padding on the right, to features `(batch, units)`.

    Example:
        >>> build_text_tower(gru_encoder(2000, embedding_dim=64, units=128), dim=64)
    """

    def encode(ids: keras.KerasTensor) -> keras.KerasTensor:
        tokens, mask = SplitPadding(name="split_padding")(ids)
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)
        x = keras.layers.Embedding(
            vocabulary_size, embedding_dim, embeddings_initializer=uniform, dtype=precision, name="word_embedding"
        )(tokens)
        if dropout:
            x = keras.layers.Dropout(dropout, dtype=precision, name="word_dropout")(x)
        gru = (PackedGRU if packed else keras.layers.GRU)(units, dtype=precision, name="gru")
        if not bidirectional:
            return gru(x, mask=mask)
        both = keras.layers.Bidirectional(gru, merge_mode="ave", dtype=precision, name="bidirectional")
        # As in a model rebuilt from its config: built by the call, the weights would have other names than there.
        for layer in (both.forward_layer, both.backward_layer):
            layer.build(x.shape)
        return both(x, mask=mask)

    return encode


def is_packed(packed: bool | Literal["auto"]) -> bool:
    """What `text.packed` stands for here: `auto` packs on a CPU, and leaves a GPU to cuDNN."""
    return not tf.config.list_physical_devices("GPU") if packed == "auto" else packed


def text_encoder(name: str, text: TextSettings, vocabulary_size: int, precision: str) -> Encoder:
    """The encoder that the settings describe."""
    return gru_encoder(
        vocabulary_size,
        text.embedding_dim,
        text.units,
        bidirectional=text.bidirectional,
        packed=is_packed(text.packed),
        dropout=text.dropout,
        precision=precision,
    )
