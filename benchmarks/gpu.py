"""What a GPU does that a CPU cannot show: the step, parity with the CPU, input that is there before its step.

    python -m benchmarks.gpu [--steps 50] [--output benchmarks/results/gpu.md]

At most 8 minutes on a GPU; `--device CPU:0` rehearses it without one. Three parts:

- step: that of `benchmarks.step`, with cuDNN's GRU and the packed one, in each precision, over a product of 4096³ in
  the same run.
- parity: the embeddings and the loss of one batch on the CPU and on the device, from the same weights, without
  TensorFloat-32; at most 1e-4 apart.
- prefetch: batches of the training input are on the device when they are asked for, and a step with them takes at most
  1.05 of a step whose batch always was there.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

from benchmarks.__main__ import machine
from benchmarks.step import IMAGE, SPACE, TEXT, arithmetic, batch_of, compiled_model

SIDE = 4096


def seconds(run: Callable[[], tf.Tensor], times: int) -> float:
    """Mean of several calls; the last result is fetched, for the device works while Python goes on."""
    np.asarray(run())
    began = time.perf_counter()
    for _ in range(times - 1):
        run()
    np.asarray(run())
    return (time.perf_counter() - began) / times


def training_step(packed: bool, precision: str, data: tf.data.Dataset) -> Callable[[], tf.Tensor]:
    """A step on the next batch, and its loss."""
    model = compiled_model(precision, packed)
    model.make_train_function()
    batches = iter(data)
    return lambda: model.train_function(batches)["loss"]


def step(steps: int, device: str) -> list[dict[str, Any]]:
    """Seconds of a step in each precision, and its share of a product's throughput."""
    batch = batch_of(np.random.default_rng(0))
    flops = arithmetic(int((batch[0]["text"] >= 0).sum()), TEXT, IMAGE, SPACE)
    with tf.device(device):
        side = tf.random.normal([SIDE, SIDE])
        product = tf.function(lambda: tf.matmul(side, side)[0, 0])
        throughput = 2 * SIDE**3 / seconds(product, steps)
        rows = []
        for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
            for packed in (False, True):
                took = seconds(training_step(packed, precision, tf.data.Dataset.from_tensors(batch).repeat()), steps)
                share = flops / took / throughput
                rows.append({"precision": precision, "packed": packed, "ms": 1e3 * took, "share_of_product": share})
    return rows


def parity(device: str) -> dict[str, Any]:
    """The largest difference between the device and the CPU."""
    tf.config.experimental.enable_tensor_float_32_execution(False)
    inputs, image_id = batch_of(np.random.default_rng(0))
    found, losses = [], []
    for place, packed in (("CPU:0", True), (device, False), (device, True)):
        with tf.device(place):
            model = compiled_model(packed=packed)
            embeddings = model(inputs, training=False)
            found.append(embeddings.numpy())
            losses.append(float(model.loss(image_id, embeddings)))
    tf.config.experimental.enable_tensor_float_32_execution(True)
    differences = [float(np.abs(other - found[0]).max()) for other in found[1:]]
    of_loss = [abs(loss - losses[0]) / losses[0] for loss in losses[1:]]
    return {"embeddings": max(differences), "loss": max(of_loss), "met": max(differences + of_loss) <= 1e-4}


def prefetch(steps: int, device: str) -> dict[str, Any]:
    """Where the batches of the input are, and what a step waits for them."""
    host = tf.data.Dataset.from_tensors(batch_of(np.random.default_rng(0))).repeat()
    ahead = host.apply(tf.data.experimental.prefetch_to_device(device, 2))
    inputs, _ = next(iter(ahead))
    with tf.device(device):
        there = tf.data.Dataset.from_tensors(next(iter(ahead))).cache().repeat()
        ratio = seconds(training_step(False, "float32", ahead), steps) / seconds(
            training_step(False, "float32", there), steps
        )
    placed = device in inputs["image"].device
    return {"on_device": placed, "ratio": ratio, "met": placed and ratio <= 1.05}


def report(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    about = found["machine"]
    lines = [
        "# On a GPU",
        "",
        f"{found['date']}, {found['device']}, TensorFlow {about['tensorflow']}, Keras {about['keras']}. "
        "`python -m benchmarks.gpu`",
        "",
        "| precision | GRU | step, ms | share of a product of 4096³ |",
        "|---|---|---|---|",
    ]
    for row in found["step"]:
        gru = "packed" if row["packed"] else "Keras'"
        lines.append(f"| {row['precision']} | {gru} | {row['ms']:.2f} | {row['share_of_product']:.3f} |")
    of, ahead = found["parity"], found["prefetch"]
    lines += [
        "",
        f"Parity with the CPU: embeddings differ by {of['embeddings']:.1e} at most, the loss by {of['loss']:.1e}.",
        f"Input: {'on the device' if ahead['on_device'] else 'NOT on the device'} before its step; a step takes "
        f"{ahead['ratio']:.3f} of one whose batch was there.",
        "",
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="GPU:0")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path, help="write the Markdown here")
    arguments = parser.parse_args(argv)
    kind = arguments.device.split(":")[0]
    if not tf.config.list_physical_devices(kind):
        parser.error(f"TensorFlow sees no {kind}; --device CPU:0 rehearses the script without one")
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices(kind)[0])
    found = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "device": details.get("device_name", arguments.device),
        "parity": parity(arguments.device),
        "prefetch": prefetch(arguments.steps, arguments.device),
        "step": step(arguments.steps, arguments.device),
    }
    print(json.dumps(found))
    if arguments.output:
        arguments.output.write_text(report(found), encoding="utf-8")
    if not (found["parity"]["met"] and found["prefetch"]["met"]):  # type: ignore[index]
        raise SystemExit("parity or prefetch: not met")


if __name__ == "__main__":
    main()
