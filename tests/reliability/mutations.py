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

import tensorflow as tf

from tests.preprocessing.test_image_headers import SAMPLES
from vse_tf.preprocessing.image_headers import read_header
from vse_tf.preprocessing.images import decode_centre_view, decode_random_view

MAX_PIXELS = 20_000
# Longer than anything but a hang takes on any machine.
PATIENCE = 120
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

STRING = [tf.TensorSpec([], tf.string)]
centre = tf.function(lambda c: decode_centre_view(c, MAX_PIXELS, (16, 16)), input_signature=STRING)
crop = tf.function(
    lambda c: decode_random_view(c, MAX_PIXELS, (16, 16), (0.08, 1.0), True, tf.constant([1, 2])),
    input_signature=STRING,
)


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


def fuzz(count: int, seed: int) -> dict[str, Any]:
    """Decode damaged files as evaluation and as training do; anything but pixels or a refusal is an error here."""
    draw = random.Random(seed)
    names = sorted(SAMPLES)
    decoded, slowest = 0, 0.0
    for function in (centre, crop):
        function(SAMPLES["png"])
    before = peak_mb()
    for number in range(count):
        contents = damaged(SAMPLES[names[number % len(names)]], draw)
        began = time.perf_counter()
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        good = 0
        for function in (centre, crop):
            try:
                view = function(contents)
            except tf.errors.InvalidArgumentError:
                continue
            assert view.shape == (16, 16, 3)
            assert read_header(contents).pixels <= MAX_PIXELS
            good += 1
        decoded += good == 2
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
