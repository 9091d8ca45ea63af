"""The towers in other formats, run by those formats' own runtimes."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from tests.serving.runs import CAPTIONS, write_run
from vse_tf import export
from vse_tf.artifacts import manifest
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.exporting import golden_inputs, portable
from vse_tf.preprocessing.text import load_tokenizer, pad


def missing(kind):
    return [name for name in portable.NEEDS[kind] if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run", text__max_tokens=16)


@pytest.mark.parametrize("kind", ["onnx", "litert"])
def test_the_files_give_the_runs_vectors(run, tmp_path, kind, capsys):
    if missing(kind):
        pytest.skip(f"the extra {kind} is not installed: {', '.join(missing(kind))}")
    export.main(["--run", str(run), "--output", str(tmp_path), "--format", kind])
    folder = tmp_path / kind / "1"
    found = manifest.verify(folder)
    assert set(found["differences"]) == {f"{name}.{portable.SUFFIX[kind]}" for name in ("image_tower", "text_tower")}
    assert str(folder / f"text_tower.{portable.SUFFIX[kind]}") in capsys.readouterr().out
    start = portable._onnx if kind == "onnx" else portable._litert
    embedder = load(run)
    ids = pad(load_tokenizer(folder / "tokenizer")(list(CAPTIONS)), [16], 16).numpy()
    found = start(folder / f"text_tower.{portable.SUFFIX[kind]}")(ids)
    np.testing.assert_allclose(found, embedder.encode_texts(CAPTIONS), atol=1e-5)
    arrays = golden_inputs.pixel_arrays()
    views = np.stack([embedder.view.of_pixels(array, None) for array in arrays])
    found = start(folder / f"image_tower.{portable.SUFFIX[kind]}")(views)
    np.testing.assert_allclose(found, embedder.encode_images(list(arrays)), atol=1e-5)


@pytest.mark.parametrize("kind", ["onnx", "litert"])
@pytest.mark.parametrize("encoder", ["transformer", "bidirectional", "hub", "attention", "applications"])
def test_every_encoder_is_converted(tmp_path, bert_preset, kind, encoder):
    if missing(kind):
        pytest.skip(f"the extra {kind} is not installed: {', '.join(missing(kind))}")
    changed = {
        "transformer": {"text__encoder": "transformer", "text__layers": 2, "text__heads": 2},
        "bidirectional": {"text__bidirectional": "true"},
        "hub": {"text__encoder": f"hub:{bert_preset}", "text__stages": 2, "text__pooling": "mean_max"},
        "attention": {"text__encoder": f"hub:{bert_preset}", "text__pooling": "attention", "text__queries": 2},
        "applications": {"image__encoder": "applications:MobileNet", "image__weights": "none", "image__size": 32},
    }[encoder]
    run = write_run(tmp_path / "run", text__max_tokens=16, **changed)
    export.main(["--run", str(run), "--output", str(tmp_path / "models"), "--format", kind])
    differences = manifest.verify(tmp_path / "models" / kind / "1")["differences"]
    assert len(differences) == 2
    assert all(difference < (5e-4 if encoder == "attention" else 1e-5) for difference in differences.values())


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_packed_recurrence_is_replaced_by_keras_own(tmp_path, bidirectional):
    tower = load(write_run(tmp_path / "run", text__bidirectional=bidirectional)).text_tower
    plain = portable._with_plain_gru(tower)
    assert "PackedGRU" in json.dumps(tower.get_config())
    assert "PackedGRU" not in json.dumps(plain.get_config())
    ids = np.array([[1, 4, 5, 2, -1], [1, 2, -1, -1, -1]], np.int32)
    np.testing.assert_allclose(plain(ids), tower(ids), atol=1e-6)


@pytest.mark.parametrize("kind", ["onnx", "litert"])
def test_a_missing_extra_is_one_line_with_its_remedy(run, tmp_path, monkeypatch, kind):
    monkeypatch.setitem(portable.NEEDS, kind, ("a_library_that_nobody_has",))
    with pytest.raises(UserError, match=rf"--format {kind}: needs a_library_that_nobody_has; .*'vse_tf\[{kind}\]'"):
        export.main(["--run", str(run), "--output", str(tmp_path / "models"), "--format", kind])
    assert not (tmp_path / "models").exists()


def test_what_cannot_be_converted_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setitem(portable.NEEDS, "litert", ())
    half = load(write_run(tmp_path / "half", model__precision="mixed_float16"))
    with pytest.raises(UserError, match="needs float32 towers, this run's are mixed_float16; use savedmodel"):
        portable.write_portable(tmp_path / "models", half, "litert", {})
    embedder = load(run)

    def fails(*args, **kwargs):
        raise ValueError("no such\noperation")

    monkeypatch.setattr(keras.Model, "export", fails)
    with pytest.raises(
        UserError, match=r"image_tower cannot be converted: ValueError: no such operation; use"
    ) as found:
        portable.write_portable(tmp_path / "models", embedder, "litert", {})
    assert "\n" not in str(found.value)
    assert not (tmp_path / "models").exists()
