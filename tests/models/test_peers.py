"""Presets made and saved by Hugging Face `transformers`, loaded by `hub:<folder>`: the peer's vectors, ids and pixels.

Random tiny models; `transformers` and PyTorch are in the extra `[peers]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dual_presets import SENTENCES
from vse_tf.errors import UserError
from vse_tf.models.hub_backbones import hub_image_backbone, hub_text_backbone, image_size, logit_scaling
from vse_tf.preprocessing.preset_tokenizer import PresetTokenizer
from vse_tf.preprocessing.text import pad

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.peers

SIDE, LENGTH = 32, 40
IMAGES = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
CAPTIONS = [*SENTENCES, "A red Circle, left of dogs and cats.", "green"]
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
NORMALISATION = {"image_mean": [0.3, 0.4, 0.5], "image_std": [0.2, 0.25, 0.3]}


def shaken(model: Any) -> Any:
    """Random weights everywhere, so that one left out is seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model.eval()


def sentencepiece_model(path: Path) -> Path:
    import sentencepiece  # noqa: PLC0415

    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS), model_writer=file, vocab_size=40, hard_vocab_limit=False, minloglevel=2
        )
    return path


def fairseq_ids(path: Path, captions: list[str]) -> list[list[int]]:
    """The ids that XLM-R's own tokenizer gives: those of SentencePiece, one further, between `<s>` and `</s>`."""
    import sentencepiece  # noqa: PLC0415

    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    return [[0, *(piece + 1 if piece else 3 for piece in processor.encode(caption)), 2] for caption in captions]


def image_folder(kind: str, folder: Path) -> tuple[Any, Any]:
    """A saved image model and its processor."""
    size = {"image_size": SIDE, "patch_size": 8, **LAYERS}
    if kind == "dinov2":
        size = {key: value for key, value in size.items() if key != "intermediate_size"}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**size, mlp_ratio=2))
        processor = transformers.BitImageProcessor
        sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    elif kind == "vit":
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**size))
        processor, sizes = transformers.ViTImageProcessor, {"size": {"height": SIDE, "width": SIDE}}
    else:
        config = transformers.SwinConfig(
            image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4
        )
        model = transformers.SwinModel(config, add_pooling_layer=False)
        processor, sizes = transformers.ViTImageProcessor, {"size": {"height": SIDE, "width": SIDE}}
    made = processor(do_normalize=True, **sizes, **NORMALISATION)
    shaken(model).save_pretrained(str(folder))
    made.save_pretrained(str(folder))
    return model, made


@pytest.mark.parametrize("kind", ["dinov2", "swin", "vit"])
def test_image_vectors_are_the_peers(kind: str, tmp_path: Path) -> None:
    model, processor = image_folder(kind, tmp_path)
    pixels = processor(list(IMAGES), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        states = getattr(model, "vit", model)(pixels).last_hidden_state.numpy()
    expected = states.mean(axis=1) if kind == "swin" else states[:, 0]
    assert image_size(str(tmp_path)) == (SIDE, SIDE)
    backbone = hub_image_backbone(str(tmp_path), (SIDE, SIDE), False, "float32")
    own = backbone.get_layer("preprocessing")(IMAGES.astype(np.float32))
    np.testing.assert_allclose(np.moveaxis(own, 3, 1), pixels.numpy(), atol=1e-4)
    np.testing.assert_allclose(backbone(IMAGES.astype(np.float32)), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_text_vectors_and_ids_are_the_peers(kind: str, tmp_path: Path) -> None:
    if kind == "bert":
        words = [
            "[PAD]",
            "[UNK]",
            "[CLS]",
            "[SEP]",
            "[MASK]",
            "a",
            "red",
            "circle",
            "left",
            "of",
            "dogs",
            "##s",
            ",",
            ".",
        ]
        (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
        tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=True)
        tokenizer.save_pretrained(str(tmp_path))
        config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=LENGTH, **LAYERS)
        model = transformers.BertModel(config)
        ids = tokenizer(CAPTIONS)["input_ids"]
    else:
        ids = fairseq_ids(sentencepiece_model(tmp_path / "sentencepiece.bpe.model"), CAPTIONS)
        config = transformers.XLMRobertaConfig(vocab_size=64, max_position_embeddings=LENGTH + 2, **LAYERS)
        model = transformers.XLMRobertaModel(config)
    shaken(model).save_pretrained(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n") if kind == "bert" else None
    own = PresetTokenizer.from_preset(str(tmp_path), LENGTH)
    assert own(CAPTIONS).to_list() == ids
    backbone = hub_text_backbone(str(tmp_path), LENGTH, False, "float32")
    found = backbone(pad(own(CAPTIONS), [LENGTH], LENGTH))
    for row, each in zip(found, ids, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([each])).last_hidden_state.numpy()[0]
        np.testing.assert_allclose(row, states.mean(axis=0), atol=1e-4)


def test_metaclip_2_is_the_peers(tmp_path: Path) -> None:
    ids = fairseq_ids(sentencepiece_model(tmp_path / "sentencepiece.bpe.model"), CAPTIONS)
    words = {"vocab_size": 64, "max_position_embeddings": LENGTH, "eos_token_id": 2, "projection_dim": 8, **LAYERS}
    images = {"image_size": SIDE, "patch_size": 8, "projection_dim": 8, **LAYERS}
    config = transformers.MetaClip2Config(text_config=words, vision_config=images, projection_dim=8)
    model = shaken(transformers.MetaClip2Model(config))
    model.save_pretrained(str(tmp_path))
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    processor = transformers.CLIPImageProcessor(**sizes, **NORMALISATION)
    processor.save_pretrained(str(tmp_path))
    pixels = processor(list(IMAGES), return_tensors="pt")["pixel_values"]
    own = PresetTokenizer.from_preset(str(tmp_path), LENGTH)
    assert own(CAPTIONS).to_list() == ids
    length = max(map(len, ids))
    padded = torch.tensor([[*each, *[1] * (length - len(each))] for each in ids])
    with torch.no_grad():
        found = model(input_ids=padded, pixel_values=pixels)
    image = hub_image_backbone(str(tmp_path), (SIDE, SIDE), False, "float32")
    text = hub_text_backbone(str(tmp_path), LENGTH, False, "float32")
    for mine, theirs in (
        (image(IMAGES.astype(np.float32)), found.image_embeds),
        (text(pad(own(CAPTIONS), [LENGTH], LENGTH)), found.text_embeds),
    ):
        unit = mine / np.linalg.norm(mine, axis=1, keepdims=True)
        np.testing.assert_allclose(unit, theirs.numpy(), atol=1e-4)
    temperature, bias = logit_scaling(str(tmp_path))
    assert temperature == pytest.approx(float(torch.exp(-model.logit_scale)), rel=1e-5)
    assert bias is None


def test_what_kerashub_cannot_convert_is_one_line(tmp_path: Path) -> None:
    """It expects a ViT with its classifier around it."""
    model = transformers.ViTModel(transformers.ViTConfig(image_size=SIDE, patch_size=8, **LAYERS))
    model.save_pretrained(str(tmp_path))
    transformers.ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"image\.encoder: preset .* cannot be loaded; .*vit\.embeddings") as found:
        hub_image_backbone(str(tmp_path), (SIDE, SIDE), False, "float32")
    assert "\n" not in str(found.value)
