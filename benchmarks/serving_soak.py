"""The local server under a crowd of good, bad and rude clients, its process watched: no wrong answer, no growth.

    python -m benchmarks.serving_soak --models models [--gallery INDEX] [--minutes M] [--clients N] [--seed S]

Starts `python -m vse_tf.serve` on an export in a process of its own and lets N clients (8 by default) send mixed
requests for M minutes (5 by default): texts and images to the towers and, if exported, to the retrieval
model and the gallery; and what must be refused: broken JSON and gzip, bodies and images above their limits, damaged
photos, unknown models, signatures, versions and pages, ways out of the folder. Some hang up in the middle of a request.
Every status code is checked, and vectors and scores against those that the same input had alone at the beginning. The
process is sampled every second. A table of the kinds of request goes to stderr, one JSON line to stdout; the exit code
is 1 where an answer was wrong or memory, open files or threads grew. It needs Linux, as `benchmarks.soak` does.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import random
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving import TEXTS, photos, serving
from benchmarks.soak import Sample, growth, look

LIMIT = 2**20
CLOSE = 1e-4
# A client that has seen so much go wrong need not see more.
ENOUGH = 20
PHOTO = "image_tower"
TEXT = "text_tower"
RETRIEVAL = "retrieval"


@dataclass(frozen=True)
class Request:
    """A request and what has to come back.

    Args:
        method: its method.
        target: its path.
        body: its body.
        status: the expected status code.
        rows: vectors or scores that the answer must hold; None where the code says it all.
        headers: more headers.
        sent: number of bytes of the body that are sent before the client hangs up.
    """

    method: str
    target: str
    body: bytes | None = None
    status: int = 200
    rows: np.ndarray | None = None
    headers: dict[str, str] = field(default_factory=dict)
    sent: int | None = None


@dataclass
class Tally:
    """What one client has seen: requests and the slowest answer by kind, and what was wrong."""

    count: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


Make = Callable[[random.Random], Request]


def predict(model: str, document: Any, **expected: Any) -> Request:
    """A request to a model; what is no bytes is sent as JSON."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Request("POST", f"/v1/models/{model}:predict", body, **expected)


def values_of(answer: bytes) -> np.ndarray:
    """The vectors or scores in an answer, a row an input."""
    outputs = json.loads(answer)["outputs"]
    return np.array(outputs["scores"] if isinstance(outputs, dict) else outputs, np.float64)


