"""Image towers on KerasHub's backbones: what they compute, their sizes, freezing, and a user's mistakes."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.image_towers import (
    MODEL,
    OFFSET,
    PIXELS,
    RNG,
    SCALE,
    check_frozen,
    features,
    images,
    rebuilt,
    scaled,
    shaken,
    tiny_efficientnet,
)
from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of
from vse_tf.models.feature_cache import backbone_key
from vse_tf.models.image_tower import image_size, image_tower_from_settings
from vse_tf.models.projection import head_of


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of tiny presets with random weights."""
    import keras_hub  # noqa: PLC0415

    models, layers = keras_hub.models, keras_hub.layers
    folder = tmp_path_factory.mktemp("presets")
    clip = models.CLIPBackbone(
        models.CLIPVisionEncoder(8, 16, 1, 2, 32, image_shape=(32, 32, 3)),
        models.CLIPTextEncoder(50, 16, 16, 1, 2, 32, max_sequence_length=12),
        projection_dim=8,
    )
    networks = {
        "convolution": tiny_efficientnet([1, 1], dropout=0.5),
        "vit": models.ViTBackbone((32, 32, 3), 8, 1, 2, 16, 32, dropout_rate=0.3),
        "swin": models.SwinTransformerBackbone((32, 32, 3), 8, [1, 1], [1, 2], 4),
        "vgg": models.VGGBackbone([1, 1], [4, 8], image_shape=(64, 64, 3)),
        "clip": clip,
    }
    converters = {
        "convolution": layers.EfficientNetImageConverter,
        "vit": layers.ViTImageConverter,
        "swin": layers.SwinTransformerImageConverter,
        "vgg": layers.VGGImageConverter,
        "clip": layers.CLIPImageConverter,
    }
    for name, network in networks.items():
        shaken(network).save_to_preset(str(folder / name))
        if name != "swin":
            converters[name](image_size=(32, 32), scale=SCALE, offset=OFFSET).save_to_preset(str(folder / name))
    converters["swin"](image_size=None, scale=1 / 255).save_to_preset(str(folder / "swin"))
    models.BertBackbone(50, 1, 2, 16, 32, max_sequence_length=12).save_to_preset(str(folder / "text"))
    return {name: str(folder / name) for name in [*networks, "text"]}


def hub(preset: str, **kwargs: Any) -> ImageSettings:
    return ImageSettings(encoder=f"hub:{preset}", units=8, **kwargs)


def loaded(preset: str) -> Any:
    import keras_hub  # noqa: PLC0415

    return keras_hub.models.Backbone.from_preset(preset)


def test_trainable_backbone_learns_statistics_too(presets: dict[str, str]) -> None:
    tower = image_tower_from_settings(hub(presets["convolution"], trainable=True), MODEL)
    backbone = backbone_of(tower)
    before = {weight.path: weight.numpy() for weight in backbone.weights}
    tower.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    tower.fit(PIXELS, np.ones((3, 6)), verbose=0)
    changed = {weight.name for weight in backbone.weights if not np.array_equal(weight, before[weight.path])}
    assert {"kernel", "gamma", "moving_mean", "moving_variance"} <= changed
    assert not np.array_equal(backbone(PIXELS, training=True), backbone(PIXELS))
    assert rebuilt(tower).get_layer("backbone").trainable


def test_hub_convolution_is_its_mean_map_after_its_own_scaling(presets: dict[str, str]) -> None:
    tower = image_tower_from_settings(hub(presets["convolution"]), MODEL)
    assert tower.input_shape == (None, 32, 32, 3)
    shaken(head_of(tower))
    np.testing.assert_allclose(head_of(tower)(3 * backbone_of(tower)(PIXELS)), tower(PIXELS), atol=1e-5)
    network = loaded(presets["convolution"])
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), np.mean(network(scaled(PIXELS)), axis=(1, 2)), atol=1e-5)
    check_frozen(tower, [np.asarray(weight) for weight in network.weights])


def test_hub_takes_a_class_token_where_there_is_one(presets: dict[str, str]) -> None:
    vit, swin = loaded(presets["vit"]), loaded(presets["swin"])
    tower = image_tower_from_settings(hub(presets["vit"]), MODEL)
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), vit(scaled(PIXELS))[:, 0], atol=1e-5)
    check_frozen(tower, [np.asarray(weight) for weight in vit.weights])
    tower = image_tower_from_settings(hub(presets["swin"]), MODEL)  # its converter names no size: the backbone's
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), np.mean(swin(PIXELS / 255), axis=1), atol=1e-5)


