"""The package in double precision: a copy with float64 in place of float32, for evidence that only rounding differs."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHANGED = ["vse_tf/models/*.py", "vse_tf/losses/*.py", "vse_tf/data/pipeline.py", "vse_tf/config.py"]

# TensorFlow takes numbers without a type as float32.
START = """
import keras
import tensorflow as tf

keras.config.set_floatx("float64")


def double(value):
    return tf.constant(value, tf.float64) if isinstance(value, float) else value


def with_doubles(function):
    return lambda *args, **options: function(*map(double, args), **options)


def of_doubles(function):
    return lambda shape, dtype=tf.float64, **options: function(shape, dtype, **options)


tf.where, tf.fill = with_doubles(tf.where), with_doubles(tf.fill)
tf.zeros, tf.ones = of_doubles(tf.zeros), of_doubles(tf.ones)
"""


def double_precision(folder: Path) -> Path:
    """Make the copy in a folder; it is for `PYTHONPATH`, and its `tests.training.default_steps` for a new process."""
    for name in ("vse_tf", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copytree(ROOT / "vse_tf" / "data", folder / "vse_tf" / "data", dirs_exist_ok=True)
    for path in (path for pattern in CHANGED for path in folder.glob(pattern)):
        path.write_text(path.read_text().replace("float32", "float64"))
    steps = folder / "tests" / "training" / "default_steps.py"
    before, _, after = steps.read_text().partition("from vse_tf")
    steps.write_text(f"{before}{START}\nfrom vse_tf{after}")
    return folder
