"""The cached-feature training step against its limit, the bare matrix product measured in the same run.

    python -m benchmarks.step [--precision float32] [--packed true] [--jit-compile auto] [--rounds N]

The reference recipe's towers (features 1280 → 1024 → head, 300-d embedding → GRU 1024 → head, space 1024), ConVSE,
Adam, clip-norm, batch 128, captions of 7 to 20 tokens in a bucket of 20. Prints one JSON line: seconds of a step, its
useful arithmetic (products on real tokens only, forward and backward), the share of the throughput of a 2048³ product,
and the seconds of the step's parts, each run alone.
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
from vse_tf.models.projection import head_of
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


def gru_products(text: TextSettings, lengths: np.ndarray) -> Callable[[], object]:
    """The bare products of the GRU, forward and backward, in the shapes in which a packed batch has them."""
    counts = [int((lengths > step).sum()) for step in range(lengths.max())]
    tokens, units, width = sum(counts), text.units, text.embedding_dim
    given, states, gates = (tf.random.normal([tokens, each]) for each in (width, units, 3 * units))
    kernel, recurrent = tf.random.normal([width, 3 * units]), tf.random.normal([units, 3 * units])

    @tf.function
    def run() -> list[tf.Tensor]:
        later = counts[1:]
        forward = [tf.matmul(states[:count], recurrent) for count in later]
        backward = [tf.matmul(gates[:count], recurrent, transpose_b=True) for count in later]
        weights = [tf.matmul(states[counts[0] :], gates[counts[0] :], transpose_a=True)]
        inputs = [tf.matmul(given, kernel), tf.matmul(gates, kernel, transpose_b=True)]
        return forward + backward + weights + inputs + [tf.matmul(given, gates, transpose_a=True)]

    return run


def parts(model: DualEncoder, inputs: dict[str, np.ndarray], image_id: np.ndarray) -> dict[str, Callable[[], object]]:
    """The parts of a step, each forward and backward and alone."""
    gru = model.text_tower.get_layer("gru")
    mask = tf.constant(inputs["text"] >= 0)
    embedded = tf.random.normal([*inputs["text"].shape, gru.cell.kernel.shape[0]])
    image, state = tf.constant(inputs["image"]), tf.random.normal([BATCH, gru.units])
    gradients = [tf.random.normal(variable.shape) for variable in model.trainable_variables]

    @tf.function
    def text_gru() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(embedded)
            value = tf.reduce_sum(gru(embedded, mask=mask))
        return tape.gradient(value, [embedded, *gru.trainable_variables])

    @tf.function
    def heads_and_loss() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(state)
            vectors = [model.image_tower(image), head_of(model.text_tower)(state)]
            value = model.loss(image_id, tf.stack(vectors, axis=1))
        return tape.gradient(value, [state, *model.image_tower.trainable_variables])

    update = tf.function(lambda: model.optimizer.apply(model._clipped(gradients), model.trainable_variables))
    return {"gru": text_gru, "heads_and_loss": heads_and_loss, "clip_and_adam": update}


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
    alone = {
        "gru_products": gru_products(TEXT, (inputs["text"] >= 0).sum(1)),
        **parts(model, inputs, image_id),
        "input": lambda: next(batches),
    }
    for run in alone.values():
        run()
    found = {
        "precision": arguments.precision,
        "packed": packed,
        "jit_compile": jit,
        "step_seconds": best_step,
        "useful_gflops": flops / best_step / 1e9,
        "product_gflops": 2 * SIDE**3 / best_product / 1e9,
        "share_of_product": float(np.median(shares)),
        "parts_seconds": {name: round(seconds(run, STEPS), 4) for name, run in alone.items()},
    }
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}))


if __name__ == "__main__":
    main()
