"""The cached-feature training step against its limit, the bare matrix product measured in the same run.

    python -m benchmarks.step [--precision float32] [--packed true] [--jit-compile auto] [--rounds N]

The reference recipe's towers (features 1280 → 1024 → head, 300-d embedding → GRU 1024 → head, space 1024), ConVSE,
Adam, clip-norm, batch 128, captions of 7 to 20 tokens in a bucket of 20. Prints one JSON line: seconds of a step, its
useful arithmetic (products on real tokens only, forward and backward) and the share of the throughput of a 2048³
product.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from vse_tf.config import ImageSettings, ModelSettings, TextSettings, TrainSettings
from vse_tf.losses import ConVSE
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.training.optimizer import make_optimizer

BATCH, FEATURES, VOCABULARY, SHORTEST, LONGEST = 128, 1280, 2600, 7, 20
IMAGE = ImageSettings(encoder="features", units=1024)
TEXT = TextSettings(units=1024, embedding_dim=300)
SPACE = ModelSettings(dim=1024, head_units=2048)
SIDE = 2048
STEPS = 6


def seconds(run: Callable[[], object], times: int) -> float:
    """Fastest of several runs."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return min(found)


def arithmetic(tokens: int, text: TextSettings, image: ImageSettings, model: ModelSettings) -> float:
    """Floating-point operations of the products of a step: forward, and twice that backward."""
    gru = tokens * (text.embedding_dim + text.units) * 3 * text.units
    heads = BATCH * (FEATURES * image.units + (image.units + text.units + 2 * model.dim) * model.head_units)
    similarities = BATCH * BATCH * model.dim
    return 2.0 * 3 * (gru + heads + similarities)


def compiled_model(precision: str = "float32", packed: bool = True, jit_compile: bool = False) -> DualEncoder:
    """The model of the reference's recipe, ready to train."""
    space, text = replace(SPACE, precision=precision), replace(TEXT, packed=packed)
    train = TrainSettings(schedule="constant")
    keras.utils.set_random_seed(0)
    towers = image_tower_from_settings(IMAGE, space, (FEATURES,)), text_tower_from_settings(text, space, VOCABULARY)
    model = DualEncoder(*towers, clip_norm=train.clip_norm)
    model.compile(optimizer=make_optimizer(train, model, 1), loss=ConVSE(temperature=0.1), jit_compile=jit_compile)
    model.optimizer.build(model.trainable_variables)
    return model


def batch_of(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features and captions of a batch, and the numbers of its images."""
    lengths = rng.integers(SHORTEST, LONGEST + 1, BATCH)
    lengths[0] = LONGEST
    ids = np.where(np.arange(LONGEST) < lengths[:, None], rng.integers(0, VOCABULARY, (BATCH, LONGEST)), -1)
    features = rng.normal(size=(BATCH, FEATURES)).astype(np.float32)
    return {"image": features, "text": ids.astype(np.int32)}, np.arange(BATCH, dtype=np.int32)


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="float32", help="model.precision")
    parser.add_argument("--packed", default="true", choices=["true", "false"], help="text.packed")
    parser.add_argument("--jit-compile", default="auto", choices=["auto", "true", "false"], help="train.jit_compile")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of product and step")
    arguments = parser.parse_args(argv)
    packed = arguments.packed == "true"
    jit = {"true": True, "false": False, "auto": False}[arguments.jit_compile]
    model = compiled_model(arguments.precision, packed, jit)
    inputs, image_id = batch_of(np.random.default_rng(0))
    tokens = int((inputs["text"] >= 0).sum())
    data = tf.data.Dataset.from_tensors((inputs, image_id)).repeat()
    step = model.make_train_function()
    step = model.train_function if step is None else step
    batches = iter(data)
    side = tf.random.normal([SIDE, SIDE])
    product = tf.function(lambda: tf.matmul(side, side))
    step(batches), product()
    shares, best_step, best_product = [], np.inf, np.inf
    flops = arithmetic(tokens, TEXT, IMAGE, SPACE)
    for _ in range(arguments.rounds):
        of_product = seconds(product, STEPS)
        of_step = seconds(lambda: step(batches), STEPS)
        shares.append((flops / of_step) / (2 * SIDE**3 / of_product))
        best_step, best_product = min(best_step, of_step), min(best_product, of_product)
    found = {
        "precision": arguments.precision,
        "packed": packed,
        "jit_compile": jit,
        "step_seconds": best_step,
        "useful_gflops": flops / best_step / 1e9,
        "product_gflops": 2 * SIDE**3 / best_product / 1e9,
        "share_of_product": float(np.median(shares)),
    }
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
