"""Runs of no epochs: presets that compare images with texts, measured, saved and exported as they are."""

import json
import math
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

import vse_tf
from tests.dual_presets import DIM, OFFSET, SCALE, SIZE
from tests.tiny import arguments, rows_of
from tests.warm_python import warm_python
from vse_tf import export, train
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.errors import UserError

CAPTIONS = ["A red circle, left of a blue square.", "the Small green star", "dogs"]
PIXELS = np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def run_of(folder, preset, **changed):
    given = {"image__encoder": f"hub:{preset}", "text__encoder": f"hub:{preset}", "text__max_tokens": 24}
    given |= {"model__head": "none", "model__dim": DIM, "train__epochs": 0, "image__resize": SIZE}
    given |= {"loss__temperature": "preset"}
    if "siglip" in str(preset):
        given |= {"loss__name": "sigmoid", "loss__bias": "preset"}
    train.main(arguments(folder, **{**given, **changed}))
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def started(request, dual_presets, tmp_path_factory):
    return request.param, run_of(tmp_path_factory.mktemp("started") / "run", dual_presets[request.param])


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def own_vectors(preset, name):
    """What the preset itself compares, by its own preprocessing of captions."""
    import keras_hub  # noqa: PLC0415

    network = keras_hub.models.Backbone.from_preset(str(preset))
    pixels = PIXELS * np.float32(SCALE) + np.float32(OFFSET)
    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(preset))
    ids = np.full([len(CAPTIONS), 24], 0 if name == "clip" else tokenizer.pad_token_id, np.int32)
    for row, caption in zip(ids, CAPTIONS, strict=True):
        words = caption.lower() if name == "clip" else re.sub(r"[,.]", "", caption.lower())
        found = [*np.asarray(tokenizer(words)).tolist(), tokenizer.end_token_id]
        found = [tokenizer.start_token_id, *found] if name == "clip" else found
        row[: len(found)] = found[:23] + found[-1:] if len(found) > 24 else found
    return unit(np.asarray(network.get_vision_embeddings(pixels))), unit(np.asarray(network.get_text_embeddings(ids)))


def test_the_vectors_are_the_presets_own(started, dual_presets, tmp_path):
    """In memory, from the run folder, and of the exported towers."""
    name, run = started
    images, texts = own_vectors(dual_presets[name], name)
    model = vse_tf.load(run)
    np.testing.assert_allclose(model.encode_images(list(PIXELS)), images, atol=1e-6)
    np.testing.assert_allclose(model.encode_texts(CAPTIONS), texts, atol=1e-6)
    export.main(["--run", str(run), "--output", str(tmp_path)])
    pngs = tf.constant([tf.io.encode_png(each).numpy() for each in PIXELS])
    for tower, inputs, expected in (("image_tower", pngs, images), ("text_tower", tf.constant(CAPTIONS), texts)):
        served = tf.saved_model.load(str(tmp_path / tower / "1")).signatures["serving_default"]
        (key,) = served.structured_input_signature[1]
        (found,) = served(**{key: inputs}).values()
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_loaded_model_outlives_a_new_seed(started):
    """It drops TensorFlow's kernels, and with them what SentencePiece has loaded; so does every training."""
    model = vse_tf.load(started[1])
    before = model.encode_texts(CAPTIONS)
    keras.utils.set_random_seed(1)
    np.testing.assert_allclose(model.encode_texts(CAPTIONS), before, atol=1e-6)


def test_it_is_a_finished_run_of_no_epochs(started, dual_presets, capsys):
    name, run = started
    results = RunFolder(run).read_results()
    assert results["finished"] and results["best"] == results["last"]
    assert (results["last"]["epoch"], results["last"]["step"]) == (0, 0)
    assert results["galleries"].keys() == {"val", "test", "hard"} & results["galleries"].keys() > {"val"}
    assert [row["epoch"] for row in rows_of(run)] == [0]
    assert vse_tf.load(run).metrics["val"] == results["best"]["metrics"]
    assert "its encoders as they are, without training" in RunFolder(run).read_card()
    run_of(run, dual_presets[name])
    printed = capsys.readouterr().out
    assert "already finished" in printed and "not trained" in printed and "tensorboard" not in printed


def test_the_presets_temperature_and_bias_are_the_first_ones(started):
    name, run = started
    model = vse_tf.load(run).model
    if name == "clip":
        assert model.temperature is None
    else:
        assert float(model.temperature.now()) == pytest.approx(0.008, rel=1e-5)
        assert float(model.temperature.bias_now()) == pytest.approx(-7.0)


