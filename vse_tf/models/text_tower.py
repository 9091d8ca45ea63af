"""The text tower: token ids to unit vectors."""

from __future__ import annotations

from typing import Any

import keras

from vse_tf.config import ModelSettings, TextSettings
from vse_tf.errors import UserError
from vse_tf.models.backbones import split_encoder
from vse_tf.models.masking import MaskedMean, SplitPadding
from vse_tf.models.packed_gru import PackedGRU
from vse_tf.models.projection import build_head


def build_text_tower(
    text: TextSettings, model: ModelSettings, vocabulary_size: int, name: str = "text_tower"
) -> keras.Model:
    """Build the text tower, its pretrained weights loaded.

    Encoders (`text.encoder`):

    - `gru`: word embedding U(−0.1, 0.1) → dropout → GRU, whose state at the last token is taken; with
      `text.bidirectional` the average of that and of the state of a second GRU that ends at the first token. Source:
      the reference code of arXiv 2110.08872.
    - `transformer`: KerasHub's layers, learned positions, layer norm first; the mean of the states at tokens.
      `text.units` is its width; `text.embedding_dim` is of no use here.
    - `hub:<preset>`: a text backbone of KerasHub, see `hub_text_backbone`; it needs the preset's own tokenizer.

    All end in the head: see `build_head`. A row of padding alone has a finite vector.

    Args:
        text: settings of the tower.
        model: settings of the shared space.
        vocabulary_size: number of token ids (gru and transformer).
        name: name of the model.

    Returns:
        A functional model from int32 `(batch, length)`, negative ids as padding on the right, to float32 unit vectors
        `(batch, model.dim)`. More padding changes nothing. `backbone_of` gives its pretrained backbone, `head_of` the
        part behind the encoder.

    Raises:
        UserError: the settings name something that does not exist or does not fit.

    Example:
        >>> tower = build_text_tower(TextSettings(units=128, embedding_dim=64), ModelSettings(dim=64), 2000)
        >>> tower(np.array([[1, 17, 5, 2, -1, -1]])).shape
        (1, 64)
    """
    kind, preset = split_encoder(text.encoder, "text.encoder", ("gru", "transformer"), ("hub",))
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    if kind == "hub":
        from vse_tf.models.hub_backbones import hub_text_backbone  # noqa: PLC0415 (keras_hub: 13 s)

        backbone = hub_text_backbone(
            preset, text.max_tokens, text.trainable, model.precision, text.stages, text.pooling
        )
        feature = backbone(ids)
    else:
        encode = _gru if kind == "gru" else _transformer
        tokens, mask = SplitPadding(name="split_padding")(ids)
        feature = encode(tokens, mask, text, model.precision, vocabulary_size)
    return keras.Model(ids, build_head(feature.shape[1:], model, queries=text.queries)(feature), name=name)


def _gru(tokens: Any, mask: Any, text: TextSettings, dtype: str, vocabulary_size: int) -> Any:
    x = keras.layers.Embedding(
        vocabulary_size, text.embedding_dim, embeddings_initializer=_uniform(), dtype=dtype, name="word_embedding"
    )(tokens)
    if text.dropout:
        x = keras.layers.Dropout(text.dropout, dtype=dtype, name="word_dropout")(x)
    gru = (PackedGRU if text.packed else keras.layers.GRU)(text.units, dtype=dtype, name="gru")
    if text.bidirectional:
        both = keras.layers.Bidirectional(gru, merge_mode="ave", dtype=dtype, name="bidirectional")
        # As in a model rebuilt from its config: built by the call, the weights would have other names than there.
        for layer in (both.forward_layer, both.backward_layer):
            layer.build(x.shape)
        return both(x, mask=mask)
    return gru(x, mask=mask)


def _transformer(tokens: Any, mask: Any, text: TextSettings, dtype: str, vocabulary_size: int) -> Any:
    import keras_hub  # noqa: PLC0415 (13 s)

    if text.heads < 1 or text.units % text.heads:
        raise UserError(f"text.heads: {text.heads} does not divide text.units ({text.units}); give a divisor of it")
    x = keras_hub.layers.TokenAndPositionEmbedding(
        vocabulary_size,
        text.max_tokens,
        text.units,
        embeddings_initializer=_uniform(),
        dtype=dtype,
        name="word_embedding",
    )(tokens)
    if text.dropout:
        x = keras.layers.Dropout(text.dropout, dtype=dtype, name="word_dropout")(x)
    for number in range(1, text.layers + 1):
        x = keras_hub.layers.TransformerEncoder(
            4 * text.units,
            text.heads,
            dropout=text.dropout,
            activation="gelu",
            normalize_first=True,
            dtype=dtype,
            name=f"transformer_{number}",
        )(x, padding_mask=mask)
    x = keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype, name="final_norm")(x)
    return MaskedMean(name="pooling")(x, mask)


def _uniform() -> keras.initializers.Initializer:
    return keras.initializers.RandomUniform(-0.1, 0.1)
