"""Run folders without training: what an export needs, made in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny import tiny_settings
from vse_tf.artifacts.checkpoint_files import Position
from vse_tf.artifacts.checkpoints import Checkpoints
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.trained_model import save_model
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import image_size, image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.preprocessing.preset_tokenizer import PresetTokenizer
from vse_tf.preprocessing.text import WordTokenizer
from vse_tf.preprocessing.view import ImageView

CAPTIONS = ("a brown dog runs through the snow", "two men in a red shirt", "a small dog plays", "the man is in snow")


def write_run(folder: Path, shape: tuple[int, ...] | None = None, **changed: Any) -> Path:
    """A run folder of random weights.

    Args:
        folder: where.
        shape: of one item of precomputed features.
        changed: settings, with `__` for the dot.
    """
    pixels = {} if shape else {"image__size": 24}
    settings = tiny_settings(folder, **{**pixels, **changed})
    run = RunFolder(folder)
    run.create(settings, begun=False)
    preset = settings.text.encoder.startswith("hub:")
    tokenizer: Any
    if preset:
        tokenizer = PresetTokenizer.from_preset(settings.text.encoder, settings.text.max_tokens)
    else:
        tokenizer = WordTokenizer.fit(CAPTIONS, 1, settings.text.max_tokens)
    size = None if shape else image_size(settings.image)
    model = DualEncoder(
        image_tower_from_settings(settings.image, settings.model, shape or (*size, 3)),
        text_tower_from_settings(settings.text, settings.model, tokenizer.vocabulary_size),
    )
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    save_model(run, model, tokenizer, ImageView.of(settings.image, size, settings.data.max_pixels))
    Checkpoints(run.checkpoints).save(model, Position(1, 4), best=True)
    row = {"epoch": 1, "step": 4, "metrics": {}}
    provenance = {"data_sha256": "abc", "seed": 0, "settings": {}}
    run.write_results({"best": row, "last": row, "finished": True, "stopped": None, "provenance": provenance})
    run.unlock()
    return folder
