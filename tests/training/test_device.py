"""What a GPU needs, tested without one: no fetches between log steps, input on the device, the right kernels."""

import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from tests.tiny import arguments
from vse_tf import train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import DistributionSettings, Settings, TextSettings, TrainSettings
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.training.auto_settings import choose_text, uses_xla
from vse_tf.training.distribution import distribute, make_strategy

STEPS, LOGGED = 50, 10


class OnDevice:
    """A value of a step; whoever looks at it fetches it."""

    def __init__(self, value, fetch):
        self.value, self.fetch = value, fetch

    def __array__(self, dtype=None, copy=None):
        self.fetch()
        return np.asarray(self.value.numpy(), dtype)

    def __float__(self):
        return float(self.__array__()[0])


def test_nothing_is_fetched_between_log_steps(tmp_path, monkeypatch):
    done, fetched = [0], []

    def fetch():
        if threading.current_thread() is threading.main_thread():
            fetched.append(done[0])

    make, numpy = DualEncoder.make_train_function, ops._EagerTensorBase._numpy

    def make_train_function(self, force=False):
        if self.train_function is not None:
            return
        make(self, force)
        step = self.train_function

        def counted(iterator):
            logs = step(iterator)
            done[0] += 1
            return {name: OnDevice(value, fetch) for name, value in logs.items()}

        self.train_function = counted

    def fetched_numpy(self):
        # Keras asks after each step whether there was a batch; the answer is on the host.
        if self.dtype != tf.bool:
            fetch()
        return numpy(self)

    monkeypatch.setattr(DualEncoder, "make_train_function", make_train_function)
    monkeypatch.setattr(ops._EagerTensorBase, "_numpy", fetched_numpy)
    given = {"train__batch_size": 8, "data__shapes__train_scenes": STEPS * 8, "train__epochs": 1}
    train.main(arguments(tmp_path / "run", train__log_steps=LOGGED, **given))
    assert done[0] >= STEPS
    seen = set(fetched) - {0, done[0]}
    assert seen == set(range(LOGGED, done[0], LOGGED))


def test_batches_are_copied_to_a_gpu_ahead_of_their_step(monkeypatch):
    def make(shard, replicas):
        return tf.data.Dataset.range(8).batch(4)

    strategy = make_strategy(DistributionSettings(strategy="none"))
    plain = distribute(strategy, 4, make)
    assert "Copy" not in type(plain).__name__ and "Prefetch" not in type(plain).__name__
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [tf.config.LogicalDevice("/CPU:0", kind)])
    ahead = distribute(strategy, 4, make)
    assert "Dataset" in type(ahead).__name__ and type(ahead) is not type(plain)
    assert [batch.numpy().tolist() for batch in ahead] == [[0, 1, 2, 3], [4, 5, 6, 7]]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["GPU"])


def test_the_packed_gru_is_for_a_cpu(gpu, monkeypatch):
    assert choose_text(Settings()).text.packed is False
    assert choose_text(Settings(text=TextSettings(packed=True))).text.packed is True
    monkeypatch.undo()
    assert choose_text(Settings()).text.packed is True
    assert choose_text(Settings(train=TrainSettings(jit_compile=True))).text.packed is False


def test_xla_compiles_what_it_can(gpu, monkeypatch):
    layers = Settings(text=TextSettings(encoder="transformer"))
    assert uses_xla(layers, True, 1) is True
    # Convolutions, several replicas, deterministic runs, and either GRU.
    assert not uses_xla(layers, False, 1) and not uses_xla(layers, True, 2) and not uses_xla(Settings(), True, 1)
    assert not uses_xla(Settings(text=layers.text, train=TrainSettings(deterministic=True)), True, 1)
    monkeypatch.undo()
    assert not uses_xla(layers, True, 1)
    assert uses_xla(Settings(train=TrainSettings(jit_compile=True)), True, 1)


def test_a_run_of_a_gpu_continues_on_a_cpu(tmp_path):
    argv = arguments(tmp_path / "run", train__epochs=1, train__schedule="constant")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vse_tf.training.auto_settings.is_packed", lambda packed: False)
        train.main(argv)
    assert RunFolder(tmp_path / "run").settings().text.packed is False
    train.main([*argv, "--train.epochs", "2"])
    assert RunFolder(tmp_path / "run").settings().text.packed is False