def bomb() -> bytes:
    """A PNG whose header promises 3.6 gigapixels."""
    header = struct.pack(">II5B", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class Mix:
    """Makes the requests, of every kind equally often.

    Args:
        address: of the server, which is asked about every input once.
        gallery: it serves a gallery.
    """

    def __init__(self, address: str, gallery: bool) -> None:
        self.address = address
        self.files = [{"b64": base64.b64encode(photo).decode()} for photo in photos(None, 16)]
        with contextlib.closing(connect(address)) as connection:
            models = {name for name in (TEXT, PHOTO, RETRIEVAL) if ask(connection, f"/v1/models/{name}")[0] == 200}
            facts = json.loads(ask(connection, "/gallery")[1]) if gallery else {}
        if not {TEXT, PHOTO} <= models:
            raise SystemExit("--models: text_tower and image_tower are needed; python -m vse_tf.export writes them")
        inputs = {TEXT: (TEXT, "", TEXTS), PHOTO: (PHOTO, "", self.files)}
        if RETRIEVAL in models:
            inputs["retrieval of texts"] = (RETRIEVAL, "search_text", TEXTS)
            inputs["retrieval of photos"] = (RETRIEVAL, "search_image", self.files)
        self.kinds = {kind: self._good(*given) for kind, given in inputs.items()}
        self.kinds |= {kind: _always(request) for kind, request in self._others(models).items()}
        self.kinds |= {"random bytes": self._noise, "damaged photo": self._damaged, "hangs up": self._hangs_up}
        if facts:
            self.kinds |= self._gallery(facts)

    def _good(self, model: str, signature: str, inputs: list[Any]) -> Make:
        named = {"signature_name": signature} if signature else {}
        alone = []
        with contextlib.closing(connect(self.address)) as connection:
            for each in inputs:
                request = predict(model, {**named, "inputs": [each]})
                status, answer = ask(connection, request.target, request.body)
                if status != 200:
                    raise SystemExit(f"{model}: {status}: {answer[:300]!r}")
                alone.append(values_of(answer)[0])
        expected = np.stack(alone)

        def make(chance: random.Random) -> Request:
            chosen = [chance.randrange(len(inputs)) for _ in range(chance.randint(1, 4))]
            return predict(model, {**named, "inputs": [inputs[at] for at in chosen]}, rows=expected[chosen])

        return make

    def _others(self, models: set[str]) -> dict[str, Request]:
        big = b'{"inputs": ["' + b"a" * LIMIT + b'"]}'
        zipped = {"Content-Encoding": "gzip"}
        return {
            "status": Request("GET", f"/v1/models/{TEXT}"),
            "metadata": Request("GET", f"/v1/models/{PHOTO}/metadata"),
            "zipped": predict(TEXT, gzip.compress(b'{"inputs": ["a dog"]}'), headers=zipped),
            "broken JSON": predict(TEXT, b'{"inputs": [', status=400),
            "deep JSON": predict(TEXT, b"[" * 20_000, status=400),
            "wrong type": predict(TEXT, {"inputs": [1, 2]}, status=400),
            "unknown signature": predict(TEXT, {"signature_name": "x", "inputs": ["a"]}, status=400),
            "no photo": predict(PHOTO, {"inputs": [{"b64": "aGk="}]}, status=400),
            "bomb": predict(PHOTO, {"inputs": [{"b64": base64.b64encode(bomb()).decode()}]}, status=400),
            "good with a bad one": predict(PHOTO, {"inputs": [self.files[0], {"b64": "aGk="}]}, status=400),
            "broken gzip": predict(TEXT, gzip.compress(b"{}" * 100)[:-9], status=400, headers=zipped),
            "large when inflated": predict(TEXT, gzip.compress(big), status=413, headers=zipped),
            "too large": predict(TEXT, big, status=413),
            "unknown model": predict("nope", {"inputs": ["a"]}, status=404),
            "unknown version": Request("GET", f"/v1/models/{TEXT}/versions/999999", status=404),
            "wrong method": Request("DELETE", f"/v1/models/{TEXT}", status=400),
            "out of the folder": Request("GET", "/v1/models/..%2f..%2fetc%2fpasswd", status=404),
            "foreign page": Request("GET", f"/v1/models/{TEXT}", status=403, headers={"Origin": "https://example.org"}),
            "foreign host": Request("GET", f"/v1/models/{TEXT}", status=403, headers={"Host": "example.org"}),
            "too many inputs": predict(TEXT, {"inputs": [""] * 10_000}, status=413),
            "unknown page": Request("GET", "/page/../../setup.cfg", status=404),
        }

    def _noise(self, chance: random.Random) -> Request:
        return predict(TEXT, chance.randbytes(chance.randint(1, 3000)), status=400)

    def _damaged(self, chance: random.Random) -> Request:
        photo = base64.b64decode(chance.choice(self.files)["b64"])
        cut = base64.b64encode(photo[: chance.randint(4, len(photo) // 2)]).decode()
        return predict(PHOTO, {"inputs": [{"b64": cut}]}, status=400)

    def _hangs_up(self, chance: random.Random) -> Request:
        body = json.dumps({"inputs": [chance.choice(self.files)]}).encode()
        return predict(PHOTO, body, sent=chance.randrange(len(body)))

    def _gallery(self, facts: dict[str, Any]) -> dict[str, Make]:
        def nearest(chance: random.Random) -> Request:
            asked = {"row": chance.randrange(facts["count"]), "k": chance.randint(1, 50)}
            return Request("POST", "/gallery/nearest", json.dumps(asked).encode())

        def thumbnail(chance: random.Random) -> Request:
            return Request("GET", f"/gallery/thumbnails/{chance.randrange(facts['count'])}")

        pictures: dict[str, Make] = {"thumbnail": thumbnail} if facts["kind"] == "images" else {}
        return {
            "page": _always(Request("GET", "/")),
            "nearest": nearest,
            "nearest to nothing": _always(Request("POST", "/gallery/nearest", b'{"vector": [0]}', 400)),
            "no such thumbnail": _always(Request("GET", "/gallery/thumbnails/999999999", status=404)),
            **pictures,
        }


def _always(request: Request) -> Make:
    return lambda chance: request


def connect(address: str) -> http.client.HTTPConnection:
    """A connection to the server."""
    parts = urlsplit(address)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)


def ask(connection: http.client.HTTPConnection, target: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of an answer."""
    connection.request("POST" if body else "GET", target, body)
    response = connection.getresponse()
    return response.status, response.read()


def send(connection: http.client.HTTPConnection, request: Request) -> str:
    """Send a request; what was wrong with the answer, or nothing."""
    if request.sent is not None and request.body is not None:
        connection.putrequest(request.method, request.target)
        connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body[: request.sent])
        connection.close()
        return ""
    connection.request(request.method, request.target, request.body, request.headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != request.status:
        return f"{response.status} in place of {request.status}: {answer[:300]!r}"
    if request.rows is not None:
        found = values_of(answer)
        if found.shape != request.rows.shape or not np.allclose(found, request.rows, atol=CLOSE, rtol=0):
            return f"other values than alone: {answer[:300]!r}"
    return ""


def client(mix: Mix, seed: str, end: threading.Event, tally: Tally) -> None:
    """Send requests, each as soon as the last one is answered, until the end."""
    chance = random.Random(seed)
    kinds = list(mix.kinds)
    with contextlib.closing(connect(mix.address)) as connection:
        while not end.is_set() and len(tally.wrong) < ENOUGH:
            kind = chance.choice(kinds)
            request = mix.kinds[kind](chance)
            start = time.perf_counter()
            try:
                wrong = send(connection, request)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                wrong = repr(error)
            tally.count[kind] = tally.count.get(kind, 0) + 1
            tally.slowest[kind] = max(tally.slowest.get(kind, 0.0), time.perf_counter() - start)
            if wrong:
                tally.wrong.append(f"{kind}: {wrong}")


def soak(models: Path, gallery: Path | None, minutes: float, clients: int, seed: int) -> dict[str, Any]:
    """The figures of a soak."""
    options = ["--max-body-bytes", str(LIMIT), *(["--gallery", str(gallery)] if gallery else [])]
    with serving(models, *options) as (address, pid):
        mix = Mix(address, gallery is not None)
        began, end = time.monotonic(), threading.Event()
        before = look(pid, began)
        tallies = [Tally() for _ in range(clients)]
        threads = [
            threading.Thread(target=client, args=(mix, f"{seed}/{number}", end, tally))
            for number, tally in enumerate(tallies)
        ]
        for thread in threads:
            thread.start()
        samples: list[Sample] = []
        try:
            while time.monotonic() - began < 60 * minutes and any(thread.is_alive() for thread in threads):
                time.sleep(min(1.0, 6 * minutes))
                samples.append(look(pid, began))
        finally:
            end.set()
            for thread in threads:
                thread.join()
        seconds = time.monotonic() - began
        left = settled(pid, before.files, began)
    wrong = [each for tally in tallies for each in tally.wrong]
    count = {kind: sum(tally.count.get(kind, 0) for tally in tallies) for kind in mix.kinds}
    slowest = {kind: max(tally.slowest.get(kind, 0.0) for tally in tallies) for kind in mix.kinds}
    requests = sum(count.values())
    found, flat = growth(samples)
    return {
        "minutes": round(seconds / 60, 1),
        "clients": clients,
        "seed": seed,
        "requests": requests,
        "per_s": round(requests / seconds, 1),
        "kinds": {k: {"requests": count[k], "slowest_ms": round(1e3 * slowest[k], 1)} for k in sorted(count)},
        "wrong": len(wrong),
        "wrong_first": wrong[:10],
        **found,
        "idle_mb_before_after": [round(before.mb, 1), round(left.mb, 1)],
        "idle_files_before_after": [before.files, left.files],
        "flat": flat and left.files <= before.files,
    }


def settled(pid: int, files: int, began: float) -> Sample:
    """A look at the process when it has closed what the clients have left, or has not after ten seconds."""
    for _ in range(100):
        found = look(pid, began)
        if found.files <= files:
            break
        time.sleep(0.1)
    return found


def table(found: dict[str, Any]) -> str:
    """The kinds of request, a row each."""
    rows = [
        f"{kind:22} {figures['requests']:9,} {figures['slowest_ms']:12,.0f} ms"
        for kind, figures in found["kinds"].items()
    ]
    head = f"{'kind':22} {'requests':>9} {'slowest':>15}"
    foot = f"{'all':22} {found['requests']:9,}   {found['wrong']} wrong; {'flat' if found['flat'] else 'NOT FLAT'}"
    return "\n".join([head, *rows, foot, *found["wrong_first"]])


def main(argv: list[str] | None = None) -> None:
    """Run the soak; print its table and its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder that python -m vse_tf.export wrote")
    parser.add_argument("--gallery", type=Path, help="serve this index of python -m vse_tf.embed too")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the clients' choices")
    arguments = parser.parse_args(argv)
    found = soak(arguments.models, arguments.gallery, arguments.minutes, arguments.clients, arguments.seed)
    print(table(found), file=sys.stderr)
    print(json.dumps(found))
    sys.exit(bool(found["wrong"]) or not found["flat"])


if __name__ == "__main__":
    main()
