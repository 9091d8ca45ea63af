"""Cached features stand in for a frozen backbone: the same run without it, and nothing computed twice."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from tests.reliability.runs import argv_of
from tests.tiny import arguments, rows_of, tiny_settings
from vse_tf import train
from vse_tf.artifacts.hubness_bank import read_bank
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.trained_model import TrainedModel
from vse_tf.config import ModelSettings, TextSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.data.sources import read
from vse_tf.embedder import Embedder, load
from vse_tf.errors import UserError
from vse_tf.models import feature_cache
from vse_tf.models.backbones import PretrainedBackbone, backbone_of
from vse_tf.models.feature_cache import (
    MOST_CONSTANTS,
    CaptionInputs,
    FeatureCache,
    ImageInputs,
    backbone_key,
    frozen_function,
    prepared,
)
from vse_tf.models.folding import plain
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.preprocessing.images import centre_view, decode, random_view
from vse_tf.preprocessing.view import ImageView
from vse_tf.training import trainer


def run_of(folder, bert_preset, cached, **changed):
    values = {
        "text__encoder": f"hub:{bert_preset}",
        "text__max_tokens": 32,
        "train__learning_rate": 1e-2,
        "data__cache_dir": folder / "cache",
        "data__text_features": str(cached).lower(),
        **changed,
    }
    return folder / f"run-{cached}", values


def trained(folder, bert_preset, cached, **changed):
    run, values = run_of(folder, bert_preset, cached, **changed)
    train.main(arguments(run, **values))
    return run


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_run_on_cached_text_features_is_the_run_without(bert_preset, tmp_path, pooling):
    with_cache, without = (trained(tmp_path, bert_preset, cached, text__pooling=pooling) for cached in (True, False))
    mine, other = load(with_cache), load(without)
    assert mine.model.trainable_variables
    for a, b in zip(mine.model.trainable_variables, other.model.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)
    for row, there in zip(rows_of(with_cache), rows_of(without), strict=True):
        assert row["train"]["loss"] == pytest.approx(there["train"]["loss"], abs=1e-4)
        # Recalls of twenty images move by ranks if two similarities are nearly equal.
        assert row["metrics"]["rsum"] == pytest.approx(there["metrics"]["rsum"], abs=20)
    results = json.loads((with_cache / "results.json").read_text())
    assert results["galleries"]["val"] == results["best"]["metrics"]


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_features_are_the_backbones_and_computed_once(bert_preset, tmp_path, monkeypatch, pooling):
    run = trained(tmp_path, bert_preset, True, text__pooling=pooling)
    embedder = load(run)
    split = read(embedder.settings.data).split("val")
    captions = CaptionInputs(embedder.tokenizer, embedder.settings.text)
    cache = FeatureCache(embedder.text_tower, captions, tmp_path / "cache", progress=False)

    def never(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(cache, "_run", never)
    cached = cache.split(split)
    assert len(cached.caption_features) == len(split.captions)
    got = embedder.model.text_tower.get_layer("head")(cached.caption_features.load(np.arange(len(split.captions))))
    np.testing.assert_allclose(got, embedder.encode_texts(split.captions), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_cached_features_of_images_give_the_towers_vectors(tmp_path, pooling):
    run = tmp_path / "run"
    changed = {"data__cache_dir": tmp_path / "cache", "image__pooling": pooling, "image__stages": 2}
    changed["model__hubness_correction"] = "true"
    train.main(argv_of("cached features", tmp_path, run, **changed))
    embedder, bad = load(run), BadImages("fail", 10**8)
    split = read(embedder.settings.data).split("train")
    images = ImageInputs(embedder.view, bad)
    cache = FeatureCache(embedder.image_tower, images, tmp_path / "cache", progress=False)
    refused = FeatureCache(embedder.image_tower, images, tmp_path / "cache", cache_size=1e-9, progress=False)
    with pytest.raises(UserError, match=r"data\.cache_size: the features of train take"):
        refused.split(split, ["centre", "crop7"])
    cached = cache.split(split, ["centre", "flip"])
    assert cached.images.load(np.zeros([1], np.int64)).ndim == (3 if pooling == "attention" else 2)
    stored, live = (embedder.encode_split(one, bad).image for one in (cached, split))
    np.testing.assert_allclose(stored, live, atol=1e-4)
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in split.images.paths]
    mirrored = plain(embedder.encode_images([image[:, ::-1] for image in arrays]), embedder.plain_dim)
    rows = np.arange(len(split))
    got = embedder.model.image_tower.get_layer("head")(cached.images.load_views(rows, rows * 0 + 1))
    np.testing.assert_allclose(got, mirrored, atol=2e-2)
    # The bank of the hubness correction is of the centre views, as evaluation sees them.
    np.testing.assert_allclose(read_bank(RunFolder(run)).images, live, atol=1e-3)
    # Two views at inference are read from the same cache.
    two = Embedder(
        TrainedModel(embedder.model, embedder.tokenizer, replace(embedder.view, eval_flip=True)), embedder.settings
    )
    both = FeatureCache(embedder.image_tower, ImageInputs(two.view, bad), tmp_path / "cache", progress=False)
    assert both.folder == cache.folder
    stored, live = (two.encode_split(one, bad).image for one in (both.split(split), split))
    np.testing.assert_allclose(stored, live, atol=1e-4)


def test_other_captions_and_other_weights_are_other_features(bert_preset, tmp_path):
    embedder = load(trained(tmp_path, bert_preset, True))
    made = [path.relative_to(tmp_path / "cache") for path in (tmp_path / "cache").rglob("*.npy")]
    assert len({path.parts[:2] for path in made}) == 1
    assert len({path.parts[:3] for path in made}) == 2  # train and val
    weight = embedder.text_tower.get_layer("backbone").weights[0]
    weight.assign(weight + 1e-3)
    captions = CaptionInputs(embedder.tokenizer, embedder.settings.text)
    cache = FeatureCache(embedder.text_tower, captions, tmp_path / "cache")
    assert cache.folder.relative_to(tmp_path / "cache") not in {Path(*path.parts[:2]) for path in made}


def test_a_backbone_has_one_key_whatever_was_built_before_it(bert_preset):
    settings = TextSettings(encoder=f"hub:{bert_preset}", max_tokens=32, pooling="attention")
    keras.backend.clear_session()
    keys = {backbone_key(backbone_of(text_tower_from_settings(settings, ModelSettings(), 17))) for _ in range(3)}
    assert len(keys) == 1


def small_tower(size):
    """A frozen backbone with batch normalisation that does something."""
    pixels, image = keras.Input((*size, 3)), keras.Input((*size, 3))
    normalised = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(pixels))
    feature = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(normalised))
    backbone = PretrainedBackbone(pixels, feature, name="backbone", trainable=False)
    for number, weight in enumerate(backbone.weights):
        weight.assign(np.random.default_rng(number).uniform(0.5, 1.5, weight.shape))
    return keras.Model(image, backbone(image))


def test_the_views_of_a_photo_are_read_and_decoded_once(tmp_path, monkeypatch):
    paths, view, reads = [], ImageView((8, 8), 9, random_crop=True, flip=True), []
    for number in range(3):
        paths.append(str(tmp_path / f"{number}.png"))
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(paths[-1])
    Path(paths[1]).write_bytes(b"broken")
    original = FileImages.read
    monkeypatch.setattr(
        FileImages, "read", lambda images, row: reads.append(images.paths[row]) or original(images, row)
    )
    split = Split(
        "train", tuple(Record(path, ("a",), "train", i) for i, path in enumerate(paths)), FileImages((*paths,))
    )
    tower = small_tower(view.size)
    cache = FeatureCache(tower, ImageInputs(view, BadImages("skip", 10**6)), tmp_path / "cache", progress=False)
    cached = cache.split(split, ["centre", "flip", "crop0", "crop7"])
    # The broken one again, for the reason.
    assert sorted(reads) == sorted([*paths, paths[1]])
    assert cached.images.rows.tolist() == [0, 2]
    for position, row in enumerate((0, 2)):
        image = decode(Path(paths[row]).read_bytes(), 10**6)
        centre = centre_view(image, view.size, view.resize)
        crops = [random_view(image, view.size, view.crop_scale, seed=[number, row], flip=True) for number in (0, 7)]
        expected = backbone_of(tower)(np.stack([centre, centre[:, ::-1], *crops]))
        found = cached.images.load_views(np.full(4, position), np.arange(4))
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("most", [0, MOST_CONSTANTS])
def test_a_small_frozen_backbone_runs_with_constant_weights(monkeypatch, most):
    monkeypatch.setattr(feature_cache, "MOST_CONSTANTS", most)
    backbone = backbone_of(small_tower((8, 8)))
    run, pixels = frozen_function(backbone), np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(run(pixels), backbone(pixels), rtol=1e-4)
    assert len(run.get_concrete_function().captured_inputs) == (0 if most else len(backbone.weights))


VIEW = ImageView((24, 32), 36, random_crop=True, crop_scale=(0.2, 0.9), flip=True)


def test_every_field_that_shapes_features_is_in_the_key(monkeypatch):
    # As it was in keys of the version before there was a version of the pixels.
    assert prepared(VIEW) == {"size": (24, 32), "resize": 36, "crop_scale": (0.2, 0.9), "flip": True}
    # An image that a lower limit refused is cached as one that cannot be read.
    other = {"size": (24, 33), "resize": None, "crop_scale": (0.2, 1.0), "flip": False, "max_pixels": 10**6}
    assert other.keys() | feature_cache.NO_PIXELS == {field.name for field in dataclasses.fields(ImageView)}
    for name, value in other.items():
        assert prepared(dataclasses.replace(VIEW, **{name: value})) != prepared(VIEW)
    monkeypatch.setattr(feature_cache, "PIXELS_VERSION", 2)
    assert prepared(VIEW)["pixels_version"] == 2


def test_a_new_field_keeps_the_keys_of_its_default():
    @dataclasses.dataclass(frozen=True)
    class Later(ImageView):
        sharpen: float = 0.0

    values = dataclasses.asdict(VIEW)
    assert prepared(Later(**values)) == prepared(VIEW)
    assert prepared(Later(**values, sharpen=1.0)) != prepared(VIEW)


def test_an_encoder_without_frozen_backbone_is_one_line(bert_preset, tmp_path):
    for changed in ({"text__encoder": "gru"}, {"text__trainable": "true"}):
        run, values = run_of(tmp_path, bert_preset, True, **changed)
        with pytest.raises(UserError, match=r"data\.text_features: needs a frozen pretrained backbone"):
            trainer.train(tiny_settings(run, **values))
