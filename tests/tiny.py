"""The smallest run that goes through every part, for tests of the commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vse_tf.config import DataSettings, ImageSettings, ModelSettings, Settings, TextSettings
from vse_tf.settings_parser import SOURCE_DEFAULTS, parse_settings
from vse_tf.used_settings import unused

TINY = {
    "data.shapes.train_scenes": "64",
    "data.shapes.gallery_scenes": "20",
    "data.shapes.size": "16",
    "image.channels": "[4, 8]",
    "image.units": "16",
    "text.embedding_dim": "8",
    "text.units": "16",
    "model.dim": "8",
    "train.epochs": "2",
    "train.batch_size": "16",
    "train.eval_batch_size": "20",
    "train.examples": "0",
    "train.projector": "0",
}


def arguments(run_dir: Path | str, **changed: Any) -> list[str]:
    """Arguments of a tiny run; changed keys are written with `__` for the dot."""
    given = {k.replace("__", "."): str(v) for k, v in changed.items()}
    values = {**TINY, "train.run_dir": str(run_dir), **given}
    # A large network with the tiny one's settings would be a mistake on the command line.
    for key in unused(_encoders(given), TINY.keys() - given.keys()):
        del values[key]
    return [part for key, value in values.items() for part in (f"--{key}", value)]


def _encoders(given: dict[str, str]) -> Settings:
    source = given.get("data.source", "shapes")
    image = given.get("image.encoder") or SOURCE_DEFAULTS.get(source, {}).get("image.encoder", "applications")
    return Settings(
        data=DataSettings(source=source),
        image=ImageSettings(encoder=image),
        text=TextSettings(encoder=given.get("text.encoder", "gru")),
        model=ModelSettings(head="none" if given.get("model.head") == "none" else True),
    )


def tiny_settings(run_dir: Path | str, **changed: Any) -> Settings:
    """Settings of a tiny run."""
    return parse_settings(arguments(run_dir, **changed), "train", "")


def rows_of(run_dir: Path | str) -> list[dict[str, Any]]:
    """metrics.jsonl without its wall-clock values."""
    lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "timing"} for line in lines]
