"""What others use for the same work, in the same run: our time over theirs, at equal results.

    pip install 'vse_tf[peers]'
    python -m benchmarks.peers [--only NAME ...] [--rounds N] [--full]

- step: the method's training step on features in PyTorch, written here from the papers' formulas, with packed
  sequences and Adam; same shapes, weights and data as `benchmarks.step`. The first loss agrees to 1e-4, those of the
  next two steps to 1 %: the two Adams add epsilon at different places.
- evaluation: recalls by an argsort of each row of similarities, as the field's evaluation code does it. Same recalls.
- search: FAISS's exact index (`IndexFlatIP`) in memory, and ours on disk. Same hits.
- loading: photos decoded and resized by Pillow in a `DataLoader` of two workers. The pixels differ by less than two
  grey levels on average: the resizing differs.

Both sides take turns; the ratio is that of the fastest turns. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.pipeline import MAX_PIXELS, drawn
from benchmarks.ranking import unit
from benchmarks.search import make_index, queries_of
from benchmarks.step import BATCH, batch_of, compiled_model
from vse_tf.data.bad_images import BadImages
from vse_tf.data.pipeline import image_batches
from vse_tf.data.records import FileImages
from vse_tf.evaluation.metrics import recalls
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.preprocessing.view import ImageView

TEMPERATURE, RATE, CLIP = 0.1, 2e-4, 2.0
SIZE, RESIZED, LOADED, WORKERS = 224, 256, 64, 2
Found = dict[str, Any]


def in_turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int, times: int = 1) -> Found:
    """The fastest of several turns of each side."""
    seconds: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, run in zip(seconds, (ours, theirs), strict=True):
            began = time.perf_counter()
            for _ in range(times):
                run()
            side.append((time.perf_counter() - began) / times)
    mine, peer = map(min, seconds)
    return {"seconds": round(mine, 4), "peer_seconds": round(peer, 4), "ratio": round(mine / peer, 3)}


class TorchEncoder(nn.Module):
    """The method: l2, dense and head for images; word embedding, GRU and head for captions; unit vectors.

    Args:
        weights: those of our model, by tower and layer.
    """

    def __init__(self, weights: dict[str, list[np.ndarray]]) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(weights["word_embedding"][0]), freeze=False)
        width, units = self.embedding.embedding_dim, len(weights["gru"][1])
        self.gru = nn.GRU(width, units, batch_first=True)
        with torch.no_grad():
            kernel, recurrent, bias = weights["gru"]
            for name, value in (("weight_ih", kernel.T), ("weight_hh", recurrent.T)):
                getattr(self.gru, f"{name}_l0").copy_(torch.tensor(_gates(value)))
            for name, value in zip(("bias_ih", "bias_hh"), bias, strict=True):
                getattr(self.gru, f"{name}_l0").copy_(torch.tensor(_gates(value)))
        self.image_dense = _linear(weights["image/feature_units"])
        self.image_head = nn.Sequential(*_head(weights, "image"))
        self.text_head = nn.Sequential(*_head(weights, "text"))

    def forward(self, features: torch.Tensor, ids: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        image = self.image_head(self.image_dense(normalize(features, dim=1)))
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        text = self.text_head(self.gru(packed)[1][0])
        return normalize(image, dim=1), normalize(text, dim=1)


def _gates(value: np.ndarray) -> np.ndarray:
    """Keras' gates update, reset, candidate in PyTorch's order: reset, update, candidate."""
    update, reset, candidate = np.split(value, 3)
    return np.concatenate([reset, update, candidate])


def _linear(weights: list[np.ndarray]) -> nn.Linear:
    kernel, *bias = weights
    layer = nn.Linear(*kernel.shape, bias=bool(bias))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(kernel.T))
        if bias:
            layer.bias.copy_(torch.tensor(bias[0]))
    return layer


def _head(weights: dict[str, list[np.ndarray]], tower: str) -> list[nn.Module]:
    return [_linear(weights[f"{tower}/head_units"]), nn.ReLU(), _linear(weights[f"{tower}/head_output"])]


def _weights(model: DualEncoder) -> dict[str, list[np.ndarray]]:
    named = {}
    for name, tower in (("image", model.image_tower), ("text", model.text_tower)):
        for layer in (*tower.layers, *tower.get_layer("head").layers):
            if not isinstance(layer, keras.Model):
                named[layer.name if layer.name in ("word_embedding", "gru") else f"{name}/{layer.name}"] = [
                    np.array(weight) for weight in layer.get_weights()
                ]
    return named


def step(rounds: int, _: bool) -> Found:
    """One training step."""
    model = compiled_model()
    inputs, image_id = batch_of(np.random.default_rng(0))
    peer = TorchEncoder(_weights(model))
    optimizer = torch.optim.Adam(peer.parameters(), lr=RATE, eps=1e-7)
    features, tokens = torch.tensor(inputs["image"]), torch.tensor(np.maximum(inputs["text"], 0), dtype=torch.long)
    lengths, targets = torch.tensor((inputs["text"] >= 0).sum(1)), torch.arange(BATCH)

    def theirs() -> float:
        optimizer.zero_grad()
        image, text = peer(features, tokens, lengths)
        scores = image @ text.T / TEMPERATURE
        loss = cross_entropy(scores, targets) + cross_entropy(scores.T, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(peer.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    batches = iter(tf.data.Dataset.from_tensors((inputs, image_id)).repeat())
    model.make_train_function()

    def ours() -> float:
        return float(np.asarray(model.train_function(batches)["loss"])[0])

    losses = [(ours(), theirs()) for _ in range(3)]
    differences = [abs(mine - other) / other for mine, other in losses]
    assert differences[0] < 1e-4 and max(differences) < 1e-2, f"the losses differ: {losses}"
    return {**in_turns(ours, theirs, rounds, times=6), "losses": losses}


def evaluation(rounds: int, full: bool) -> Found:
    """Recalls of images with five captions each."""
    images = 5000 if full else 1000
    random = np.random.default_rng(0)
    image = unit(random.standard_normal((images, 1024), dtype=np.float32))
    text = unit(np.repeat(image, 5, axis=0) + random.standard_normal((5 * images, 1024), dtype=np.float32) / 5)
    rows = np.repeat(np.arange(images), 5)

    def theirs() -> dict[str, float]:
        to_text = np.zeros(images)
        for row in range(images):
            order = np.argsort(image[row] @ text.T)[::-1]
            to_text[row] = min(np.flatnonzero(order == caption)[0] for caption in range(5 * row, 5 * row + 5))
        to_image = np.zeros(5 * images)
        for caption in range(5 * images):
            order = np.argsort(text[caption] @ image.T)[::-1]
            to_image[caption] = np.flatnonzero(order == caption // 5)[0]
        ranks = (("i2t", to_text), ("t2i", to_image))
        return {f"{name}_r{k}": 100 * float((rank < k).mean()) for name, rank in ranks for k in (1, 5, 10)}

    def ours() -> dict[str, float]:
        return recalls(image, text, rows)

    mine, other = ours(), theirs()
    assert all(abs(mine[name] - value) < 1e-6 for name, value in other.items()), (mine, other)
    return {**in_turns(ours, theirs, 1 if full else rounds), "images": images, "recalls": other}


def search(rounds: int, full: bool) -> Found:
    """The ten nearest of each of 64 queries."""
    import faiss  # noqa: PLC0415

    vectors = 1_000_000 if full else 100_000
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), vectors, 256)
        queries, exact, flat = queries_of(index, 64), ExactSearch(index), faiss.IndexFlatIP(256)
        for _, part in index.vectors():
            flat.add(np.ascontiguousarray(part))
        mine, other = exact(queries, 10)[0], flat.search(queries, 10)[1]
        assert np.array_equal(np.sort(mine, 1), np.sort(other, 1)), "the hits differ"
        return {**in_turns(lambda: exact(queries, 10), lambda: flat.search(queries, 10), rounds), "vectors": vectors}


class Photos(torch.utils.data.Dataset):
    """Photos as the field's loaders read them: shorter side to 256, centre crop of 224, float32."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        image = Image.open(self.paths[row]).convert("RGB")
        scale = RESIZED / min(image.size)
        image = image.resize([round(scale * side) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - SIZE) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + SIZE, top + SIZE)), np.float32)
        return torch.from_numpy(pixels)


