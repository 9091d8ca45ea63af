"""Tiny data sets for the tests of the sources."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vse_tf.config import DataSettings
from vse_tf.data.records import Collection
from vse_tf.data.sources import read


def image_bytes(kind: str = "jpeg", size: tuple[int, int] = (4, 3), seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def make_images(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes())
    return folder


def write_json(path: Path, data: Any) -> str:
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def settings_for(folder: Path, source: str, **changes: Any) -> DataSettings:
    """Settings whose cache folder lies in the test's own folder."""
    return DataSettings(**{"source": source, "cache_dir": str(folder / "cache"), **changes})


def read_quietly(settings: DataSettings) -> Collection:
    return read(settings, progress=False)


def captions(collection: Collection) -> dict[str, list[tuple[str, ...]]]:
    return {name: [record.captions for record in split.records] for name, split in collection.splits.items()}


def problems(collection: Collection) -> list[str]:
    return [problem.what.split(":")[0] for problem in collection.skipped]
