"""Runs a frozen text backbone over the captions once and trains on what it gave."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vse_tf.config import TextSettings
from vse_tf.data.features import CachedFeatures, CachedTokens, FeatureShards, fill
from vse_tf.data.records import Split
from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of
from vse_tf.models.feature_cache import backbone_key, feature_of
from vse_tf.preprocessing import text

VIEW = "caption"
BATCH = 64


class TextFeatureCache:
    """Features of a frozen text backbone for the captions of whole splits, computed once and kept.

    Args:
        tower: the text tower; its backbone is frozen.
        tokenizer: the tower's tokenizer.
        text_settings: lengths that captions are padded to.
        folder: the cache folder; each combination of backbone, weights and token ids has its own below it.
        progress: show a bar.

    Raises:
        UserError: the tower has no frozen backbone.

    Example:
        >>> cached = TextFeatureCache(tower, tokenizer, settings.text, Path("cache")).split(split)
    """

    def __init__(
        self, tower: keras.Model, tokenizer: Any, text_settings: TextSettings, folder: Path, progress: bool = True
    ) -> None:
        backbone = backbone_of(tower)
        if backbone is None or backbone.trainable:
            raise UserError(
                "data.text_features: needs a frozen pretrained backbone (text.encoder hub:…, text.trainable false)"
            )
        self.backbone = backbone
        self.of_tokens = len(backbone.output_shape) == 3
        self.tokenizer = tokenizer
        self.text_settings = text_settings
        self.progress = progress
        self.folder = folder / "text_features" / backbone_key(backbone)
        self._run = tf.function(
            lambda ids: backbone(ids, training=False), input_signature=[tf.TensorSpec([None, None], tf.int32)]
        )

    def split(self, split: Split) -> Split:
        """The split with cached features of its captions.

        Raises:
            UserError: the cache cannot be written.
        """
        values, splits = text.tokenise_all(self.tokenizer, split.captions)
        tokens = tf.RaggedTensor.from_row_splits(values, splits, validate=False)
        key = hashlib.sha256(values.tobytes() + splits.tobytes()).hexdigest()[:24]
        lengths = np.minimum(np.diff(splits), self.text_settings.max_tokens) if self.of_tokens else None
        shards = FeatureShards(self.folder / key, len(splits) - 1, feature_of(self.backbone), lengths)
        for path in shards.remove_damaged([VIEW]):
            print(f"{path}: damaged features, computed again")
        total = sum(end - start for start, end in shards.missing(VIEW))
        name = f"text features ({split.name})"
        with tqdm(total=total, desc=name, unit="caption", disable=not (self.progress and total)) as bar:

            def compute(view: str, start: int, end: int) -> dict[str, np.ndarray]:
                return {view: self._features(tokens[start:end], bar)}

            fill(shards, [VIEW], compute)
        found = shards.read(VIEW)
        if lengths is None:
            return dataclasses.replace(split, caption_features=CachedFeatures([found], np.arange(shards.count)))
        return dataclasses.replace(split, caption_features=CachedTokens(found, lengths, shards.size))

    def _features(self, tokens: tf.RaggedTensor, bar: tqdm) -> np.ndarray:
        """Features `(captions, d)`, or states `(tokens, d)` of all captions one behind the other.

        Captions of like length run together, for little padding.
        """
        lengths = tokens.row_lengths().numpy()
        order = np.argsort(lengths, kind="stable")
        settings = self.text_settings
        found = [np.empty(0)] * len(order)
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            ids = text.pad(tf.gather(tokens, part), settings.buckets, settings.max_tokens)
            for at, row in zip(part, self._run(ids).numpy(), strict=True):
                found[at] = row[: lengths[at]] if self.of_tokens else row[None]
            bar.update(len(part))
        return np.concatenate(found)
