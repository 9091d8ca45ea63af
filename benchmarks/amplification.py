"""What the largest small requests cost the local server: peak and remaining memory, and seconds, for each kind.

    python -m benchmarks.amplification --models models [--clients N] [--only NAME ...]

Starts `python -m vse_tf.serve` on an export in a process of its own, with its default limits, and sends it requests
that are cheap to send and expensive to answer: a million empty strings, images of one pixel and of the most that the
header may announce, texts of 30 MB, JSON that Python holds in many times its size, gzip bombs, errors as long as their
cause. One after another, then all of them from N clients at once (4 by default). Peaks are those of the kernel
(VmHWM). One JSON line goes to stdout, a table to stderr; the exit code is 1 where a request raised memory by more than
LIMIT, memory did not come back to within LEFT, or an answer had an unexpected status. It needs Linux.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import json
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving import photos, serving
from benchmarks.serving_soak import ask, connect

LIMIT = 1e9
LEFT = 200e6
BODY = 32 * 2**20 - 200
TEXT, PHOTO, RETRIEVAL = "text_tower", "image_tower", "retrieval"
# Seconds after an answer until what is left is read.
PAUSE = 0.5

# Model or path, body and headers.
Case = tuple[str, Callable[[], bytes], dict[str, str]]


def repeated(part: bytes, size: int = BODY, before: bytes = b'{"instances": [', after: bytes = b"]}") -> bytes:
    """A body of almost `size` bytes: a list of the same part again and again."""
    return before + b",".join([part] * (size // (len(part) + 1))) + after


def png(side: int) -> bytes:
    """A valid grey PNG of side x side pixels, small as a file: all of them black."""
    row = b"\0" + bytes(side)
    packer = zlib.compressobj(9)
    data = b"".join([packer.compress(row * 64) for _ in range(side // 64)])
    data += packer.compress(row * (side % 64)) + packer.flush()
    chunks = [(b"IHDR", struct.pack(">II5B", side, side, 8, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def b64(contents: bytes) -> bytes:
    """Bytes as the API takes them."""
    return json.dumps({"b64": base64.b64encode(contents).decode()}).encode()


def images(*files: bytes) -> bytes:
    """A request with these image files."""
    return b'{"inputs": [' + b",".join(map(b64, files)) + b"]}"


def zipped(size: int) -> bytes:
    """A gzip file of spaces."""
    return gzip.compress(b" " * size)


def pixels(*shape: int) -> bytes:
    """Images as numbers."""
    values = np.full(shape, 255, np.uint8).tolist()
    return json.dumps({"signature_name": "pixels", "inputs": values}, separators=(",", ":")).encode()


def cases() -> dict[str, Case]:
    """Model (or address), body and headers by name."""
    packed = {"Content-Encoding": "gzip"}
    found: dict[str, tuple[str, Callable[[], bytes]]] = {
        "a million empty strings": (TEXT, lambda: repeated(b'""', 3_000_000)),
        "all the empty strings that fit": (TEXT, lambda: repeated(b'""')),
        "8,192 empty strings": (TEXT, lambda: repeated(b'""', 3 * 8192)),
        "8,192 texts of 3 KB": (TEXT, lambda: repeated(json.dumps("a dog " * 500).encode(), 3003 * 8192)),
        "8,192 searches": (RETRIEVAL, lambda: repeated(b'""', 3 * 8192)),
        "200 texts of 131 KB": (TEXT, lambda: repeated(json.dumps("a " * 65_536).encode(), 131_075 * 200)),
        "a text of 30 MB, words": (TEXT, lambda: repeated(json.dumps("a " * 15_000_000).encode())),
        "a text of 30 MB, no spaces": (TEXT, lambda: repeated(json.dumps("a" * 30_000_000).encode())),
        "a text of 30 MB, Chinese": (
            TEXT,
            lambda: repeated(json.dumps("狗" * 10_000_000, ensure_ascii=False).encode(), 31_000_000),
        ),
        "a text of 30 MB, punctuation": (TEXT, lambda: repeated(json.dumps("." * 30_000_000).encode())),
        "a text of 30 MB, one emoji": (
            TEXT,
            lambda: repeated(json.dumps("a" * 30_000_000 + "\U0001f600", ensure_ascii=False).encode()),
        ),
        "100,000 images that are none": (PHOTO, lambda: repeated(b'{"b64":"aGk="}', 1_500_000)),
        "8,192 images that are none": (PHOTO, lambda: repeated(b'{"b64":"aGk="}', 15 * 8192)),
        "images of one pixel": (PHOTO, lambda: repeated(b64(png(1)))),
        "1,024 images of one pixel": (PHOTO, lambda: images(*[png(1)] * 1024)),
        "one image of 50 megapixels": (PHOTO, lambda: images(png(7071))),
        "five images of 50 megapixels": (PHOTO, lambda: images(*[png(7071)] * 5)),
        "100 images of 50 megapixels": (PHOTO, lambda: images(*[png(7071)] * 100)),
        "32 photos": (PHOTO, lambda: images(*photos(None, 32))),
        "pixels, 224 x 224": (PHOTO, lambda: pixels(45, 224, 224, 3)),
        "pixels, 1 x 1": (PHOTO, lambda: pixels(1_700_000, 1, 1, 3)),
        "pixels, 1,024 of 1 x 1": (PHOTO, lambda: pixels(1024, 1, 1, 3)),
        "pixels, one row longer": (PHOTO, lambda: pixels(45, 224, 224, 3)[:-5] + b",1]]]]}"),
        "JSON of empty lists": (TEXT, lambda: repeated(b"[]")),
        "JSON of lists of one number": (TEXT, lambda: repeated(b"[0]")),
        "JSON of empty objects": (TEXT, lambda: repeated(b"{}")),
        "JSON of objects": (TEXT, lambda: repeated(b'{"a":0}')),
        "JSON of objects elsewhere": (TEXT, lambda: repeated(b'{"a":0}', before=b'{"inputs":["a"],"x":[')),
        "JSON of small numbers": (TEXT, lambda: repeated(b"0")),
        "JSON of decimals": (TEXT, lambda: repeated(b"1.5")),
        "JSON of whole numbers": (TEXT, lambda: repeated(b"999")),
        "JSON of short strings": (TEXT, lambda: repeated(b'"ab"')),
        "JSON of many keys": (
            TEXT,
            lambda: b'{"inputs":["a"],"x":{' + b",".join(b'"%x":0' % at for at in range(2_900_000)) + b"}}",
        ),
        "JSON 16 wide, 5 deep": (TEXT, lambda: repeated(_nest(5), before=b'{"signature_name":', after=b"}")),
        "JSON with half a surrogate pair": (TEXT, lambda: repeated(b'"\\\\ud"')),
        "a signature's name of 30 MB": (
            TEXT,
            lambda: json.dumps({"signature_name": "x" * 30_000_000, "inputs": ["a"]}).encode(),
        ),
        "an input's name of 30 MB": (TEXT, lambda: json.dumps({"instances": [{"x" * 30_000_000: "a"}]}).encode()),
        "the last of many has a wrong type": (TEXT, lambda: repeated(b'"ab"')[:-2] + b",0]}"),
        "nearest to 300,000 brackets": ("/gallery/nearest", lambda: b'{"vector": ' + b"[" * 300_000),
        "nearest to a million bytes": ("/gallery/nearest", lambda: repeated(b"0", 10**6, b'{"vector": [')),
    }
    return {
        **{name: (model, body, {}) for name, (model, body) in found.items()},
        "a gzip bomb of 1 GB": (TEXT, lambda: zipped(10**9), packed),
        "zipped JSON of empty lists": (TEXT, lambda: gzip.compress(repeated(b"[]"), 1), packed),
    }


def _nest(levels: int) -> bytes:
    return b"0" if not levels else b"[" + b",".join([_nest(levels - 1)] * 16) + b"]"


def memory(pid: int) -> tuple[int, int]:
    """Resident memory of a process and its peak, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return tuple(1024 * int(fields[name].split()[0]) for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def send(address: str, case: Case) -> tuple[int, int]:
    """Status and length of the answer; 0 where the connection broke."""
    target, body, headers = case
    target = target if target.startswith("/") else f"/v1/models/{target}:predict"
    with contextlib.closing(connect(address)) as connection:
        connection.timeout = 600
        try:
            connection.request("POST", target, body(), headers)
            response = connection.getresponse()
            return response.status, len(response.read())
        except OSError:
            return 0, 0


def alone(address: str, pid: int, case: Case) -> dict[str, Any]:
    """The cost of one request after another."""
    body = case[1]()
    before, _ = memory(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    start = time.perf_counter()
    status, size = send(address, (case[0], lambda: body, case[2]))
    seconds = time.perf_counter() - start
    time.sleep(PAUSE)
    after, peak = memory(pid)
    return {
        "sent_mb": round(len(body) / 1e6, 2),
        "status": status,
        "answer_mb": round(size / 1e6, 2),
        "seconds": round(seconds, 2),
        "peak_mb": round((peak - before) / 1e6),
        "left_mb": round((after - before) / 1e6),
    }


def together(address: str, pid: int, chosen: list[Case], clients: int) -> dict[str, Any]:
    """The cost of all requests from several clients, each of which begins elsewhere in the list."""
    bodies = [case[1]() for case in chosen]
    before, _ = memory(pid)
    Path(f"/proc/{pid}/clear_refs").write_text("5")

    def work(number: int) -> None:
        first = number * len(chosen) // clients
        for at in (*range(first, len(chosen)), *range(first)):
            send(address, (chosen[at][0], lambda at=at: bodies[at], chosen[at][2]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    time.sleep(PAUSE)
    after, peak = memory(pid)
    return {
        "clients": clients,
        "seconds": round(seconds, 1),
        "peak_mb": round((peak - before) / 1e6),
        "left_mb": round((after - before) / 1e6),
    }


def table(found: dict[str, Any]) -> str:
    """The kinds of request, a row each."""
    head = f"{'request':36} {'sent':>8} {'status':>6} {'seconds':>8} {'peak':>8} {'of limit':>8} {'left':>7}"
    rows = [
        f"{name:36} {each['sent_mb']:5.1f} MB {each['status']:6} {each['seconds']:8.2f} {each['peak_mb']:5,} MB "
        f"{each['peak_mb'] * 1e6 / LIMIT:8.0%} {each['left_mb']:4,} MB"
        for name, each in found["requests"].items()
    ]
    many = found["together"]
    foot = [f"all from {many['clients']} clients at once: peak {many['peak_mb']:,} MB, left {many['left_mb']:,} MB"]
    return "\n".join(
        [head, *rows, *(foot if many["clients"] else []), f"{'within' if found['within'] else 'ABOVE'} the limits"]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark; print its table and its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder that python -m vse_tf.export wrote")
    parser.add_argument("--gallery", type=Path, help="serve this index of python -m vse_tf.embed too")
    parser.add_argument("--clients", type=int, default=4, help="of the last part; 0 leaves it out")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="the kinds whose names hold one of these words")
    arguments = parser.parse_args(argv)
    chosen = {n: case for n, case in cases().items() if not arguments.only or any(word in n for word in arguments.only)}
    options = ["--gallery", str(arguments.gallery)] if arguments.gallery else []
    with serving(arguments.models, *options) as (address, pid):
        with contextlib.closing(connect(address)) as connection:
            served = {name for name in (TEXT, PHOTO, RETRIEVAL) if ask(connection, f"/v1/models/{name}")[0] == 200}
        served |= {"/gallery/nearest"} if arguments.gallery else set()
        chosen = {name: case for name, case in chosen.items() if case[0] in served}
        # What the first requests of each kind leave behind is no growth.
        for case in ((TEXT, lambda: b'{"inputs": ["a"]}', {}), (PHOTO, lambda: images(*photos(None, 8)), {})):
            for _ in range(3):
                send(address, case)
        first, _ = memory(pid)
        requests = {}
        for name, case in chosen.items():
            requests[name] = alone(address, pid, case)
        many = {"clients": 0, "seconds": 0, "peak_mb": 0, "left_mb": 0}
        if arguments.clients:
            many = together(address, pid, list(chosen.values()), arguments.clients)
        last, _ = memory(pid)
    found = {
        "requests": requests,
        "together": many,
        "idle_mb_before_after": [round(first / 1e6), round(last / 1e6)],
        "within": all(each["peak_mb"] * 1e6 <= LIMIT and each["status"] for each in [*requests.values()])
        and many["peak_mb"] * 1e6 <= LIMIT
        and last - first <= LEFT,
    }
    print(table(found), file=sys.stderr)
    print(json.dumps(found))
    sys.exit(not found["within"])


if __name__ == "__main__":
    main()
