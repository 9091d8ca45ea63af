"""A TensorFlow process that can import neither this package nor Keras loads SavedModels and writes their answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = """
import json, sys
for name in ("keras", "keras_hub", "vse_tf", "tensorflow_text", "tf_keras"):
    sys.modules[name] = None  # importing it would fail
import numpy as np
import tensorflow as tf
for line in open(sys.argv[1]):
    job = json.loads(line)
    run = tf.saved_model.load(job["folder"]).signatures[job["signature"]]
    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {name: file[name] for name in file.files}
    tensors = {
        name: tf.constant([bytes(row[1:row[0] + 1].astype(np.uint8)) for row in value]) if job["strings"] else value
        for name, value in inputs.items()
    }
    answer = {name: value.numpy() for name, value in run(**tensors).items()}
    np.savez(job["outputs"], **{n: v.astype(str) if v.dtype == object else v for n, v in answer.items()})
"""


def answers(requests: list[tuple[Path, str, dict[str, np.ndarray]]], scratch: Path) -> list[dict[str, np.ndarray]]:
    """The answers of a fresh process.

    Args:
        requests: version folder, signature, inputs.
        scratch: folder for what passes between the processes.
    """
    jobs = []
    for number, (folder, signature, inputs) in enumerate(requests):
        strings = any(value.dtype == object for value in inputs.values())
        np.savez(scratch / f"in{number}.npz", **{n: _packed(v) if strings else v for n, v in inputs.items()})
        paths = {"inputs": str(scratch / f"in{number}.npz"), "outputs": str(scratch / f"out{number}.npz")}
        jobs.append({"folder": str(folder), "signature": signature, "strings": strings, **paths})
    (scratch / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", SCRIPT, str(scratch / "jobs.jsonl")]
    done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [dict(np.load(job["outputs"], allow_pickle=False)) for job in jobs]


def _packed(strings: np.ndarray) -> np.ndarray:
    """Byte strings as one array of numbers: length, then bytes."""
    width = max(len(value) for value in strings)
    rows = [[len(value), *value, *[0] * (width - len(value))] for value in strings]
    return np.array(rows, np.int64)
