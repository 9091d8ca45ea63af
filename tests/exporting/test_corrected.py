"""The hubness correction in exported models."""

import json

import numpy as np
import pytest
import tensorflow as tf

import vse_tf
from vse_tf import export
from vse_tf.artifacts.storage import store
from vse_tf.exporting.storage import recall_loss
from vse_tf.indexing.embedding_models import ExportedModel
from vse_tf.models.folding import fold
from vse_tf.models.inference_tower import inference_tower

TEXTS = ["a red circle left of a blue star", "a star"]


@pytest.fixture(scope="module")
def photos(noise_images):
    return sorted(noise_images.iterdir())


@pytest.fixture(scope="module")
def models(corrected_run, photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    gallery = ["--gallery", str(photos[0].parent), "--gallery-storage", "int8", "--top-k", "12"]
    export.main(["--run", str(corrected_run), "--output", str(root), *gallery])
    return root


def test_exported_towers_give_the_runs_vectors(models, corrected_run, photos):
    live, exported = vse_tf.load(corrected_run), ExportedModel(models)
    assert (exported.dim, exported.plain_dim) == (12, 8)
    np.testing.assert_allclose(exported.encode_texts(TEXTS), live.encode_texts(TEXTS), atol=1e-6)
    vectors, _, _ = exported.encode_files([str(path) for path in photos], "fail")
    np.testing.assert_allclose(vectors, live.encode_images(photos), atol=1e-6)
    manifest = json.loads((models / "image_tower" / "1" / "manifest.json").read_text())
    assert [manifest[key] for key in ("format", "dim", "plain_dim")] == [2, 12, 8]


def test_retrieval_corrects_texts_and_not_images(models, corrected_run, tiny_run, photos):
    retrieval = tf.saved_model.load(str(models / "retrieval" / "1"))
    live, before = vse_tf.load(corrected_run), vse_tf.load(tiny_run)

    def check(answer, scores):
        rows = [[int(name.decode()[:2]) for name in line] for line in answer["ids"].numpy()]
        found = np.take_along_axis(scores, np.array(rows), axis=1)
        # int8 moves a score by less than 0.01; the order is that of the stored ones.
        np.testing.assert_allclose(answer["scores"], found, atol=1e-2)

    answer = retrieval.signatures["search_text"](text=tf.constant(TEXTS))
    check(answer, live.encode_texts(TEXTS) @ live.encode_images(photos).T)
    contents = tf.constant([path.read_bytes() for path in photos[:3]])
    cosines = before.encode_images(photos[:3]) @ before.encode_images(photos).T
    check(retrieval.signatures["search_image"](image_bytes=contents), cosines)


def test_an_int8_keeps_its_digits_for_the_plain_coordinates():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[200, 256]).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    folded = fold(vectors, rng.uniform(0, 0.5, 200).astype(np.float32), "image")
    stored = store(folded, "int8", plain_dim=256)
    assert stored.restored().shape == (200, 260)
    np.testing.assert_array_equal(stored.restored()[:, 256:], folded[:, 256:])
    assert stored.size == 200 * (256 + 4 + 4 * 4)
    error, of_plain = (
        np.abs(each.restored() - values).max() for each, values in ((stored, folded), (store(vectors, "int8"), vectors))
    )
    assert error < 1.1 * of_plain
    assert recall_loss(folded, stored, 10)["loss_at_k"] < 0.1


def test_a_tower_without_anything_to_add_is_itself(tiny_run):
    model = vse_tf.load(tiny_run)
    assert inference_tower(model.text_tower) is model.text_tower
    assert model.inference_tower("image") is model.image_tower
