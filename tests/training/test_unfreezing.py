"""Backbones that are trained from a later epoch on, and at rates that fall towards the input."""

import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

import vse_tf
from tests.tiny import arguments, rows_of
from tests.warm_python import warm_python
from vse_tf import train
from vse_tf.config import TrainSettings
from vse_tf.losses import ConVSE
from vse_tf.models.backbones import PretrainedBackbone, backbone_of, fine_tuned, tail_of
from vse_tf.models.blocks import blocks_of
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.gru import gru_encoder
from vse_tf.models.image_tower import build_image_tower
from vse_tf.models.text_tower import build_text_tower, text_tower_from_settings
from vse_tf.training.optimizer import make_optimizer


@pytest.fixture(scope="module")
def preset(bert_preset, tmp_path_factory):
    """With strong dropout: a network in training mode gives other vectors."""
    folder = tmp_path_factory.mktemp("unfreezing") / "bert"
    shutil.copytree(bert_preset, folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.5'))
    return folder


def run_of(folder, preset, **changed):
    values = {"text__encoder": f"hub:{preset}", "text__max_tokens": 32, "text__trainable": "true"}
    values |= {"train__schedule": "constant", "train__weight_decay": 0.1, "train__unfreeze_epoch": 1}
    argv = arguments(folder, **{**values, **changed})
    if "distribution__virtual_cpus" in changed:
        # TensorFlow keeps the shapes of a process's collective operations, which another run in it would have to share.
        subprocess.run([*warm_python(), "-m", "vse_tf.train", *argv], check=True)
    else:
        train.main(argv)
    return vse_tf.load(folder, "last")


def weights_of(model, part=fine_tuned):
    return [np.asarray(each) for each in part(model.text_tower)]


WAYS = {
    "uncut": {},
    "cached": {"text__trainable": 1, "data__text_features": "true"},
    "half precision": {"train__micro_batch": 8, "model__precision": "mixed_float16"},
    "replicas": {"distribution__virtual_cpus": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_frozen_until_its_epoch_and_not_after(preset, tmp_path, way):
    own = WAYS[way] | ({"data__cache_dir": tmp_path / "cache"} if way == "cached" else {})
    run = run_of(tmp_path / "run", preset, **own, train__epochs=1)
    settings = run.settings
    tower = text_tower_from_settings(settings.text, settings.model, run.tokenizer.vocabulary_size)
    before = [np.asarray(each) for each in fine_tuned(tower)]
    for value, weight in zip(before, weights_of(run), strict=True):
        np.testing.assert_array_equal(weight, value)
    assert [row["train"]["loss"] for row in rows_of(tmp_path / "run")]
    # The same run goes on with its second epoch.
    run = run_of(tmp_path / "run", preset, **own, train__epochs=2)
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [1, 2]
    changed = [not np.array_equal(weight, value) for value, weight in zip(before, weights_of(run), strict=True)]
    assert np.mean(changed) > 0.8  # not the embeddings of words that do not occur, nor a bias without gradient


def test_a_stop_in_between_changes_nothing(preset, tmp_path):
    once = run_of(tmp_path / "once", preset, train__epochs=2)
    run_of(tmp_path / "twice", preset, train__epochs=1)
    twice = run_of(tmp_path / "twice", preset, train__epochs=2)
    for mine, other in zip(once.model.weights, twice.model.weights, strict=True):
        np.testing.assert_array_equal(mine, other, err_msg=mine.path)


def test_until_then_it_runs_as_a_frozen_one_does(preset, tmp_path):
    """No dropout in it: the first epoch is that of a run with a frozen backbone."""
    run_of(tmp_path / "later", preset, train__epochs=1, train__clip_norm=0.1)
    values = {"text__encoder": f"hub:{preset}", "text__max_tokens": 32, "train__schedule": "constant"}
    values |= {"train__weight_decay": 0.1, "train__epochs": 1, "train__clip_norm": 0.1}
    train.main(arguments(tmp_path / "frozen", **values, data__text_features="false"))
    mine, theirs = (rows_of(tmp_path / name)[0]["train"]["loss"] for name in ("later", "frozen"))
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_a_resting_backbone_keeps_its_weights_and_its_statistics():
    """Residual blocks with batch normalisation behind them: they begin with their own epoch, at falling rates."""
    x = pixels = keras.Input([6])
    for number in range(3):
        y = keras.layers.Dense(6, name=f"first_{number}")(x)
        x = keras.layers.Add()([x, keras.layers.Dense(6, name=f"second_{number}")(y)])
    network = keras.Model(pixels, keras.layers.Dropout(0.5)(keras.layers.BatchNormalization(name="last")(x)))
    image = keras.Input([6])
    backbone = PretrainedBackbone(image, network(image), name="backbone", trainable=True)
    text = gru_encoder(20, embedding_dim=8, units=8, packed=False)
    model = DualEncoder(
        build_image_tower(backbone, (6,), 8, head_units=0), build_text_tower(text, 8, head_units=0), clip_norm=1.0
    )
    settings = TrainSettings(unfreeze_epoch=1, layer_decay=0.5, weight_decay=0.1, backbone_rate=0.1)
    optimizer = make_optimizer(settings, model, 2)
    found = zip(model.trainable_variables, optimizer.rates, optimizer.delays, strict=True)
    expected = {"0": (0.025, 2), "1": (0.05, 2), "2": (0.1, 2), "last": (0.1, 2)}
    for variable, rate, delay in found:
        layer = variable.path.split("/")[-2]
        assert (rate, delay) == expected.get(layer.rpartition("_")[2], (1.0, 0)), variable.path
    model.compile(optimizer=optimizer, loss=ConVSE(0.1))
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    batch = {"image": rng.normal(size=(8, 6)).astype(np.float32), "text": rng.integers(0, 20, (8, 5), np.int32)}
    batches = tf.data.Dataset.from_tensors((batch, np.arange(8))).repeat()
    before = [np.asarray(weight) for weight in backbone.weights]
    head = np.asarray(model.image_tower.trainable_variables[-2])
    model.rest(True)
    model.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0)
    for weight, value in zip(backbone.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value, err_msg=weight.path)
    assert not np.array_equal(model.image_tower.trainable_variables[-2], head)
    model.rest(False)
    model.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0)
    for weight, value in zip(backbone.weights, before, strict=True):
        assert not np.array_equal(weight, value), weight.path


@pytest.mark.parametrize("trainable", ["true", 1])
def test_rates_fall_towards_the_input(preset, tmp_path, trainable):
    changed = {
        "train__layer_decay": 0.5,
        "train__backbone_rate": 0.1,
        "train__text_rate": 3.0,
        "train__unfreeze_epoch": 0,
    }
    run = run_of(tmp_path / "run", preset, text__trainable=trainable, train__epochs=1, **changed)
    model, settings = run.model, run.settings.train
    optimizer = make_optimizer(settings, model, 10)
    rates = {each.path: rate for each, rate in zip(model.trainable_variables, optimizer.rates, strict=True)}
    part = backbone_of(model.text_tower) if trainable == "true" else tail_of(model.text_tower)
    blocks = blocks_of(part)
    # The whole one has two more: the embedding of words, and that of positions.
    assert len(blocks) == (3 if trainable == "true" else 1)
    for number, block in enumerate(blocks):
        for variable in block:
            assert rates.pop(variable.path) == pytest.approx(0.3 * 0.5 ** (len(blocks) - 1 - number))
    assert {rate for path, rate in rates.items() if path.startswith("head")} <= {1.0, 3.0}
    assert optimizer.delays is None