def test_hub_clip_is_what_clip_compares_with_texts(presets: dict[str, str]) -> None:
    tower = image_tower_from_settings(hub(presets["clip"]), MODEL)
    expected = loaded(presets["clip"]).get_vision_embeddings(scaled(PIXELS))
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), expected, atol=1e-5)
    assert not any("text" in weight.path for weight in tower.weights)


def test_hub_gives_several_stages_of_a_convolution_only(presets: dict[str, str]) -> None:
    tower = image_tower_from_settings(hub(presets["convolution"], stages=2, pooling="mean_max"), MODEL)
    network = loaded(presets["convolution"])
    inner = keras.Model(network.input, network.get_layer("top_conv").input)
    parts = [of(x, axis=(1, 2)) for x in (network(scaled(PIXELS)), inner(scaled(PIXELS))) for of in (np.mean, np.max)]
    expected = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1)
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), expected, atol=1e-5)
    check_frozen(tower, [np.asarray(weight) for weight in network.weights])
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(PIXELS), tower(PIXELS))
    assert np.array_equal(again(PIXELS, training=True), tower(PIXELS))
    assert len(backbone_of(tower).weights) == len(network.weights)
    for name in ("vit", "swin", "clip"):
        with pytest.raises(UserError, match=r"image\.stages: 2, but preset .*(0 stages of maps|no maps)"):
            image_tower_from_settings(hub(presets[name], stages=2), MODEL)


def test_float32_networks_ignore_mixed_precision(presets: dict[str, str]) -> None:
    one, other = (
        backbone_of(image_tower_from_settings(hub(presets["convolution"]), ModelSettings(dim=6, precision=precision)))
        for precision in ("float32", "mixed_bfloat16")
    )
    assert np.array_equal(one(PIXELS), other(PIXELS))
    assert backbone_key(one) == backbone_key(other)
    mixed = backbone_of(
        image_tower_from_settings(hub(presets["vit"]), ModelSettings(dim=6, precision="mixed_bfloat16"))
    )
    assert not np.array_equal(mixed(PIXELS), backbone_of(image_tower_from_settings(hub(presets["vit"]), MODEL))(PIXELS))


