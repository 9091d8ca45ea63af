"""The transformer text encoder, made of KerasHub's layers. Importing this module takes 3 to 13 s."""

from __future__ import annotations

import keras
import keras_hub

from vse_tf.config import TextSettings
from vse_tf.errors import UserError
from vse_tf.models.encoders import Encoder
from vse_tf.models.masking import MaskedMean, SplitPadding


def transformer_encoder(
    vocabulary_size: int,
    max_tokens: int = 64,
    units: int = 1024,
    *,
    layers: int = 4,
    heads: int = 8,
    dropout: float = 0.0,
    precision: str = "float32",
) -> Encoder:
    """A transformer with learned positions and layer norm first; the mean of the states at tokens is the feature.

    Args:
        vocabulary_size: number of token ids.
        max_tokens: number of positions.
        units: width of the states.
        layers: number of layers.
        heads: number of attention heads, a divisor of `units`.
        dropout: dropout rate of the word embeddings and inside the layers.
        precision: numeric precision, a Keras dtype policy.

    Returns:
        A function from int32 `(batch, length)`, negative ids as padding on the right, to features `(batch, units)`.

    Raises:
        UserError: the heads do not divide the units.

    Example:
        >>> build_text_tower(transformer_encoder(2000, units=128), dim=64)
    """
    if heads < 1 or units % heads:
        raise UserError(f"text.heads: {heads} does not divide text.units ({units}); give a divisor of it")

    def encode(ids: keras.KerasTensor) -> keras.KerasTensor:
        tokens, mask = SplitPadding(name="split_padding")(ids)
        uniform = keras.initializers.RandomUniform(-0.1, 0.1)
        x = keras_hub.layers.TokenAndPositionEmbedding(
            vocabulary_size,
            max_tokens,
            units,
            embeddings_initializer=uniform,
            dtype=precision,
            name="word_embedding",
        )(tokens)
        if dropout:
            x = keras.layers.Dropout(dropout, dtype=precision, name="word_dropout")(x)
        for number in range(1, layers + 1):
            x = keras_hub.layers.TransformerEncoder(
                4 * units,
                heads,
                dropout=dropout,
                activation="gelu",
                normalize_first=True,
                dtype=precision,
                name=f"transformer_{number}",
            )(x, padding_mask=mask)
        x = keras.layers.LayerNormalization(epsilon=1e-5, dtype=precision, name="final_norm")(x)
        return MaskedMean(name="pooling")(x, mask)

    return encode


def text_encoder(name: str, text: TextSettings, vocabulary_size: int, precision: str) -> Encoder:
    """The encoder that the settings describe."""
    return transformer_encoder(
        vocabulary_size,
        text.max_tokens,
        text.units,
        layers=text.layers,
        heads=text.heads,
        dropout=text.dropout,
        precision=precision,
    )