def loading(rounds: int, full: bool) -> Found:
    """Photos to batches of pixels."""
    with tempfile.TemporaryDirectory() as folder:
        paths = drawn(Path(folder), 10 * LOADED) * (8 if full else 2)
        loader = torch.utils.data.DataLoader(Photos(paths), LOADED, num_workers=WORKERS)
        bad, view = BadImages("fail", MAX_PIXELS), ImageView((SIZE, SIZE), resize=RESIZED)

        def batches() -> tf.data.Dataset:
            return image_batches(FileImages(tuple(paths)), view, LOADED, bad)

        def ours() -> None:
            for _ in batches():
                pass

        def theirs() -> None:
            for _ in loader:
                pass

        mine, other = next(iter(batches()))[0].numpy(), next(iter(loader)).numpy()
        difference = float(np.abs(mine - other).mean())
        assert difference < 2, f"the pixels differ by {difference:.2f} on average"
        return {**in_turns(ours, theirs, rounds), "images": len(paths), "grey_levels": round(difference, 3)}


PEERS = {"step": step, "evaluation": evaluation, "search": search, "loading": loading}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3, help="number of turns of each side")
    parser.add_argument("--full", action="store_true", help="5,000 images to evaluate, 1,000,000 vectors, more photos")
    arguments = parser.parse_args(argv)
    print(json.dumps({name: PEERS[name](arguments.rounds, arguments.full) for name in arguments.only}))


if __name__ == "__main__":
    main()