def test_it_goes_on_and_keeps_the_best(started, dual_presets, tmp_path):
    """Training is compared with the start; the loss is that of the preset's own temperature."""
    name, _ = started
    preset, own = dual_presets[name], {"image__trainable": "true", "text__trainable": "true"}
    own |= {"train__learning_rate": 1e-6, "train__schedule": "constant", "train__warmup_epochs": 0}
    run = run_of(tmp_path / "run", preset, **own)
    run_of(run, preset, **own, train__epochs=1)
    first, second = rows_of(run)
    assert (first["epoch"], second["epoch"], first["train"]) == (0, 1, {})
    best = max((second, first), key=lambda row: (row["metrics"]["rsum"], -row["epoch"]))["epoch"]
    assert RunFolder(run).read_results()["best"]["epoch"] == best
    if name == "clip":
        other = run_of(tmp_path / "other", preset, **own, train__epochs=1, loss__temperature=0.02)
        assert rows_of(other)[0]["train"]["loss"] == pytest.approx(second["train"]["loss"], rel=1e-5)
        assert math.isfinite(second["train"]["loss"])


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        (
            {"model__dim": 8},
            r"model\.dim: 8, but with model\.head none the vectors have 16 dimensions; give --model\.dim 16",
        ),
        ({"train__epochs": 1}, r"train\.epochs: 1, but with model\.head none and frozen encoders nothing is trained"),
        (
            {"train__epochs": 2, "train__unfreeze_epoch": 1, "image__trainable": "true"},
            r"train\.unfreeze_epoch: 1, but with model\.head none nothing else than the backbones",
        ),
        (
            {"loss__name": "sigmoid", "loss__bias": "preset"},
            r"loss\.bias: preset, but '.*clip' has none; give a number",
        ),
        (
            {"text__encoder": "gru"},
            r"loss\.temperature: preset, but image\.encoder hub:.* and text\.encoder gru are not",
        ),
        (
            {"text__encoder": "gru", "loss__temperature": 0.1, "text__units": 24},
            r"model\.head: none, but image\.encoder .*clip gives vectors of 16 dimensions and text\.encoder gru of 24",
        ),
        ({"image__units": 8}, r"image\.units: only used with image\.encoder or model\.head cnn, true or false"),
    ],
)
def test_what_does_not_fit_is_one_line(dual_presets, tmp_path, changed, wanted):
    with pytest.raises(UserError, match=wanted) as found:
        run_of(tmp_path / "run", dual_presets["clip"], **changed)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "run").exists()


def test_a_preset_without_a_temperature_says_so(bert_preset):
    from vse_tf.models.hub_backbones import logit_scaling  # noqa: PLC0415

    with pytest.raises(UserError, match=r"loss\.temperature: preset, but .*Bert.* does not compare images with texts"):
        logit_scaling(bert_preset)


def test_a_decoder_and_a_preset_without_converter_are_one_line(bert_preset, dual_presets, tmp_path):
    import keras_hub  # noqa: PLC0415

    models = keras_hub.models
    keras.utils.set_random_seed(0)
    models.BartBackbone(50, 1, 2, 16, 32, max_sequence_length=12).save_to_preset(str(tmp_path / "bart"))
    models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"], True).save_to_preset(
        str(tmp_path / "bart")
    )
    for changed, wanted in (
        ({"text__encoder": f"hub:{tmp_path / 'bart'}"}, r"text\.encoder: .*bart'.* is not a text encoder"),
        ({"image__encoder": f"hub:{bert_preset}"}, r"image\.encoder: .* has no image converter"),
    ):
        with pytest.raises(UserError, match=wanted) as found:
            run_of(tmp_path / "run", dual_presets["clip"], loss__temperature=0.1, **changed)
        assert "\n" not in str(found.value)


def test_a_strangers_preset_is_data(dual_presets, tmp_path, monkeypatch):
    """A module that its configuration names is not imported."""
    (tmp_path / "named_module.py").write_text("import pathlib\npathlib.Path('imported').touch()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(dual_presets["clip"], tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "config.json").read_text())
    named = {"module": "named_module", "class_name": "Encoder", "registered_name": "Encoder", "config": {}}
    config["config"]["vision_encoder"] = named
    (tmp_path / "clip" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"encoder: preset .* cannot be loaded") as found:
        run_of(tmp_path / "run", tmp_path / "clip", loss__temperature=0.1)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "imported").exists()


WAYS = {
    "stopped": {},
    "bfloat16": {"train__micro_batch": 4, "model__precision": "mixed_bfloat16"},
    "replicas": {},
    "cached": {"data__text_features": "true"},
}


@pytest.fixture(scope="module")
def gentle(dual_presets, tmp_path_factory):
    """Fine-tuning of two blocks each without a new head, and how to make it in another way."""
    own = {"image__trainable": 2, "text__trainable": 2, "train__layer_decay": 0.5, "train__epochs": 2}
    own |= {"data__features": "false", "data__text_features": "false", "train__schedule": "constant"}

    def make(folder, **changed):
        run_of(folder, dual_presets["clip"], **{**own, "data__cache_dir": folder.parent / "cache", **changed})
        return vse_tf.load(folder, "last")

    return make, make(tmp_path_factory.mktemp("gentle") / "run")


@pytest.mark.parametrize("way", WAYS)
def test_fine_tuning_without_a_head_is_the_same_in_every_way(gentle, way, tmp_path):
    make, plain = gentle
    if way == "stopped":
        make(tmp_path / "run", train__epochs=0)
        make(tmp_path / "run", train__epochs=1)
    if way == "replicas":
        command = [*warm_python(), "-m", "vse_tf.train", "--config", str(plain.run / "config.yaml")]
        command += ["--train.run_dir", str(tmp_path / "run"), "--distribution.virtual_cpus", "2"]
        subprocess.run(command, check=True, capture_output=True)
        other = vse_tf.load(tmp_path / "run", "last")
    else:
        other = make(tmp_path / "run", **WAYS[way])
    # Adam's steps depend on the signs of gradients that are nearly zero.
    limit = {"bfloat16": 0.1, "stopped": 1e-6}.get(way, 5e-3)
    np.testing.assert_allclose(other.encode_texts(CAPTIONS), plain.encode_texts(CAPTIONS), atol=limit)
    np.testing.assert_allclose(other.encode_images(list(PIXELS)), plain.encode_images(list(PIXELS)), atol=limit)
