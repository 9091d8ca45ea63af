"""Where people wait, against `import tensorflow` in the same run: a search in words, and a server's first answers.

    python -m benchmarks.waiting [--vectors N] [--repeat R] [--run RUN]

It trains a run of the built-in shapes for a few steps, exports it, and writes an index of synthetic vectors by each
model. Then it measures in turn, each in a process of its own: `import tensorflow`; `search` in words with the run, and
with the exported models; `serve` until its page and until the first text are answered, of the exported models with a
gallery, and of the run with a folder of images that is embedded already. Prints one JSON object: the least seconds and
the least processor time of each, and their ratios to those of `import tensorflow`. Processor time holds on a machine
that does other work; that of a server contains what it has loaded of the image tower by then.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.search import CLUSTERS, draw
from benchmarks.serving import cpu_seconds
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.indexing.embedding import EmbeddingModel
from vse_tf.indexing.embedding_models import ExportedModel, RunModel

TRAINING = ("--data.shapes.train_scenes", "512", "--data.shapes.gallery_scenes", "64", "--train.epochs", "1")
QUIET = ("--train.examples", "0", "--train.projector", "0")
QUERY = "a red circle left of a blue star"
PHOTOS = 8

Measured = dict[str, float]


def vse_tf(*arguments: object) -> list[str]:
    """The arguments of a command of the package."""
    return [sys.executable, "-m", "vse_tf", *map(str, arguments)]


def ended(command: list[str]) -> Measured:
    """Seconds and processor time of a process, from its start to its end.

    Raises:
        SystemExit: it failed.
    """
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return {"seconds": seconds, "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def served(command: list[str]) -> Measured:
    """Seconds until a server answers for its page and until it answers a text, and the processor time until then.

    Raises:
        SystemExit: it ended before.
    """
    started = time.perf_counter()
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*command, "--port", "0"], text=True, **pipes) as server:
        try:
            assert server.stdout is not None
            address = next((line.split()[2] for line in server.stdout if line.startswith("serving at ")), None)
            if address is None:
                raise SystemExit(f"{' '.join(command)} does not serve:\n{server.communicate()[1]}")
            with urllib.request.urlopen(address, timeout=60) as answer:
                answer.read()
            page = time.perf_counter() - started
            body = json.dumps({"instances": [QUERY]}).encode()
            with urllib.request.urlopen(f"{address}/v1/models/text_tower:predict", body, timeout=60) as answer:
                answer.read()
            return {"page_s": page, "seconds": time.perf_counter() - started, "cpu_s": cpu_seconds(server.pid)}
        finally:
            server.kill()


def write_index(folder: Path, model: EmbeddingModel, vectors: int) -> Path:
    """An index of synthetic vectors that says it was made by this model."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLUSTERS, model.dim), dtype=np.float32)
    writer = IndexWriter(folder, "captions", model.dim)
    items = (Item(str(row), caption=f"vector {row}") for row in range(vectors))
    writer.commit([writer.write(draw(vectors, centres, 0.6, random))], items, model.identity)
    return folder


def prepared(folder: Path, run: Path | None, vectors: int) -> dict[str, Callable[[], Measured]]:
    """What is measured, by name; run, exported models, indexes and images are in the folder."""
    if run is None:
        run = folder / "run"
        ended(vse_tf("train", *TRAINING, *QUIET, "--train.run_dir", run))
    models, photos, index = folder / "models", folder / "photos", folder / "photos.index"
    ended(vse_tf("export", "--run", run, "--output", models))
    of_run = write_index(folder / "run.index", RunModel(run), vectors)
    of_models = write_index(folder / "models.index", ExportedModel(models), vectors)
    photos.mkdir()
    random = np.random.default_rng(0)
    for number in range(PHOTOS):
        Image.fromarray(random.integers(0, 255, (48, 48, 3), np.uint8)).save(photos / f"{number}.png")
    ended(vse_tf("embed", "--run", run, "--images", photos, "--output", index))
    search = ("search", QUERY, "--index")
    return {
        "import_tensorflow": lambda: ended([sys.executable, "-c", "import tensorflow"]),
        "search_run": lambda: ended(vse_tf(*search, of_run, "--run", run)),
        "search_models": lambda: ended(vse_tf(*search, of_models, "--models", models)),
        "serve_models": lambda: served(vse_tf("serve", "--models", models, "--gallery", of_models)),
        "serve_run": lambda: served(vse_tf("serve", "--run", run, "--images", photos, "--index", index)),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark and print its JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=int, default=10_000, help="rows of the index")
    parser.add_argument("--repeat", type=int, default=3, help="how often each is measured; the least counts")
    parser.add_argument("--run", type=Path, help="measure this run (default: one that is trained here)")
    arguments = parser.parse_args(argv)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VSE_TF_CACHE"] = str(Path(folder) / "cache")
        measures = prepared(Path(folder), arguments.run, arguments.vectors)
        taken: dict[str, list[Measured]] = {name: [] for name in measures}
        for _ in range(arguments.repeat):
            for name, measure in measures.items():
                taken[name].append(measure())
    least = {name: {key: min(each[key] for each in found) for key in found[0]} for name, found in taken.items()}
    limit = least["import_tensorflow"]
    results = {
        name: {
            **{key: round(value, 2) for key, value in found.items()},
            "ratio": round(found["seconds"] / limit["seconds"], 3),
            "cpu_ratio": round(found["cpu_s"] / limit["cpu_s"], 3),
        }
        for name, found in least.items()
    }
    print(json.dumps({"vectors": arguments.vectors, "repeat": arguments.repeat, **results}))


if __name__ == "__main__":
    main()