def test_preset_saved_frozen_can_be_trained(presets: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(presets["convolution"], tmp_path / "frozen")
    network = loaded(presets["convolution"])
    network.trainable = False
    network.save_to_preset(str(tmp_path / "frozen"))
    tower = image_tower_from_settings(hub(str(tmp_path / "frozen"), trainable=True), MODEL)
    assert len(backbone_of(tower).trainable_weights) > 10


@pytest.mark.parametrize("name", ["convolution", "vit", "swin", "clip"])
def test_hub_tower_needs_its_preset_no_more(presets: dict[str, str], tmp_path: Path, name: str) -> None:
    shutil.copytree(presets[name], tmp_path / "preset")
    tower = image_tower_from_settings(hub(str(tmp_path / "preset")), MODEL)
    shutil.rmtree(tmp_path / "preset")
    expected = np.asarray(tower(PIXELS))
    assert "Lambda" not in json.dumps(keras.saving.serialize_keras_object(tower))
    tower.save_weights(tmp_path / "tower.weights.h5")
    again = rebuilt(tower)
    again.load_weights(tmp_path / "tower.weights.h5")
    assert np.array_equal(again(PIXELS), expected)
    assert np.array_equal(again(PIXELS, training=True), expected)
    assert len(again.trainable_weights) == len(tower.trainable_weights) == 5
    np.testing.assert_allclose(np.linalg.norm(expected, axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize("encoder", ["cnn", "vit", "applications:MobileNet"])
def test_mixed_precision_ends_in_float32(presets: dict[str, str], encoder: str) -> None:
    image = ImageSettings(
        encoder=f"hub:{presets[encoder]}" if encoder in presets else encoder, weights="none", units=8, channels=[4]
    )
    towers = [
        image_tower_from_settings(image, ModelSettings(dim=6, head_units=10, precision=precision), (32, 32, 3))
        for precision in ("float32", "mixed_bfloat16")
    ]
    towers[1].set_weights(shaken(towers[0]).get_weights())
    exact, mixed = (tower(PIXELS) for tower in towers)
    assert mixed.dtype == tf.float32
    np.testing.assert_allclose(mixed, exact, atol=0.1)
    assert not np.array_equal(mixed, exact)
    assert keras.config.dtype_policy().name == "float32"
    again = rebuilt(towers[1])
    again.set_weights(towers[1].get_weights())
    assert np.array_equal(again(PIXELS), mixed)
    convolutions = [x for x in towers[1]._flatten_layers() if isinstance(x, keras.layers.Conv2D)]
    assert {layer.compute_dtype for layer in convolutions} == {"bfloat16"}


def test_image_size(presets: dict[str, str]) -> None:
    for name, size in {"VGG19": 224, "EfficientNetB3": 300, "InceptionV3": 299, "EfficientNetV2S": 384}.items():
        assert image_size(ImageSettings(encoder=f"applications:{name}")) == (size, size)
    assert image_size(ImageSettings(encoder="applications:VGG19", size=(96, 128))) == (96, 128)
    assert image_size(hub(presets["vit"], size=64)) == (64, 64)
    assert image_size(hub(presets["convolution"])) == (32, 32)
    assert image_size(hub(presets["swin"])) == (32, 32)
    cnn = ImageSettings(encoder="cnn")
    assert image_size(cnn, images("pixels")) == (40, 50)
    assert image_size(features(), images("features")) is None
    with pytest.raises(UserError, match=r"image\.size.*cnn has no size of its own"):
        image_size(cnn, images("files"))


def test_preset_that_does_not_fit(presets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image\.encoder: .*no image converter.*BertBackbone"):
        image_tower_from_settings(hub(presets["text"], size=32), MODEL)
    with pytest.raises(UserError, match=r"image\.encoder: folder .* is not a KerasHub preset"):
        image_tower_from_settings(hub(str(tmp_path)), MODEL)
    shutil.copytree(presets["vit"], tmp_path / "bare")
    (tmp_path / "bare" / "image_converter.json").unlink()
    with pytest.raises(UserError, match=r"image\.encoder: .*has no image converter"):
        image_tower_from_settings(hub(str(tmp_path / "bare")), MODEL)
    (tmp_path / "bare" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"image\.encoder: folder .* is not a KerasHub preset"):
        image_tower_from_settings(hub(str(tmp_path / "bare")), MODEL)


def test_another_size_where_the_weights_allow_it(presets: dict[str, str]) -> None:
    for name in ("vgg", "convolution"):  # the one was saved with a fixed size, the other without
        tower = image_tower_from_settings(hub(presets[name], size=(32, 40)), MODEL)
        assert tower(RNG.uniform(0, 255, (2, 32, 40, 3))).shape == (2, 6)
    np.testing.assert_allclose(
        backbone_of(image_tower_from_settings(hub(presets["vgg"], size=32), MODEL))(PIXELS),
        vgg_at_32(presets["vgg"]),
        atol=1e-5,
    )
    for name in ("vit", "clip"):
        with pytest.raises(UserError, match=r"image\.size: 64x64, but preset .* takes 32x32"):
            image_tower_from_settings(hub(presets[name], size=64), MODEL)


def vgg_at_32(preset: str) -> np.ndarray:
    import keras_hub  # noqa: PLC0415

    network = keras_hub.models.VGGBackbone([1, 1], [4, 8], image_shape=(32, 32, 3))
    network.set_weights(loaded(preset).get_weights())
    return np.mean(network(scaled(PIXELS)), axis=(1, 2))


def test_real_preset() -> None:
    folder = os.environ.get("VSE_TF_PRESETS")
    if not folder:
        pytest.skip("VSE_TF_PRESETS is not set")
    import keras_hub  # noqa: PLC0415

    preset = str(Path(folder) / "efficientnet_lite0_imagenet")
    tower = image_tower_from_settings(hub(preset), MODEL)
    assert tower.input_shape == (None, 224, 224, 3)
    pixels = RNG.uniform(0, 255, (2, 224, 224, 3)).astype(np.float32)
    convert = keras_hub.layers.ImageConverter.from_preset(preset)
    expected = np.mean(loaded(preset)(convert(pixels)), axis=(1, 2))
    np.testing.assert_allclose(backbone_of(tower)(pixels), expected, atol=1e-4)
