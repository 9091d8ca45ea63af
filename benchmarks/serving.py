"""What answering over HTTP costs against calling the SavedModel in the same process, and what batching gains.

    python -m benchmarks.serving --models models [--photos FOLDER] [--seconds S] [--clients N ...]
    python -m benchmarks.serving --url http://HOST:8501 [--photos FOLDER] [--seconds S] [--clients N ...]

With `--url`, any server of TensorFlow Serving's REST API is measured as it stands, over HTTP alone. Otherwise it
starts `python -m vse_tf.serve` on an export's towers in a process of its own and prints one JSON line. For texts and
for images, at 1, 8 and 32 clients: requests a second and the median and 99th percentile of their latency over HTTP, the
same with as many threads that call the SavedModel in this process, and the ratio of the two rates; `cpu_ms` is the
processor time of a request in the process that answers it, client not counted. `one` is one input a request, `many` is
32. `scheduler` joins the single inputs of the most clients by TensorFlow's own batch scheduler,
the one in TensorFlow Serving, for some settings of export/batching_params.pbtxt.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

from vse_tf.serving.loading import load_version
from vse_tf.serving.model_config import version_folders
from vse_tf.serving.servable import Servable

MANY = 32
TEXTS = [
    f"a {size} {colour} dog is running {where} with a {thing} in its mouth"
    for size in ("small", "big", "young")
    for colour in ("brown", "black", "white", "spotted")
    for where in ("through the snow", "on a beach", "over green grass")
    for thing in ("stick", "ball", "frisbee")
]
# Rows of settings: most inputs in a batch, microseconds that an incomplete one waits, threads.
SCHEDULES = [(16, 0, 2), (16, 2000, 2), (32, 0, 2), (32, 1000, 2), (32, 2000, 2), (32, 5000, 2), (32, 2000, 1)]

Call = Callable[[int], Any]


def photos(folder: str | None, count: int = 32) -> list[bytes]:
    """JPEG files: those of a folder, or drawn ones of a photo's width, height and bytes."""
    if folder:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
        return [path.read_bytes() for path in paths[:count]]
    drawn = []
    random = np.random.default_rng(0)
    for _ in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), np.uint8))
        file = io.BytesIO()
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        drawn.append(file.getvalue())
    return drawn


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used (0 where the system does not tell)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(
    callers: int, seconds: float, pid: int, call_of: Callable[[], contextlib.AbstractContextManager[Call]]
) -> dict[str, float]:
    """Measure a number of callers that call again as soon as their last call has returned; `pid` does the work."""
    latencies: list[list[float]] = [[] for _ in range(callers)]
    ready, end = threading.Barrier(callers + 1), threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with call_of() as call:
                call(number)
                ready.wait()
                for at in itertools.count(number * 7):
                    if end.is_set():
                        return
                    start = time.perf_counter()
                    call(at)
                    latencies[number].append(time.perf_counter() - start)
        except BaseException as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
    start, used = time.perf_counter(), cpu_seconds(pid)
    time.sleep(0 if failures else seconds)
    end.set()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    spent, used = time.perf_counter() - start, cpu_seconds(pid) - used
    every = np.concatenate([np.array(each) for each in latencies]) * 1e3
    return {
        "per_s": round(len(every) / spent, 1),
        "p50_ms": round(float(np.percentile(every, 50)), 2),
        "p99_ms": round(float(np.percentile(every, 99)), 2),
        "cpu_ms": round(used / len(every) * 1e3, 2),
    }


