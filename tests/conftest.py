"""One TensorFlow set-up for the whole test run: four logical CPU devices, so that replicas can be tested anywhere."""

import gc
import os
import random
import shutil
from functools import lru_cache
from pathlib import Path
from zlib import crc32

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as the package does before it imports TensorFlow
# A worker per core is at work; on tiny arrays, more threads in each only wait (9 % less processor time).
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
import pytest
import tensorflow as tf
from filelock import FileLock
from PIL import Image

import vse_tf
from tests.tiny import arguments

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)
# Rewriting a graph takes longer than running it once or twice on tiny arrays. Pruning stays on: whole graphs stay in
# memory as long as the process and take gigabytes. Commands in processes of their own run graphs as users do, and so do
# the tests with the lowest versions.
SLOW_OPTIMIZERS = (
    "arithmetic_optimization",
    "constant_folding",
    "dependency_optimization",
    "implementation_selector",
    "layout_optimizer",
    "loop_optimization",
    "remapping",
    "scoped_allocator_optimization",
    "shape_optimization",
)
if not os.environ.get("VSE_TF_TESTS_GRAPPLER"):
    tf.config.optimizer.set_experimental_options(dict.fromkeys(SLOW_OPTIMIZERS, False))


# A long file that comes last leaves the other workers idle. Of files of the same length the order does not matter.
LONGEST_FIRST = (
    "training/test_no_epochs.py",
    "reliability/test_resume.py",
    "test_docs.py",
    "test_bad_input.py",
    "models/test_feature_cache.py",
    "models/test_backbone_tail.py",
    "training/test_unfreezing.py",
    "test_train.py",
    "test_export.py",
    "training/test_interpolation.py",
    "test_guides.py",
    "training/test_distribution.py",
    "models/test_text_tower.py",
    "data/test_pipeline.py",
    "preprocessing/test_image_headers.py",
    "test_benchmarks.py",
    "artifacts/test_rebuilding.py",
    "training/test_workers.py",
    "reliability/test_packed.py",
    "test_embed.py",
    "losses/test_blockwise.py",
    "test_python_api.py",
    "models/test_gradient_cache.py",
    "models/test_hub_image_tower.py",
    "preprocessing/test_text.py",
    "training/test_auto_settings.py",
    "test_collection.py",
)


def pytest_collection_modifyitems(items):
    """Xdist hands the files out in this order."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(reversed(LONGEST_FIRST), 1)}
    items.sort(key=lambda item: -places.get(item.path, 0))


def pytest_collection_finish():
    """The collector leaves alone what lives as long as the process: each pass over TensorFlow's modules takes 0.5 s."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every test has a random state of its own, the same in every run: now and then, ten random ReLUs are all zero.

    Keras takes the seeds of its initializers from Python's generator. `keras.utils.set_random_seed` would also empty
    TensorFlow's caches of kernels.
    """
    random.seed(crc32(item.nodeid.encode()))


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory):
    """Features are cached by default; not in the home folder of whoever runs the tests."""
    os.environ.setdefault("VSE_TF_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """What one xdist worker makes and all read: `made_once(name, make)` calls `make(folder)` in the first of them."""
    place = tmp_path_factory.getbasetemp()
    place = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "made_once"
    place.mkdir(exist_ok=True)

    def folder_of(name, make):
        made = place / f"{name}.made"
        with FileLock(place / f"{name}.lock"):
            if not made.exists():
                make(place / name)
                made.touch()
        return place / name

    return folder_of


@pytest.fixture(scope="session")
def tiny_run(made_once):
    """A tiny run that many tests read and none changes."""
    from vse_tf import train  # noqa: PLC0415

    return made_once("run", lambda folder: train.main(arguments(folder, train__epochs=1)))


@pytest.fixture(scope="session")
def corrected_run(tiny_run, tmp_path_factory):
    """The tiny run with the hubness correction, which is switched on after the training. None changes it."""
    from vse_tf import train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("corrected") / "run"
    shutil.copytree(tiny_run, folder)
    train.main(arguments(folder, train__epochs=1, model__hubness_correction="true"))
    return folder


@pytest.fixture(scope="session")
def tiny_models(tiny_run, made_once):
    """Its towers, exported."""
    from vse_tf import export  # noqa: PLC0415

    return made_once("models", lambda folder: export.main(["--run", str(tiny_run), "--output", str(folder)]))


@pytest.fixture(scope="session")
def noise_images(tmp_path_factory):
    """A folder of twelve image files of noise. None changes it."""
    folder = tmp_path_factory.mktemp("noise_images")
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="session")
def bert_preset(tmp_path_factory):
    """A preset's folder: a random BERT of one layer with its tokenizer. None changes it."""
    import keras_hub  # noqa: PLC0415 (13 s)

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, "a", "the", "red", "green", "blue", "circle", "square", "left", "right", "dog", "##s", "."]
    folder = str(tmp_path_factory.mktemp("preset") / "bert")
    tf.keras.utils.set_random_seed(3)
    keras_hub.models.BertBackbone(len(words), 1, 2, 16, 32, max_sequence_length=32).save_to_preset(folder)
    keras_hub.tokenizers.BertTokenizer(words, lowercase=True).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def dual_presets(made_once):
    """Folders of tiny presets that compare images with texts, `clip` and `siglip`. None changes them."""
    from tests import dual_presets as presets  # noqa: PLC0415

    writers = {"clip": presets.write_clip, "siglip": presets.write_siglip}
    return {name: made_once(f"preset_{name}", write) for name, write in writers.items()}


@pytest.fixture(scope="module")
def loaded_once():
    """Every call of a command loads its model; tests of what it does with it load a model once."""
    from vse_tf import embedder  # noqa: PLC0415

    open_once = lru_cache(embedder.open_run)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vse_tf, "load", lru_cache(vse_tf.load))
        patched.setattr(embedder, "open_run", lambda run, checkpoint, settings: open_once(run, checkpoint))
        yield
