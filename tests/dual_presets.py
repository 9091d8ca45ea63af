"""Tiny presets of networks that compare images with texts, complete with tokenizer and image converter."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

SIZE, DIM = 32, 16
SCALE, OFFSET = [0.02, 0.03, 0.04], [-1.0, -2.0, -3.0]
SENTENCES = ["a red circle left of a blue square", "the small green star is above a large ring", "dogs and cats"]


def write_clip(folder: Path) -> None:
    """A CLIP whose tokenizer knows letters; its end token is the last one, as its text pooling wants it."""
    import keras_hub  # noqa: PLC0415 (13 s)

    models = keras_hub.models
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "re", "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    network = models.CLIPBackbone(
        models.CLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=(SIZE, SIZE, 3)),
        models.CLIPTextEncoder(len(vocabulary), 16, 16, 2, 2, 32, max_sequence_length=64),
        projection_dim=DIM,
    )
    _shake(network, scale=np.log(1 / 0.02))
    network.save_to_preset(str(folder))
    models.CLIPTokenizer(vocabulary, merges=["r e"]).save_to_preset(str(folder))
    _converter("CLIP").save_to_preset(str(folder))


def write_siglip(folder: Path) -> None:
    """A SigLIP with a tokenizer of words."""
    import keras_hub  # noqa: PLC0415
    import sentencepiece  # noqa: PLC0415

    models, proto = keras_hub.models, io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=proto, vocab_size=30, hard_vocab_limit=False, minloglevel=2,
        pad_id=0, bos_id=1, eos_id=2, unk_id=3,
    )  # fmt: skip
    tokenizer = models.SigLIPTokenizer(proto.getvalue())
    network = models.SigLIPBackbone(
        models.SigLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=(SIZE, SIZE, 3)),
        models.SigLIPTextEncoder(
            tokenizer.vocabulary_size(), 16, 16, 2, 2, 32, max_sequence_length=24, projection_dim=16
        ),
    )
    # Below the usual smallest temperature, as of the trained ones.
    _shake(network, scale=np.log(1 / 0.008), bias=-7.0)
    network.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    _converter("SigLIP").save_to_preset(str(folder))


def _converter(family: str):
    import keras_hub  # noqa: PLC0415

    kind = getattr(keras_hub.layers, f"{family}ImageConverter")
    return kind(image_size=(SIZE, SIZE), scale=SCALE, offset=OFFSET)


def _shake(network, scale: float, bias: float = 0.0) -> None:
    """Random weights everywhere, so that one left out is seen."""
    rng = np.random.default_rng(5)
    for weight in network.weights:
        values = {"logit_scale": scale, "logit_bias": bias}
        if weight.name in values:
            weight.assign(np.full(weight.shape, values[weight.name]))
        else:
            weight.assign_add(rng.normal(0, 0.2, weight.shape))
