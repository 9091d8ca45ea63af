"""One TensorFlow set-up for the whole test run: four logical CPU devices, so that replicas can be tested anywhere."""

import os
import random
import shutil
from functools import lru_cache
from zlib import crc32

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest
import tensorflow as tf

import vse_tf
from tests.tiny import arguments

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
)


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
def tiny_run(tmp_path_factory):
    """A tiny run that many tests read and none changes."""
    from vse_tf import train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tiny") / "run"
    train.main(arguments(folder, train__epochs=1))
    return folder


@pytest.fixture(scope="session")
def corrected_run(tiny_run, tmp_path_factory):
    """The tiny run with the hubness correction, which is switched on after the training. None changes it."""
    from vse_tf import train  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("corrected") / "run"
    shutil.copytree(tiny_run, folder)
    train.main(arguments(folder, train__epochs=1, model__hubness_correction="true"))
    return folder


@pytest.fixture(scope="session")
def tiny_models(tiny_run, tmp_path_factory):
    """Its towers, exported."""
    from vse_tf import export  # noqa: PLC0415

    folder = tmp_path_factory.mktemp("tiny-models")
    export.main(["--run", str(tiny_run), "--output", str(folder)])
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


@pytest.fixture(scope="module")
def loaded_once():
    """Every call of a command loads its model; tests of what it does with it load a model once."""
    from vse_tf import embedder  # noqa: PLC0415

    open_once = lru_cache(embedder.open_run)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(vse_tf, "load", lru_cache(vse_tf.load))
        patched.setattr(embedder, "open_run", lambda run, checkpoint, settings: open_once(run, checkpoint))
        yield
