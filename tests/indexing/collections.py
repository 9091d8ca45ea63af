"""Small images and a model without TensorFlow, for tests of embedding."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.artifacts.background import CAPTIONS
from vse_tf.data.records import Problem
from vse_tf.errors import UserError

DIM = 6


def draw(path: Path, shade: int) -> Path:
    """Write a small grey image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def vector_of(contents: bytes) -> np.ndarray:
    """The vector that `BytesModel` gives to contents."""
    seed = int.from_bytes(hashlib.sha256(contents).digest()[:4], "big")
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


class BytesModel:
    """Embeds a file by its bytes; a file that contains `bad` cannot be read.

    Args:
        name: of the model.
        stop: raise KeyboardInterrupt instead of encoding more items than this.
    """

    def __init__(self, name: str = "a", stop: int | None = None) -> None:
        self.identity = {"kind": "run", "path": f"runs/{name}", "id": name}
        self.dim = self.plain_dim = DIM
        self.stop = stop
        self.encoded: list[str] = []

    def encode_files(self, paths, on_bad, advance=lambda count: None):
        files = [Path(path).read_bytes() for path in paths]
        good = np.array([b"bad" not in contents for contents in files], bool)
        if on_bad == "fail" and not good.all():
            raise UserError(f"{paths[int(np.argmin(good))]}: bad; --on_bad skip")
        self._count([Path(path).name for path in paths])
        advance(len(paths))
        vectors = [vector_of(contents) for contents, read in zip(files, good, strict=True) if read]
        problems = [Problem(path, "bad") for path, read in zip(paths, good, strict=True) if not read]
        return np.array(vectors, np.float32).reshape(-1, DIM), np.flatnonzero(good), problems

    def encode_texts(self, texts):
        # Those that calibrate an index are not items of it.
        if texts != list(CAPTIONS):
            self._count(texts)
        return np.array([vector_of(text.encode()) for text in texts], np.float32).reshape(-1, DIM)

    def _count(self, names):
        if self.stop is not None and len(self.encoded) + len(names) > self.stop:
            raise KeyboardInterrupt
        self.encoded += names
