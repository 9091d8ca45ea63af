"""Writing: what a version folder holds, and what keeps a model from being published."""

import dataclasses
import resource

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from vse_tf.artifacts import manifest
from vse_tf.artifacts.versions import TEMPORARY, Release
from vse_tf.errors import UserError
from vse_tf.exporting.batching import FILE_NAME
from vse_tf.exporting.exported_model import ExportedModel, golden_embeddings
from vse_tf.exporting.signature import described, signature
from vse_tf.exporting.writing import WARMUP, custom_operations, write_models

VALUES = np.float32([[1, 2], [3, 4]])


class Doubled(tf.Module):
    def __init__(self, size=2):
        super().__init__()
        self.weight = tf.Variable(tf.fill([size], 2.0))

    def of_features(self, features):
        return features * self.weight[:2]

    def of_text(self, text):
        return tf.stack([tf.cast(tf.strings.length(text), tf.float32), tf.ones_like(text, tf.float32)], 1)


def model(name="image_tower", expected=2 * VALUES, size=2):
    module = Doubled(size)
    signatures = {
        "features": signature(module.of_features, features=tf.TensorSpec([None, 2], tf.float32)),
        "serving_default": signature(module.of_text, text=tf.TensorSpec([None], tf.string)),
    }
    text = golden_embeddings(
        "serving_default", {"text": np.array([b"a", b"bcd"], object)}, np.float32([[1, 1], [3, 1]])
    )
    features = golden_embeddings("features", {"features": VALUES}, np.float32(expected))
    return ExportedModel(name, module, signatures, (features, text), {"image": {"size": [1, 2]}})


def test_a_version_is_a_saved_model_with_manifest_and_warm_up(tmp_path):
    written = write_models(tmp_path, [model()], {"dim": 2, "run": "r"}, "float32")
    assert [w.folder for w in written] == [tmp_path / "image_tower" / "1"]
    found = manifest.verify(tmp_path / "image_tower" / "1")
    assert found == written[0].manifest
    assert {key: found[key] for key in ("model", "dim", "run", "image", "custom_operations", "largest_difference")} == {
        "model": "image_tower",
        "dim": 2,
        "run": "r",
        "image": {"size": [1, 2]},
        "custom_operations": [],
        "largest_difference": 0,
    }
    assert found["signatures"]["features"] == {
        "inputs": {"features": {"dtype": "float32", "shape": [None, 2]}},
        "outputs": {"embedding": {"dtype": "float32", "shape": [None, 2]}},
    }
    assert set(found["files"]) >= {"saved_model.pb", WARMUP, "variables/variables.index"}
    assert written[0].size > sum((written[0].folder / name).stat().st_size for name in found["files"]) > 0
    loaded = tf.saved_model.load(str(written[0].folder)).signatures
    assert described(model().signatures).keys() == loaded.keys()


def test_the_warm_up_asks_every_signature_once(tmp_path):
    folder = write_models(tmp_path, [model()], {}, "float32")[0].folder
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
        for record in tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
    ]
    assert [(log.model_spec.name, log.model_spec.signature_name) for log in logs] == [
        ("image_tower", "features"),
        ("image_tower", "serving_default"),
    ]
    loaded = tf.saved_model.load(str(folder)).signatures
    for log in logs:
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in log.inputs.items()}
        assert all(value.shape[0] == 1 for value in inputs.values())
        assert loaded[log.model_spec.signature_name](**inputs)["embedding"].shape == (1, 2)


@pytest.mark.parametrize("expected", [2 * VALUES + 2e-5, VALUES * np.nan])
def test_a_model_that_answers_otherwise_is_not_published(tmp_path, expected):
    root = tmp_path / "models"
    with pytest.raises(UserError, match=r"text_tower: .* differ from the live one's by .*; nothing was published"):
        write_models(root, [model(), model("text_tower", expected)], {}, "float32")
    assert not root.exists()
    if np.isfinite(expected).all():
        write_models(root, [model("text_tower", expected)], {}, "mixed_float16")


def test_a_model_that_fails_on_an_empty_batch_is_not_published(tmp_path):
    def fails(**inputs):
        with tf.control_dependencies([tf.debugging.Assert(tf.shape(inputs["features"])[0] > 0, ["empty"])]):
            return tf.identity(inputs["features"]) * 2

    module = Doubled()
    broken = signature(fails, features=tf.TensorSpec([None, 2], tf.float32))
    good = model()
    wrong = dataclasses.replace(good, module=module, signatures={**good.signatures, "features": broken})
    with pytest.raises(UserError, match=r"image_tower: the written model cannot be used: .*empty"):
        write_models(tmp_path / "models", [wrong], {}, "float32")
    assert not (tmp_path / "models").exists()


def test_a_disk_that_is_full_leaves_nothing(tmp_path):
    root = tmp_path / "models"
    write_models(root, [model()], {}, "float32")
    before = sorted(root.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(UserError, match=r"--output: cannot write to .*; nothing was published") as caught:
            write_models(root, [model(), model("text_tower", size=100_000)], {}, "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert sorted(root.rglob("*")) == before
    assert write_models(root, [model()], {}, "float32")[0].folder == root / "image_tower" / "2"


def test_a_custom_gradient_is_left_out_without_a_word(tmp_path, caplog):
    class Squared(Doubled):
        def of_features(self, features):
            @tf.custom_gradient
            def squared(x):
                return x * x, lambda upstream: upstream * self.weight[:2]

            return squared(features)

    module = Squared()
    signatures = {"features": signature(module.of_features, features=tf.TensorSpec([None, 2], tf.float32))}
    golden = (golden_embeddings("features", {"features": VALUES}, VALUES**2),)
    write_models(tmp_path, [ExportedModel("image_tower", module, signatures, golden)], {}, "float32")
    assert not [record for record in caplog.records if "gradient" in record.getMessage()]


def test_operations_of_other_libraries_are_found(tmp_path):
    text = pytest.importorskip("tensorflow_text")

    class Split(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def of_text(self, texts):
            return tf.map_fn(
                lambda one: text.WhitespaceTokenizer().tokenize(one[tf.newaxis]).row_lengths()[0], texts, tf.int64
            )

    tf.saved_model.save(Split(), str(tmp_path))
    assert any("Whitespace" in name for name in custom_operations(tmp_path))


def test_batching_is_there_before_the_version_is(tmp_path, monkeypatch):
    """A server reads the file only when it loads a version, which may be as soon as the folder has its number."""
    seen = []
    publish = Release.publish

    def noted(release):
        seen.extend(path.read_text() for path in tmp_path.rglob(f"{TEMPORARY}*/{FILE_NAME}"))
        return publish(release)

    monkeypatch.setattr(Release, "publish", noted)
    batched = dataclasses.replace(model("text_tower"), batching=b"# yes")
    folders = [written.folder for written in write_models(tmp_path, [model(), batched], {}, "float32")]
    assert seen == ["# yes"]
    assert [(folder / FILE_NAME).exists() for folder in folders] == [False, True]
    # A setting that may be edited: not in the manifest, and readable for the user of a container.
    (folders[1] / FILE_NAME).write_text("# edited")
    assert FILE_NAME not in manifest.verify(folders[1])["files"]
    assert (folders[1] / FILE_NAME).stat().st_mode == (folders[1] / "saved_model.pb").stat().st_mode
