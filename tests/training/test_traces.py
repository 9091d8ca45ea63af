"""Nothing is traced twice in a training, and nothing again in a later epoch."""

from collections import Counter

import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.python.data.ops.structured_function import StructuredFunctionWrapper

from tests.tiny import arguments
from vse_tf import train
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.preprocessing.view import ImageView
from vse_tf.training.callbacks import Validation


@pytest.fixture
def traces(monkeypatch):
    """How often each function was traced, and the same at each epoch's end."""
    counts, of_epochs = Counter(), []

    def counted(owner, name):
        original = getattr(owner, name)

        def call(self, *args, **kwargs):
            if not tf.executing_eagerly():
                counts[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(DualEncoder, "train_step")
    counted(ImageView, "_of_checked")
    made, ended = StructuredFunctionWrapper.__init__, Validation.on_epoch_end

    def make(self, *args, **kwargs):
        counts["pipeline"] += 1
        made(self, *args, **kwargs)

    def end(self, *args, **kwargs):
        ended(self, *args, **kwargs)
        encoders = self.parts.embedder
        graphs = (encoders._encode_image, encoders._encode_features, encoders._encode_text)
        counts["encoders"] = sum(graph.experimental_get_tracing_count() for graph in graphs)
        of_epochs.append(dict(counts))

    monkeypatch.setattr(StructuredFunctionWrapper, "__init__", make)
    monkeypatch.setattr(Validation, "on_epoch_end", end)
    return of_epochs


def test_a_training_traces_each_function_once(traces, tmp_path):
    train.main(arguments(tmp_path / "run"))
    first, second = traces
    assert first == second
    assert (first["train_step"], first["encoders"]) == (1, 2)


def test_image_files_are_decoded_by_one_graph_for_each_view(traces, tmp_path):
    lines = ["image,caption"]
    for number in range(12):
        Image.new("RGB", (20, 24), (20 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
        lines += [f"{number}.jpg,a red photo of number {number}"]
    (tmp_path / "captions.csv").write_text("\n".join(lines))
    train.main(
        arguments(
            tmp_path / "run",
            data__source="table",
            data__annotations=tmp_path / "captions.csv",
            data__images=tmp_path,
            data__val_fraction=0.4,
            image__encoder="cnn",
            image__size=19,  # no other test takes this size: a process caches its traces
            train__batch_size=4,
        )
    )
    first, second = traces
    assert first == second
    assert (first["train_step"], first["encoders"]) == (1, 2)
    # Training and evaluation have a view each.
    assert first["_of_checked"] == 2
