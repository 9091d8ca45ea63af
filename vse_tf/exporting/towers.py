"""The towers of a run as models to write, with their golden requests."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.embedder import Embedder
from vse_tf.exporting import golden_inputs
from vse_tf.exporting.exported_model import ExportedModel, GoldenRequest, golden_embeddings
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.exporting.image_module import ImageModule
from vse_tf.exporting.text_module import TextModule, TokenIdsModule
from vse_tf.preprocessing.image_limits import FORMATS
from vse_tf.preprocessing.text import Tokenizer, pad
from vse_tf.preprocessing.view import ImageView

IMAGE_TOWER, TEXT_TOWER, TEXT_TOWER_IDS = "image_tower", "text_tower", "text_tower_ids"


def tower_models(embedder: Embedder) -> list[ExportedModel]:
    """Image tower and text tower; with a text preset's own tokenizer also the tower that takes token ids."""
    text = FrozenTower(embedder.inference_tower("caption"))
    models = [image_model(embedder), text_model(embedder, text)]
    if embedder.tokenizer.needs_tf_text:
        models.append(token_ids_model(embedder, text))
    return models


def image_module(embedder: Embedder) -> ImageModule:
    """The image tower of a run as a module."""
    cached = embedder.view.size is not None and embedder.settings.data.features is True
    head = embedder.inference_tower("image", head=True) if cached else None
    return ImageModule(embedder.inference_tower("image"), embedder.view, head)


def text_module(embedder: Embedder, tower: FrozenTower | None = None) -> TextModule:
    """The text tower of a run as a module."""
    tower = tower or FrozenTower(embedder.inference_tower("caption"))
    return TextModule(tower, embedder.tokenizer, embedder.settings.text)


def image_model(embedder: Embedder) -> ExportedModel:
    """The image tower of a run."""
    module = image_module(embedder)
    signatures = module.signatures()
    golden: list[GoldenRequest] = []
    if embedder.view.size is not None:
        files, arrays = golden_inputs.image_files(embedder.view.max_pixels), golden_inputs.pixel_arrays()
        golden.append(golden_embeddings("serving_default", {"image_bytes": strings(files)}, encoded(embedder, files)))
        golden.append(golden_embeddings("pixels", {"pixels": arrays}, embedder.encode_images(list(arrays))))
    if "features" in signatures:
        tower = embedder.inference_tower("image", head=embedder.view.size is not None)
        features = golden_inputs.features(3, *tower.input_shape[1:])
        expected = tower(features, training=False).numpy()
        golden.append(golden_embeddings("features", {"features": features}, expected))
        if embedder.view.size is None:
            golden.append(dataclasses.replace(golden[-1], signature="serving_default"))
    return ExportedModel(IMAGE_TOWER, module, signatures, tuple(golden), {"image": image_facts(embedder.view)})


def text_model(embedder: Embedder, tower: FrozenTower) -> ExportedModel:
    """The text tower of a run, which takes strings."""
    module = text_module(embedder, tower)
    expected = embedder.encode_texts(golden_inputs.TEXTS)
    golden = golden_embeddings("serving_default", {"text": strings(golden_inputs.TEXTS)}, expected)
    return ExportedModel(TEXT_TOWER, module, module.signatures(), (golden,), {"text": text_facts(embedder)})


def token_ids_model(embedder: Embedder, tower: FrozenTower) -> ExportedModel:
    """The text tower of a run that takes token ids."""
    settings = embedder.settings.text
    module = TokenIdsModule(tower, settings)
    ids = pad(embedder.tokenizer(list(golden_inputs.TEXTS)), settings.buckets, settings.max_tokens).numpy()
    inputs = {"token_ids": np.maximum(ids, 0), "padding_mask": (ids >= 0).astype(np.int32)}
    golden = golden_embeddings("serving_default", inputs, embedder.encode_texts(golden_inputs.TEXTS))
    return ExportedModel(TEXT_TOWER_IDS, module, module.signatures(), (golden,), {"text": text_facts(embedder)})


def encoded(embedder: Embedder, files: list[bytes]) -> np.ndarray:
    """The live model's embeddings of image files."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, str(number)) for number in range(len(files))]
        for path, contents in zip(paths, files, strict=True):
            path.write_bytes(contents)
        return embedder.encode_images(paths)


def image_facts(view: ImageView) -> dict[str, Any]:
    """The preparation of images, for the manifest."""
    if view.size is None:
        return {"input": "precomputed features"}
    return {
        "input": "pixels",
        "size": list(view.size),
        "resize": view.resize,
        "max_pixels": view.max_pixels,
        "formats": list(FORMATS),
    }


def text_facts(embedder: Embedder) -> dict[str, Any]:
    """The preparation of texts, for the manifest."""
    tokenizer, text = embedder.tokenizer, embedder.settings.text
    return {
        "tokenizer": type(tokenizer).__name__,
        "vocabulary_size": tokenizer.vocabulary_size,
        "vocabulary_sha256": _vocabulary_sha256(tokenizer),
        "max_tokens": text.max_tokens,
        "buckets": list(text.buckets),
        "blank": "has a vector: that of the start and end tokens alone",
    }


def strings(values: Iterable[str | bytes]) -> np.ndarray:
    """Strings or bytes as an array of bytes objects, TensorFlow's form of them in NumPy."""
    return np.array([value.encode() if isinstance(value, str) else value for value in values], object)


def _vocabulary_sha256(tokenizer: Tokenizer) -> str:
    """A hash of the tokenizer's files in a run folder: vocabulary, merges, settings."""
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
