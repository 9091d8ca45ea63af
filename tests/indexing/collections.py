"""A collection of small photos and a model without TensorFlow, for tests of what is done with both."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.data.records import Problem
from vse_tf.errors import UserError

DIM = 6


def draw(path: Path, shade: int) -> Path:
    """A photo of one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)
    return path


def vector_of(contents: bytes) -> np.ndarray:
    """The vector that `BytesEncoder` gives to contents."""
    seed = int.from_bytes(hashlib.sha256(contents).digest()[:4], "big")
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


class BytesEncoder:
    """Embeds a file by its bytes; a file that holds `bad` cannot be read.

    Args:
        name: of the model.
        stop: raise KeyboardInterrupt once so many items are encoded.
    """

    def __init__(self, name: str = "a", stop: int | None = None) -> None:
        self.model = {"kind": "run", "path": f"runs/{name}", "id": name}
        self.dim = DIM
        self.stop = stop
        self.encoded: list[str] = []

    def encode_files(self, paths, on_bad, advance=lambda count: None):
        found = [Path(path).read_bytes() for path in paths]
        good = np.array([b"bad" not in contents for contents in found], bool)
        if on_bad == "fail" and not good.all():
            raise UserError(f"{paths[int(np.argmin(good))]}: bad; --on_bad skip")
        self._count([Path(path).name for path in paths])
        advance(len(paths))
        vectors = [vector_of(contents) for contents, read in zip(found, good, strict=True) if read]
        problems = [Problem(path, "bad") for path, read in zip(paths, good, strict=True) if not read]
        return np.array(vectors, np.float32).reshape(-1, DIM), np.flatnonzero(good), problems

    def encode_texts(self, texts):
        self._count(texts)
        return np.array([vector_of(text.encode()) for text in texts], np.float32).reshape(-1, DIM)

    def _count(self, names):
        if self.stop is not None and len(self.encoded) + len(names) > self.stop:
            raise KeyboardInterrupt
        self.encoded += names
