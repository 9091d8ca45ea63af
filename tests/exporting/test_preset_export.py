"""A run whose text preset brings its own tokenizer: two text towers, and a manifest that says what the first needs."""

import shutil

import numpy as np
import pytest

from tests.serving.plain import answers
from tests.serving.runs import write_run
from vse_tf import export
from vse_tf.artifacts import manifest
from vse_tf.embedder import load
from vse_tf.exporting import golden_inputs


@pytest.fixture(scope="module")
def run(bert_preset, tmp_path_factory):
    """A run with a tiny BERT whose preset is gone by the time of the export."""
    folder = tmp_path_factory.mktemp("preset")
    preset = shutil.copytree(bert_preset, folder / "bert")
    made = write_run(
        folder / "run", text__encoder=f"hub:{preset}", text__max_tokens=12, text__buckets="[4, 8]", image__size=16
    )
    shutil.rmtree(preset)
    return made


def test_strings_need_tf_text_and_token_ids_do_not(run, tmp_path, capsys):
    import tensorflow as tf  # noqa: PLC0415

    export.main(["--run", str(run), "--output", str(tmp_path / "models")])
    assert "text_tower/1: serving_default" in (printed := capsys.readouterr().out)
    assert "TensorFlow Text's operations" in printed
    folders = {name: tmp_path / "models" / name / "1" for name in ("image_tower", "text_tower", "text_tower_ids")}
    needs = {name: manifest.verify(folder)["custom_operations"] for name, folder in folders.items()}
    assert needs["image_tower"] == needs["text_tower_ids"] == []
    assert needs["text_tower"]
    embedder = load(run)
    expected = embedder.encode_texts(golden_inputs.TEXTS)
    strings = tf.saved_model.load(str(folders["text_tower"])).signatures["serving_default"]
    np.testing.assert_allclose(strings(text=tf.constant(golden_inputs.TEXTS))["embedding"], expected, atol=1e-5)
    ids = embedder.tokenizer(list(golden_inputs.TEXTS))
    mask = tf.ones_like(ids).to_tensor(0).numpy()
    inputs = {"token_ids": ids.to_tensor(0).numpy(), "padding_mask": mask}
    found = answers([(folders["text_tower_ids"], "serving_default", inputs)], tmp_path)[0]
    np.testing.assert_allclose(found["embedding"], expected, atol=1e-5)
