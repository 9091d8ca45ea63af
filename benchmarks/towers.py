"""The exported towers against their floors: one sentence in the text tower, one photo in the image tower.

    python -m benchmarks.towers [--rounds N]

The text tower is that of the reference recipe (300-d embedding, GRU 1,024, head, space 1,024) as `export` traces it,
called with the token ids of one caption (`text`) and of 32 captions (`texts`), 12 tokens each. `former` is the same
tower as it was exported before, with the operations that only a gradient needs; the floor is the bare products, which
read each weight once per token. `ratio` is the tower over its former form (target: at most 0.5 for one caption).
The image tower (`image`: MobileNet, random weights) takes the bytes of a JPEG of 500 x 375 pixels; `bare` decodes them
and calls the backbone on pixels of the right size in memory. `ratio` is the tower over that (target: at most 1.1).
All run alternately; milliseconds are the minimum of the rounds, `cpu_ratio` compares processor time. One JSON line.
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

from benchmarks.pipeline import drawn
from vse_tf.config import ImageSettings, ModelSettings, TextSettings
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.exporting.image_module import BYTES, ImageModule
from vse_tf.models.backbones import backbone_of
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.preprocessing.view import ImageView

VOCABULARY, TOKENS, MAX_PIXELS = 2600, 12, 100_000_000


def former(tower: keras.Model) -> Any:
    """The exported tower with the operations of the gradient."""
    frozen = FrozenTower(tower)
    traced = tf.function(lambda ids: tower(ids, training=False), input_signature=[frozen.spec])
    frozen._run = traced.get_concrete_function()
    return tf.function(frozen, input_signature=[frozen.spec])


def floor(tower: keras.Model) -> Any:
    """The bare products of sentences of equal length; the first token has no state to multiply."""
    gru, head = tower.get_layer("gru").cell, tower.get_layer("head")
    hidden, output = (head.get_layer(name).kernel.value for name in ("head_units", "head_output"))
    units = gru.recurrent_kernel.shape[0]
    embedding = tower.get_layer("word_embedding").embeddings.value

    def products(ids: tf.Tensor) -> tf.Tensor:
        given = tf.matmul(tf.reshape(tf.gather(embedding, ids), [-1, embedding.shape[1]]), gru.kernel.value)
        state = given[: tf.shape(ids)[0], :units]
        for _ in range(TOKENS - 1):
            state = tf.matmul(state, gru.recurrent_kernel.value)[:, :units]
        return tf.matmul(tf.matmul(state, hidden), output)

    return tf.function(products, input_signature=[tf.TensorSpec([None, TOKENS], tf.int32)])


def image_towers(size: int) -> dict[str, Any]:
    """The exported image tower, and decoding with the bare backbone."""
    image = ImageSettings(encoder="applications:MobileNet", weights="none", size=size)
    tower = image_tower_from_settings(image, ModelSettings())
    backbone = backbone_of(tower)
    assert backbone is not None
    module = ImageModule(tower, ImageView.of(image, (size, size), MAX_PIXELS))
    pixels = tf.random.uniform([1, size, size, 3], maxval=255)

    def bare(jpeg: tf.Tensor) -> tf.Tensor:
        decoded = tf.io.decode_jpeg(jpeg[0], channels=3)
        # It depends on the decoded pixels, so that they are decoded.
        return backbone(pixels + tf.cast(decoded[0, 0, 0], tf.float32), training=False)

    return {
        "tower": tf.function(module.of_bytes, input_signature=[BYTES]),
        "bare": tf.function(bare, input_signature=[BYTES]),
    }


def alternately(runs: dict[str, Callable[[Any], Any]], value: Any, rounds: int, limit: str) -> dict[str, float]:
    """Least milliseconds of each, and the ratio of `tower` to `limit`, also of processor time."""
    best, cpu = dict.fromkeys(runs, np.inf), dict.fromkeys(runs, np.inf)
    for number in range(rounds + 2):
        for key, run in runs.items():
            began, used = time.perf_counter(), time.process_time()
            run(value)
            if number > 1:
                best[key] = min(best[key], time.perf_counter() - began)
                cpu[key] = min(cpu[key], time.process_time() - used)
    found = {f"{key}_ms": round(seconds * 1e3, 3) for key, seconds in best.items()}
    found["ratio"] = round(best["tower"] / best[limit], 3)
    found["cpu_ratio"] = round(cpu["tower"] / cpu[limit], 3)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.towers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="number of turns")
    parser.add_argument("--units", type=int, default=1024, help="width of the GRU")
    parser.add_argument("--size", type=int, default=224, help="height and width of the image tower's view")
    arguments = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    text = TextSettings(units=arguments.units, embedding_dim=300)
    tower = text_tower_from_settings(text, ModelSettings(dim=1024, head_units=2048), VOCABULARY)
    frozen = FrozenTower(tower)
    runs = {"tower": tf.function(frozen, input_signature=[frozen.spec]), "former": former(tower), "floor": floor(tower)}
    found: dict[str, Any] = {"cores": os.cpu_count(), "tokens": TOKENS, "units": arguments.units}
    for name, count in (("text", 1), ("texts", 32)):
        ids = tf.constant(np.random.default_rng(0).integers(0, VOCABULARY, (count, TOKENS)), tf.int32)
        found[name] = alternately(runs, ids, arguments.rounds, "former")
        found[name]["floor_ratio"] = round(found[name]["floor_ms"] / found[name]["former_ms"], 3)
    with tempfile.TemporaryDirectory() as scratch:
        jpeg = tf.constant([Path(drawn(Path(scratch), 1)[0]).read_bytes()])
    found["image"] = alternately(image_towers(arguments.size), jpeg, arguments.rounds, "bare")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