@contextlib.contextmanager
def serving(models: Path, *options: str) -> Iterator[tuple[str, int]]:
    """The local server on a free port; gives its address and process."""
    command = [sys.executable, "-m", "vse_tf.serve", "--models", str(models), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("serving at "):
                    break
            else:
                raise SystemExit(f"the server did not start; run {' '.join(command[1:])}")
            yield line.split()[2], process.pid
        finally:
            process.terminate()


def over_http(address: str, model: str, bodies: list[bytes]) -> Callable[[], contextlib.AbstractContextManager[Call]]:
    """Calls that send one of the bodies over one connection."""
    parts = urlsplit(address)

    @contextlib.contextmanager
    def connect() -> Iterator[Call]:
        with contextlib.closing(http.client.HTTPConnection(parts.hostname or "", parts.port)) as connection:

            def call(at: int) -> None:
                connection.request("POST", f"/v1/models/{model}:predict", bodies[at % len(bodies)])
                response = connection.getresponse()
                answer = response.read()
                if response.status != 200:
                    raise RuntimeError(f"{response.status}: {answer[:300]!r}")

            yield call

    return connect


def in_process(model: Servable, batches: list[np.ndarray], run: Any = None) -> Callable[[], Any]:
    """Calls of the SavedModel, or of `run` on its first argument, without HTTP."""
    (name,) = model.inputs("serving_default")

    def call(at: int) -> None:
        if run is None:
            model.run("serving_default", {name: batches[at % len(batches)]})
        else:
            run(tf.constant(batches[at % len(batches)], tf.string)).numpy()

    return lambda: contextlib.nullcontext(call)


def scheduled(model: Servable, most: int, wait_us: int, threads: int) -> Any:
    """The model's function behind TensorFlow's batch scheduler."""
    function = model.functions["serving_default"]
    (name,) = model.inputs("serving_default")
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= most]

    @tf.nondifferentiable_batch_function(threads, most, wait_us, sizes, max_enqueued_batches=1000)
    def joined(values: tf.Tensor) -> tf.Tensor:
        return function(**{name: values})["embedding"]

    def named(values: tf.Tensor) -> tf.Tensor:
        # Schedulers of one name are one scheduler.
        with tf.name_scope(f"{name}_{most}_{wait_us}_{threads}"):
            return joined(values)

    return tf.function(named, input_signature=[tf.TensorSpec([None], tf.string)])


def measure(
    server: tuple[str, int], name: str, model: Servable | None, inputs: list[Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """All figures of one tower; without its model, those over HTTP."""
    address, pid = server
    coded = [{"b64": base64.b64encode(each).decode()} if name == "image_tower" else each for each in inputs]
    plain = [each if isinstance(each, bytes) else each.encode() for each in inputs]
    result: dict[str, Any] = {}
    for kind, size in (("one", 1), ("many", MANY)):
        groups = [[(start + at) % len(inputs) for at in range(size)] for start in range(0, len(inputs), size)]
        bodies = [json.dumps({"inputs": [coded[at] for at in group]}).encode() for group in groups]
        batches = [np.array([plain[at] for at in group], object) for group in groups]
        result[kind] = {}
        for clients in arguments.clients if kind == "one" else arguments.clients[:1]:
            http_figures = load(clients, arguments.seconds, pid, over_http(address, name, bodies))
            result[kind][str(clients)] = {"http": http_figures}
            if model is None:
                del http_figures["cpu_ms"]  # of a process that may be on another machine
                continue
            direct = load(clients, arguments.seconds, os.getpid(), in_process(model, batches))
            ratio = round(http_figures["per_s"] / direct["per_s"], 3)
            result[kind][str(clients)] |= {"in_process": direct, "ratio": ratio}
    if model is None:
        return result
    result["scheduler"] = []
    singles = [np.array([each], object) for each in plain]
    for most, wait_us, threads in SCHEDULES:
        run = scheduled(model, most, wait_us, threads)
        for size in (size for size in (1, 2, 4, 8, 16, 32) if size <= most):
            run(tf.constant((plain * size)[:size], tf.string))
        figures = load(arguments.clients[-1], arguments.seconds, os.getpid(), in_process(model, singles, run))
        settings = {"max_batch_size": most, "batch_timeout_micros": wait_us, "num_batch_threads": threads}
        result["scheduler"].append({**settings, **figures})
    return result


def main() -> None:
    """Run the benchmark and print its JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="models", help="folder that python -m vse_tf.export wrote")
    parser.add_argument("--url", help="address of a server that runs already, with text_tower and image_tower")
    parser.add_argument("--photos", help="folder of JPEG files (default: drawn ones of 500 x 375 pixels)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of every measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    arguments = parser.parse_args()
    models = Path(arguments.models)
    result: dict[str, Any] = {"cores": os.cpu_count(), "seconds": arguments.seconds}
    with contextlib.nullcontext((arguments.url, 0)) if arguments.url else serving(models) as server:
        for name, inputs in (("text_tower", TEXTS), ("image_tower", photos(arguments.photos))):
            model = None if arguments.url else load_version(*max(version_folders(models / name).items()))
            result[name] = measure(server, name, model, inputs, arguments)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
