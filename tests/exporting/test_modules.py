"""The towers as graphs: what they answer is what the live model answers."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.serving.pictures import encoded, every_kind, picture
from tests.serving.runs import write_run
from vse_tf.embedder import load
from vse_tf.exporting import golden_inputs
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.exporting.image_module import ImageModule
from vse_tf.exporting.slices import SLICE_SIZE
from vse_tf.exporting.text_module import MAX_TEXT_BYTES, TextModule, TokenIdsModule
from vse_tf.exporting.towers import text_model, text_module, tower_models
from vse_tf.indexing.embedding_models import unknown_texts
from vse_tf.models.projection import head_of


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return load(write_run(tmp_path_factory.mktemp("run") / "run"))


@pytest.fixture(scope="module")
def image(embedder):
    return ImageModule(embedder.image_tower, embedder.view, head_of(embedder.image_tower)).signatures()


@pytest.fixture(scope="module")
def text(embedder):
    return TextModule(FrozenTower(embedder.text_tower), embedder.tokenizer, embedder.settings.text)


def test_image_bytes_pixels_and_features_are_the_live_models(embedder, image, tmp_path):
    files = every_kind()
    for number, contents in enumerate(files):
        (tmp_path / str(number)).write_bytes(contents)
    expected = embedder.encode_images([tmp_path / str(number) for number in range(len(files))])
    found = image["serving_default"](image_bytes=tf.constant(files))["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    arrays = np.stack([np.asarray(picture(50, 31, seed)) for seed in range(3)])
    np.testing.assert_allclose(
        image["pixels"](pixels=tf.constant(arrays))["embedding"], embedder.encode_images(list(arrays)), atol=1e-6
    )
    features = golden_inputs.features(5, head_of(embedder.image_tower).input_shape[1])
    expected = head_of(embedder.image_tower)(features)
    np.testing.assert_allclose(image["features"](features=tf.constant(features))["embedding"], expected, atol=1e-6)


def test_pixels_of_the_views_own_size_are_not_resampled(embedder, image):
    shape = (2, *embedder.view.pixels, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    # The shorter side is resized first, so that even these are; of_pixels is the one definition of it.
    expected = embedder.encode_images(list(pixels))
    np.testing.assert_allclose(image["pixels"](pixels=tf.constant(pixels))["embedding"], expected, atol=1e-6)


def test_a_side_of_no_pixels_is_an_error_and_not_a_vector(image):
    with pytest.raises(tf.errors.InvalidArgumentError, match="pixels: images of 0x4"):
        image["pixels"](pixels=tf.zeros([1, 0, 4, 3], tf.uint8))


def test_empty_batches_have_empty_answers(embedder, image, text):
    dim = embedder.dim
    assert image["serving_default"](image_bytes=tf.zeros([0], tf.string))["embedding"].shape == (0, dim)
    assert image["pixels"](pixels=tf.zeros([0, 5, 7, 3], tf.uint8))["embedding"].shape == (0, dim)
    width = head_of(embedder.image_tower).input_shape[1]
    assert image["features"](features=tf.zeros([0, width]))["embedding"].shape == (0, dim)
    assert text.signatures()["serving_default"](text=tf.zeros([0], tf.string))["embedding"].shape == (0, dim)


def test_sentences_are_the_live_models_blank_and_broken_ones_too(embedder, text):
    run = text.signatures()["serving_default"]
    texts = [*golden_inputs.TEXTS, "dog", "A DOG!"]
    np.testing.assert_allclose(run(text=tf.constant(texts))["embedding"], embedder.encode_texts(texts), atol=1e-6)
    blank = run(text=tf.constant(["", "  ", "\t\n", "\u3000"]))["embedding"].numpy()
    np.testing.assert_allclose(blank, blank[[0, 0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(blank, axis=1), 1, atol=1e-5)
    broken = run(text=tf.constant([b"\xff\xfe dog \x80", b"a\0b"]))["embedding"].numpy()
    assert np.isfinite(broken).all()
    # The vector of a text does not depend on the others of its batch.
    np.testing.assert_allclose(run(text=tf.constant(["dog"]))["embedding"], embedder.encode_texts(["dog"]), atol=1e-6)


def test_texts_of_unknown_words_are_told_from_others(embedder, text):
    texts = ["xyzzy", "Xyzzy, plugh!", "a xyzzy", "dog", "", " ?!", "狗 🐕", "xyzzy " * 80 + "dog"]
    model = SimpleNamespace(encode_texts=embedder.encode_texts)
    unknown = unknown_texts(model, texts, embedder.encode_texts(texts))
    assert [
        each for each, known in zip(texts, text.known(tf.constant(texts)).numpy(), strict=True) if not known
    ] == unknown
    assert unknown == ["xyzzy", "Xyzzy, plugh!", "狗 🐕", "xyzzy " * 80 + "dog"]


def test_token_ids_with_any_mask_are_the_sentences(embedder, text):
    settings = embedder.settings.text
    run = TokenIdsModule(FrozenTower(embedder.text_tower), settings).signatures()["serving_default"]
    tokens = embedder.tokenizer(["a brown dog runs", "", "snow"])
    ids = tokens.to_tensor(0).numpy()
    mask = tf.ones_like(tokens).to_tensor(0).numpy()
    expected = embedder.encode_texts(["a brown dog runs", "", "snow"])
    np.testing.assert_allclose(run(token_ids=ids, padding_mask=mask)["embedding"], expected, atol=1e-6)
    # Padding on the left, and as much of it as one likes.
    ids, mask = (np.pad(part[:, ::1], [(0, 0), (90, 0)], constant_values=0) for part in (ids, mask))
    np.testing.assert_allclose(run(token_ids=ids, padding_mask=mask)["embedding"], expected, atol=1e-6)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a row has more than 64 tokens"):
        run(token_ids=np.zeros([1, 65], np.int32), padding_mask=np.ones([1, 65], np.int32))


def test_only_what_inference_reads_is_kept(embedder):
    tower = embedder.text_tower
    frozen = FrozenTower(tower)
    assert {id(v) for v in frozen.variables} == {id(w.value) for w in tower.weights}
    inputs = keras.Input((4,))
    used, unused = keras.layers.Dense(3), keras.layers.Dense(5)
    unused(inputs)
    assert len(FrozenTower(keras.Model(inputs, used(inputs))).variables) == 2


def test_recurrent_layers_are_traced_for_any_device(embedder, monkeypatch):
    seen = []
    layer = embedder.text_tower.get_layer("gru")
    call = type(layer).call
    monkeypatch.setattr(type(layer), "call", lambda self, *a, **k: seen.append(self.use_cudnn) or call(self, *a, **k))
    before = layer.use_cudnn
    FrozenTower(embedder.text_tower)
    assert seen == [False]
    assert layer.use_cudnn == before


def test_a_run_of_mixed_precision_gives_float32(tmp_path):
    embedder = load(write_run(tmp_path / "run", model__precision="mixed_bfloat16"))
    for model in tower_models(embedder):
        for golden in model.golden_requests:
            run = model.signatures[golden.signature]
            answer = run(**{name: tf.constant(value) for name, value in golden.inputs.items()})
            assert answer["embedding"].dtype == tf.float32
            assert golden.difference({"embedding": answer["embedding"].numpy()}) < 4e-2


@pytest.mark.parametrize("shape", [(12,), (5, 12)])
def test_a_run_of_precomputed_features_takes_features(tmp_path, shape):
    run = write_run(tmp_path / "run", shape, data__source="precomp", image__encoder="features")
    embedder = load(run)
    image, text = tower_models(embedder)
    assert set(image.signatures) == {"serving_default", "features"}
    features = golden_inputs.features(4, *shape)
    expected = embedder.encode_images(list(features))
    for name in image.signatures:
        found = image.signatures[name](features=tf.constant(features))["embedding"]
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert set(text.signatures) == {"serving_default"}


def test_a_probe_of_another_model_is_far_off(embedder, tmp_path):
    other = load(write_run(tmp_path / "run"))
    golden = text_model(embedder, FrozenTower(embedder.text_tower)).golden_requests[0]
    answer = text_module(other).of_text(tf.constant(golden.inputs["text"])).numpy()
    assert golden.difference({"embedding": answer}) > 0.1
    assert golden.difference({"embedding": answer * np.nan}) != golden.difference({"embedding": answer})


def test_rows_do_not_depend_on_the_slice_they_fall_in(embedder, image, text):
    files = [encoded(picture(30, 20, seed)) for seed in range(5)] * 30
    assert len(files) > 2 * SLICE_SIZE
    vectors = image["serving_default"](image_bytes=tf.constant(files))["embedding"].numpy()
    np.testing.assert_allclose(vectors, np.tile(vectors[:5], (30, 1)), atol=1e-6)
    texts = [*golden_inputs.TEXTS, "dog", "A DOG!"] * 20
    run = text.signatures()["serving_default"]
    np.testing.assert_allclose(run(text=tf.constant(texts))["embedding"], embedder.encode_texts(texts), atol=1e-6)
    pixels = np.stack([np.asarray(picture(50, 31, seed % 5)) for seed in range(SLICE_SIZE + 3)])
    found = image["pixels"](pixels=tf.constant(pixels))["embedding"]
    np.testing.assert_allclose(found, found.numpy()[np.arange(SLICE_SIZE + 3) % 5], atol=1e-6)


def test_bad_images_of_all_slices_are_named_by_their_number(image):
    files = [encoded(picture(30, 20))] * (3 * SLICE_SIZE)
    files[2] = files[SLICE_SIZE + 1] = files[-1] = b"none"
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        image["serving_default"](image_bytes=tf.constant(files))
    for number in (2, SLICE_SIZE + 1, 3 * SLICE_SIZE - 1):
        assert f"image_bytes[{number}]: not a JPEG" in caught.value.message
    assert caught.value.message.count("image_bytes[") == 3


def test_slices_are_smaller_where_images_are_larger(embedder):
    sizes = {side: dataclasses.replace(embedder.view, size=(side, side)) for side in (24, 224, 1024)}
    module = ImageModule(embedder.image_tower, embedder.view)
    found = {}
    for side, view in sizes.items():
        module.view = view
        found[side] = module._slice_size
    assert found == {24: SLICE_SIZE, 224: 10, 1024: 1}


def test_a_text_beyond_the_limit_is_an_error_that_names_it(text):
    run = text.signatures()["serving_default"]
    assert np.isfinite(run(text=tf.constant(["a " * (MAX_TEXT_BYTES // 2)]))["embedding"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"text\[1\]: 131073 bytes, at most 131072"):
        run(text=tf.constant(["dog", "a" * (MAX_TEXT_BYTES + 1), "b" * (MAX_TEXT_BYTES + 1)]))
