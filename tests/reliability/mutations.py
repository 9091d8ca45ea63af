"""Image files damaged at random: what decoding makes of them, and what it costs.

`python -m tests.reliability.mutations COUNT SEED` prints one JSON line: how many were tried, decoded and refused, the
slowest one, and by how much the process grew.
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.preprocessing.test_image_headers import SAMPLES
from vse_tf.preprocessing.image_formats import LAYOUT
from vse_tf.preprocessing.image_headers import checked_header
from vse_tf.preprocessing.images import decode_centre_view
from vse_tf.preprocessing.view import ImageView

MAX_PIXELS = 20_000
# Longer than anything but a hang takes on any machine.
PATIENCE = 120
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

STRING = tf.TensorSpec([], tf.string)
VIEW = ImageView((16, 16), random_crop=True, flip=True, max_pixels=MAX_PIXELS)
SEED = tf.constant([1, 2])
exported = tf.function(lambda c: decode_centre_view(c, MAX_PIXELS, (16, 16)), input_signature=[STRING])
centre = VIEW.traced(STRING, LAYOUT)
crop = VIEW.traced(STRING, LAYOUT, tf.TensorSpec([2], tf.int32))


def damaged(contents: bytes, draw: random.Random) -> bytes:
    """A few bytes changed, put in, taken out or repeated, mostly in the header; a PNG's check sum is often mended."""
    data = bytearray(contents)
    for _ in range(draw.randint(1, 5)):
        at = draw.randrange(min(len(data), draw.choice([30, 60, 200, 2000, len(data)]))) if data else 0
        kind = draw.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([draw.randrange(256)])
        elif kind == 1:
            size = draw.choice([1, 2, 4])
            number = draw.choice(NUMBERS) & ((1 << 8 * size) - 1)
            data[at : at + size] = number.to_bytes(size, draw.choice(["little", "big"]))
        elif kind == 2:
            del data[at : at + draw.choice([1, 2, 4, 50])]
        elif kind == 3:
            data[at:at] = draw.randbytes(draw.choice([1, 3, 40]))
        elif kind == 4:
            data[at:at] = data[at : at + draw.choice([4, 30, 300])]
        elif kind == 5:
            other = draw.choice(list(SAMPLES.values()))
            data[at : at + 20] = other[at : at + 20]
        else:
            del data[draw.randrange(len(data)) if data else 0 :]
    if data[:4] == b"\x89PNG" and len(data) > 33 and draw.random() < 0.7:
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def peak_mb() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: there a process begins with the peak of the one that started it.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def views(contents: bytes) -> list[np.ndarray | None]:
    """The view of an exported model, which reads the header in its graph, and those of evaluation and training."""
    found: list[np.ndarray | None] = []
    try:
        layout = tf.constant(checked_header(contents, MAX_PIXELS).layout, tf.int64)
    except ValueError:
        layout = None
    for function, inputs in ((exported, ()), (centre, (layout,)), (crop, (layout, SEED))):
        try:
            refused = inputs and layout is None
            found.append(None if refused else function(tf.constant(contents), *inputs).numpy())
        except tf.errors.InvalidArgumentError:
            found.append(None)
    return found


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Decode damaged files in all three ways; anything but pixels or a refusal is an error here."""
    draw = random.Random(seed)
    names = sorted(SAMPLES)
    decoded, slowest = 0, 0.0
    views(SAMPLES["png"])
    before = peak_mb()
    for number in range(count):
        contents = damaged(SAMPLES[names[number % len(names)]], draw)
        began = time.perf_counter()
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        of_graph, of_python, cropped = views(contents)
        for view in (of_graph, of_python, cropped):
            if view is not None:
                assert view.shape == (16, 16, 3)
                assert checked_header(contents, MAX_PIXELS).pixels <= MAX_PIXELS
        np.testing.assert_array_equal(of_graph, of_python)
        decoded += of_python is not None and cropped is not None
        slowest = max(slowest, time.perf_counter() - began)
    faulthandler.cancel_dump_traceback_later()
    grown = peak_mb() - before
    return {
        "mutations": count,
        "seed": seed,
        "decoded": decoded,
        "refused": count - decoded,
        "slowest_ms": round(1000 * slowest, 1),
        "grown_mb": round(grown, 1),
    }


if __name__ == "__main__":
    print(json.dumps(fuzz(int(sys.argv[1]), int(sys.argv[2]))))
