"""Run folders that others have changed: an error of one line, no other file opened, no memory taken."""

import copy
import hashlib
import json
import os
import resource
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

import vse_tf
from tests.tiny import arguments
from vse_tf import train
from vse_tf.errors import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rebuilding") / "run"
    train.main(arguments(folder, train__epochs=1))
    return folder


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def refused(run, wanted=None):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=wanted) as error:
        vse_tf.load(run)
    message = " ".join(str(error.value).split())
    assert str(run) in message
    assert len(message) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000
    # Nothing of the refused model is waiting to be allocated.
    keras.layers.Dense(2).build((None, 3))


def change(run, edit):
    path = run / "model.json"
    description = json.loads(path.read_text())
    edit(description)
    path.write_text(json.dumps(description))


def layers_named(value, name):
    if isinstance(value, dict):
        if isinstance(value.get("config"), dict) and value["config"].get("name") == name:
            yield value
        for item in value.values():
            yield from layers_named(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from layers_named(item, name)


def test_an_honest_folder_loads(run):
    vectors = vse_tf.load(run).encode_texts(["a red circle"])
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)


ODD = ["text", [1], {}, {"a": 1}, True, -1, 1e30, float("nan"), 2**40, {"class_name": "function", "config": "relu"}]


@pytest.mark.parametrize("key", ["temperature", "image_tower", "text_tower", "clip_norm", "micro_batch", "name"])
@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_a_wrong_type_is_one_line(run, key, value):
    if (key, value) in (("name", "text"), ("temperature", {})):
        return
    change(run, lambda description: description["model"].update({key: value}))
    refused(run)


@pytest.mark.parametrize("value", [*ODD, None, "9", 0], ids=range(len(ODD) + 3))
@pytest.mark.parametrize(("layer", "key"), [("head_output", "units"), ("conv_1", "filters"), ("gru", "units")])
def test_wrong_dimensions_are_one_line(run, layer, key, value):
    def edit(description):
        for found in layers_named(description, layer):
            found["config"][key] = value

    change(run, edit)
    refused(run)


def test_a_large_layer_is_refused_before_it_is_made(run):
    def edit(description):
        for found in layers_named(description, "head_output"):
            found["config"]["units"] = 2 * 10**8

    change(run, edit)
    refused(run, "it is another model's")


def test_a_map_of_billions_of_values_is_refused(run):
    def edit(description):
        view = description["view"]
        view["size"] = [16384, 16384]
        text = json.dumps(description).replace("[null, 16, 16, 3]", "[null, 16384, 16384, 3]")
        description.update(json.loads(text))

    change(run, edit)
    refused(run)


def test_a_million_layers_are_refused(run):
    def edit(description):
        layers = description["model"]["image_tower"]["config"]["layers"]
        layers += [copy.deepcopy(layers[-1]) for _ in range(40_000)]

    change(run, edit)
    refused(run, "more than|limit")


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("key", ["size", "resize", "max_pixels", "crop_scale", "flip", "other"])
def test_a_wrong_view_is_one_line(run, key, value):
    if (key, value) in (("flip", True),):
        return
    change(run, lambda description: description["view"].update({key: value}))
    refused(run)


@pytest.mark.parametrize("contents", ["[]", "1", "{}", '{"model": 1, "view": 2}', "[" * 100_000, "9" * 5000, "{"])
def test_another_file_is_one_line(run, contents):
    (run / "model.json").write_text(contents)
    refused(run)


@pytest.mark.parametrize("name", ["config.yaml", "model.json", "tokenizer/tokenizer.json", "tokenizer/vocabulary.txt"])
def test_a_pipe_or_device_is_one_line(run, name):
    path = run / name
    path.unlink()
    os.mkfifo(path)
    refused(run, "not a regular file")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(run, "not a regular file|link out of the run folder")


def test_a_checkpoint_that_is_a_pipe_is_one_line(run):
    state = next(run.glob("checkpoints/step-*/state.h5"))
    state.unlink()
    os.mkfifo(state)
    refused(run, "not a regular file")


@pytest.mark.parametrize("kind", ["unwritten", "packed"])
def test_announced_weights_that_are_not_there_are_refused(run, kind):
    state = next(run.glob("checkpoints/step-*/state.h5"))
    options = {"compression": "gzip", "data": np.zeros((8, 16), np.float32)} if kind == "packed" else {}
    with h5py.File(state, "a") as file:
        key = next(k for k in names(file) if file[k].ndim == 2)
        shape = file[key].shape
        del file[key]
        if kind == "packed":
            options["data"] = np.zeros(shape, np.float32)
        file.create_dataset(key, **({"shape": shape, "dtype": "f4"} | options if kind == "unwritten" else options))
    # Whoever changes the weights changes their hash too.
    position = state.with_name("position.json")
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    position.write_text(json.dumps(json.loads(position.read_text()) | {"sha256": digest}))
    refused(run, "does not hold them")


def names(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


@pytest.mark.parametrize("name", ["tokenizer/vocabulary.txt", "tokenizer"])
def test_a_tokenizer_linked_from_elsewhere_is_refused(run, tmp_path, name):
    (run / name).rename(tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    refused(run, "link out of the run folder")
    (run / name).unlink()
    (tmp_path / "elsewhere").rename(run / "own")
    (run / name).symlink_to(run / "own")
    vse_tf.load(run)


@pytest.mark.parametrize("value", [True, "5", 10**30, 2**17, -1, 0, None, 1.5])
def test_a_wrong_length_of_captions_is_one_line(run, value):
    path = run / "tokenizer" / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_tokens": value}))
    refused(run, "max_tokens")


def test_more_words_than_the_model_knows_are_one_line(run):
    with (run / "tokenizer" / "vocabulary.txt").open("a") as file:
        file.write("zzz\n")
    refused(run, "words")


@pytest.mark.parametrize(
    ("name", "config", "wanted"),
    [
        ("WhisperTokenizer", {"vocabulary": "/etc/passwd"}, "is no tokenizer that is loaded"),
        ("PARSeqTokenizer", {}, "is no tokenizer that is loaded"),
        ("BertTokenizer", {"vocabulary": "/etc/passwd"}, "vocabulary"),
        ("BytePairTokenizer", {"merges": "http://127.0.0.1:1/x"}, "merges"),
        ("SentencePieceTokenizer", {"proto": "/dev/zero"}, "proto"),
        ("BertTokenizer", {"lowercase": {"class_name": "Lambda"}}, "lowercase"),
        ("BertTokenizer", {}, "vocabulary.txt is a link out of the run folder"),
        (["BertTokenizer"], {}, "is no tokenizer that is loaded"),
        ("BertTokenizer", None, "is no tokenizer that is loaded"),
    ],
)
def test_a_tokenizer_opens_only_its_own_files(run, name, config, wanted):
    folder = run / "tokenizer"
    shutil.rmtree(folder)
    (folder / "preset").mkdir(parents=True)
    (folder / "tokenizer.json").write_text(json.dumps({"kind": "preset", "max_tokens": 16}))
    description = {"module": "keras_hub", "class_name": name, "registered_name": f"keras_hub>{name}", "config": config}
    (folder / "preset" / "tokenizer.json").write_text(json.dumps(description))
    if "link" in wanted:
        (folder / "preset" / "assets" / "tokenizer").mkdir(parents=True)
        (folder / "preset" / "assets" / "tokenizer" / "vocabulary.txt").symlink_to("/etc/passwd")
        assert Path("/etc/passwd").exists()
    refused(run, wanted)
