"""The text tower: token ids to unit vectors."""

from __future__ import annotations

from typing import Unpack

import keras

from vse_tf.config import ModelSettings, TextSettings
from vse_tf.models.backbone_tail import CutBackbone
from vse_tf.models.encoders import Encoder, encoder_module, split_encoder
from vse_tf.models.projection import HeadOptions, build_head, head_options


def build_text_tower(
    encoder: Encoder, dim: int = 1024, *, name: str = "text_tower", **head: Unpack[HeadOptions]
) -> keras.Model:
    """Build a text tower: an encoder of token ids, and a head.

    Args:
        encoder: from int32 `(batch, length)` token ids, negative ids as padding on the right, to features:
            `gru_encoder`, `transformer_encoder`, `hub_text_backbone`, or any other model.
        dim: dimensions of the result.
        name: name of the model.
        **head: further arguments of `build_head`.

    Returns:
        A functional model from token ids to float32 unit vectors `(batch, dim)`. More padding does not change them, and
        padding alone gives a finite vector. `backbone_of` returns its pretrained backbone, `head_of` the head.

    Example:
        >>> tower = build_text_tower(gru_encoder(2000, embedding_dim=64, units=128), dim=64)
        >>> tower(np.array([[1, 17, 5, 2, -1, -1]])).shape
        (1, 64)
    """
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    feature = encoder(ids)
    tail = encoder.tail if isinstance(encoder, CutBackbone) else None
    head_model = build_head(feature.shape[1:], dim, tail=tail, **head)
    return keras.Model(ids, head_model(feature), name=name)


def text_tower_from_settings(text: TextSettings, model: ModelSettings, vocabulary_size: int) -> keras.Model:
    """Build the text tower of a run, with the pretrained weights of its encoder.

    Args:
        text: settings of the tower; `text.encoder` is a name in `encoders.ENCODERS`.
        model: settings of the shared space.
        vocabulary_size: number of token ids; a preset has its own.

    Raises:
        UserError: the settings name something that does not exist or does not fit.

    Example:
        >>> tower = text_tower_from_settings(settings.text, settings.model, tokenizer.vocabulary_size)
    """
    module, (_, preset) = encoder_module(text.encoder, "text.encoder"), split_encoder(text.encoder, "text.encoder")
    encoder = module.text_encoder(preset, text, vocabulary_size, model.precision)
    head = head_options(model) | {"queries": text.queries, "maximum": text.pooling == "attention_max"}
    return build_text_tower(encoder, model.dim, **head)
