"""The table of encoders: each entry leads to a module that builds it, and importing that is enough to load it."""

import json
import subprocess

import keras
import numpy as np
import pytest

from tests.warm_python import warm_python
from vse_tf.config import ModelSettings, TextSettings
from vse_tf.errors import UserError
from vse_tf.models.encoders import ENCODERS, encoder_module, split_encoder
from vse_tf.models.text_tower import build_text_tower, text_tower_from_settings

CASES = [(key, form) for key, forms in ENCODERS.items() for form in forms]


@pytest.mark.parametrize(("key", "form"), CASES)
def test_every_entry_has_a_module_that_builds_it(key, form):
    encoder = form.replace("<name>", "some")
    assert callable(getattr(encoder_module(encoder, key), key.replace(".", "_")))
    assert split_encoder(encoder, key) == (form.partition(":")[0], "some" if ":" in form else "")


@pytest.mark.parametrize("encoder", ["", ":", "gru:", "gru:x", "hub", "hub:", "cnn", "grus"])
def test_what_is_no_encoder_is_refused_with_those_there_are(encoder):
    with pytest.raises(UserError, match=r"text\.encoder: no encoder .*; give one of: gru, transformer, hub:<name>"):
        split_encoder(encoder, "text.encoder")


def test_a_tower_loads_where_nothing_but_its_module_was_imported(tmp_path):
    settings = TextSettings(encoder="gru", units=8, embedding_dim=4)
    tower = text_tower_from_settings(settings, ModelSettings(dim=6), 20)
    (tmp_path / "tower.json").write_text(json.dumps(keras.saving.serialize_keras_object(tower)))
    tower.save_weights(tmp_path / "tower.weights.h5")
    code = f"""
import json, keras, numpy as np, vse_tf.models.dual_encoder
from vse_tf.models.encoders import encoder_module
encoder_module("gru", "text.encoder")
tower = keras.saving.deserialize_keras_object(json.load(open({str(tmp_path / "tower.json")!r})))
tower.load_weights({str(tmp_path / "tower.weights.h5")!r})
np.save({str(tmp_path / "vectors.npy")!r}, tower(np.array([[3, 5, -1], [2, 4, 6]])))
"""
    done = subprocess.run([*warm_python(), "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = tower(np.array([[3, 5, -1], [2, 4, 6]]))
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-6)


def test_an_encoder_of_ones_own_makes_a_tower():
    tower = build_text_tower(keras.layers.Embedding(9, 4, name="states"), dim=6, head_units=0)
    assert tower(np.array([[1, 2, 3]])).shape == (1, 6)
