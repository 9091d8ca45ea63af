"""Forward and backward of each objective against their limit, the matrix products that none can avoid.

    python -m benchmarks.losses [--losses NAME…] [--batches B…] [--dim D] [--large B] [--large-dim D] [--repeat N]

Prints one JSON line. The limit is three products of B x B x dim: the similarities, and from their gradient that of the
images and that of the captions. It is measured in the same run, in turns with the objective, on the same vectors: as
one matrix up to `DENSE_ELEMENTS` similarities, above in the same row blocks as the objective. Each objective runs in a
process of its own, the large batch first, so that `extra_mb` is the peak memory of that batch's loss and gradient
beyond the embeddings and their gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.ranking import Peak, resident_mb, unit
from vse_tf.losses.registry import LOSSES


def options() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES, metavar="NAME", help="losses")
    parser.add_argument("--batches", nargs="*", type=int, default=[256, 1024, 4096], help="pairs in a batch")
    parser.add_argument("--dim", type=int, default=1024, help="dimensions of these batches' embeddings")
    parser.add_argument("--large", type=int, default=32768, help="a batch for the blocked form; 0 leaves it out")
    parser.add_argument("--large-dim", type=int, default=256, help="its dimensions")
    parser.add_argument("--repeat", type=int, default=5, help="timed turns; the fastest counts")
    parser.add_argument("--no-mask", action="store_true", help="without the same-image mask")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def bare_products(dense: bool, block_elements: int) -> Callable[..., Any]:
    """Three products of B x B x dim on `(B, dim)` images and captions."""
    import tensorflow as tf  # noqa: PLC0415

    def products(image: tf.Tensor, rows: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        similarities = tf.matmul(rows, text, transpose_b=True)
        return tf.matmul(similarities, text), tf.matmul(similarities, rows, transpose_a=True)

    if dense:
        return tf.function(lambda image, text: products(image, image, text))

    @tf.function
    def blocked(image: tf.Tensor, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        batch = image.shape[0]
        size = max(1, block_elements // batch)
        of_rows = tf.TensorArray(tf.float32, size=-(-batch // size), infer_shape=False)

        def body(i: tf.Tensor, of_rows: tf.TensorArray, of_columns: tf.Tensor) -> tuple:
            a, b = products(image, image[i * size : (i + 1) * size], text)
            return i + 1, of_rows.write(i, a), of_columns + b

        _, of_rows, of_columns = tf.while_loop(
            lambda i, *_: i < -(-batch // size),
            body,
            (0, of_rows, tf.zeros_like(text)),
            parallel_iterations=1,
        )
        return of_rows.concat(), of_columns

    return blocked


def measured(name: str, batch: int, dim: int, repeat: int, masked: bool) -> dict[str, Any]:
    """Seconds of the products and of the objective with its gradient, their ratio, and the extra memory."""
    import tensorflow as tf  # noqa: PLC0415

    from vse_tf import losses  # noqa: PLC0415
    from vse_tf.losses import blockwise  # noqa: PLC0415

    random = np.random.default_rng(0)
    image = unit(random.standard_normal((batch, dim), dtype=np.float32))
    # Captions near their images: every objective has something to tell apart.
    text = unit(image + random.standard_normal((batch, dim), dtype=np.float32) * np.float32(2 / dim**0.5))
    # One image in twenty has a second pair in the batch.
    image_id = tf.constant(random.permutation(np.arange(batch) * 20 // 21).astype(np.float32))
    image, text = tf.constant(image), tf.constant(text)
    loss = losses.build(name, mask_same_image=masked)

    @tf.function
    def with_gradient(image: tf.Tensor, text: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch([image, text])
            value = loss(image_id, tf.stack([image, text], axis=1))
        return [value, *tape.gradient(value, [image, text])]

    dense = batch * batch <= blockwise.DENSE_ELEMENTS
    bare = bare_products(dense, blockwise.BLOCK_ELEMENTS)
    with_gradient.get_concrete_function(image, text)
    with Peak() as peak:
        before = resident_mb()
        with_gradient(image, text)
    bare(image, text)

    def seconds(function: Callable[..., Any]) -> float:
        start = time.perf_counter()
        np.asarray(function(image, text)[-1][0, 0])
        return time.perf_counter() - start

    turns = [(seconds(bare), seconds(with_gradient)) for _ in range(repeat)]
    # The fastest turns: on a busy machine the others measure the neighbours.
    products, ours = (min(times) for times in zip(*turns, strict=True))
    return {
        "loss": name,
        "batch": batch,
        "dim": dim,
        "form": "dense" if dense else "blocked",
        "products_s": round(products, 4),
        "loss_s": round(ours, 4),
        "ratio": round(ours / products, 3),
        "extra_mb": round(peak.mb - before - 2 * batch * dim * 4 / 1e6, 1),
    }


def main() -> None:
    """Run the benchmark and print its JSON line."""
    args = options()
    if not args.here:
        results = []
        for name in args.losses:
            print(f"{name} …", file=sys.stderr)
            command = [sys.executable, "-m", "benchmarks.losses", *sys.argv[1:], "--losses", name, "--here"]
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            results += json.loads(done.stdout.splitlines()[-1])
        print(json.dumps({"cores": os.cpu_count(), "results": results}))
        return
    sizes = [(args.large, args.large_dim)] if args.large else []
    sizes += [(batch, args.dim) for batch in args.batches]
    print(json.dumps([measured(args.losses[0], *size, args.repeat, not args.no_mask) for size in sizes]))


if __name__ == "__main__":
    main()
