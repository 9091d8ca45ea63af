"""One sentence in the exported text tower: the tower, the form with a gradient's operations, and its floor.

    python -m benchmarks.towers [--rounds N]

A text tower of the reference recipe (300-d embedding, GRU 1,024, head, space 1,024) as `export` traces it, called with
the token ids of a batch of one caption and of 32 captions, 12 tokens each. The baseline is the same tower as it was
exported before, with the operations that only a gradient needs. The floor is the bare products, which read each weight
once per token. The three run alternately; milliseconds are the minimum of the rounds. Prints one JSON line: `ratio` is
the tower over its former form (target: at most 0.5 for one caption, 1 for 32), `cpu_ratio` the same of processor time,
`floor_ratio` the floor over that form.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from vse_tf.config import ModelSettings, TextSettings
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.models.text_tower import text_tower_from_settings

VOCABULARY, TOKENS = 2600, 12


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


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.towers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100, help="number of turns")
    parser.add_argument("--units", type=int, default=1024, help="width of the GRU")
    arguments = parser.parse_args(argv)
    keras.utils.set_random_seed(0)
    text = TextSettings(units=arguments.units, embedding_dim=300)
    tower = text_tower_from_settings(text, ModelSettings(dim=1024, head_units=2048), VOCABULARY)
    frozen = FrozenTower(tower)
    runs = {"tower": tf.function(frozen, input_signature=[frozen.spec]), "former": former(tower), "floor": floor(tower)}
    found: dict[str, Any] = {"cores": os.cpu_count(), "tokens": TOKENS, "units": arguments.units}
    for name, count in (("one", 1), ("many", 32)):
        ids = tf.constant(np.random.default_rng(0).integers(0, VOCABULARY, (count, TOKENS)), tf.int32)
        best, cpu = dict.fromkeys(runs, np.inf), dict.fromkeys(runs, np.inf)
        for number in range(arguments.rounds + 2):
            for key, run in runs.items():
                began, used = time.perf_counter(), time.process_time()
                run(ids)
                if number > 1:
                    best[key] = min(best[key], time.perf_counter() - began)
                    cpu[key] = min(cpu[key], time.process_time() - used)
        found[name] = {f"{key}_ms": round(value * 1e3, 3) for key, value in best.items()}
        found[name]["ratio"] = round(best["tower"] / best["former"], 3)
        found[name]["cpu_ratio"] = round(cpu["tower"] / cpu["former"], 3)
        found[name]["floor_ratio"] = round(best["floor"] / best["former"], 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
