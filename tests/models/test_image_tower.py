"""Image towers on the small CNN, on features and on keras.applications: what they compute, and a user's mistakes."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.image_towers import (
    MODEL,
    PIXELS,
    RNG,
    check_frozen,
    convolved,
    features,
    images,
    rebuilt,
    shaken,
    unit,
)
from vse_tf.config import ImageSettings
from vse_tf.errors import UserError
from vse_tf.models.applications import applications
from vse_tf.models.backbones import ApplicationsPreprocessing, backbone_of
from vse_tf.models.image_tower import image_size, image_tower_from_settings
from vse_tf.models.projection import head_of


def test_cnn_is_convolutions_flatten_dense_head() -> None:
    tower = image_tower_from_settings(ImageSettings(encoder="cnn", units=7, channels=[3, 4]), MODEL, (8, 8, 3))
    shaken(tower)
    k1, b1, k2, b2, units, bias, hidden, output, output_bias = (np.float64(w) for w in tower.get_weights())
    x = RNG.uniform(0, 255, (2, 8, 8, 3))
    y = convolved(convolved(x / 127.5 - 1, k1, b1), k2, b2).reshape(2, -1)
    y = np.maximum(np.maximum(y @ units + bias, 0) @ hidden, 0) @ output + output_bias
    np.testing.assert_allclose(tower(x), unit(y), atol=1e-5)
    assert backbone_of(tower) is None
    assert not tower.non_trainable_variables  # no batch statistics


@pytest.mark.parametrize(("side", "grid"), [(48, 3), (96, 6), (112, 4), (224, 5), (400, 5)])
def test_cnn_flattens_at_most_a_small_grid(side: int, grid: int) -> None:
    tower = image_tower_from_settings(ImageSettings(encoder="cnn", units=0), MODEL, (side, side, 3))
    assert head_of(tower).input_shape == (None, grid * grid * 96)


@pytest.mark.parametrize("shape", [(5,), (4, 5)])
def test_features_are_averaged_over_regions_and_normalised(shape: tuple[int, ...]) -> None:
    tower = shaken(image_tower_from_settings(features(), MODEL, shape))
    x = RNG.normal(size=(3, *shape)).astype(np.float32)
    kernel, bias, hidden, output, output_bias = tower.get_weights()
    feature = unit(x.reshape(3, -1, 5).mean(1))
    expected = unit(np.maximum((feature @ kernel + bias) @ hidden, 0) @ output + output_bias)
    np.testing.assert_allclose(tower(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "family", sorted({getattr(keras.applications, name).__module__.rpartition(".")[2] for name in applications()})
)
def test_preprocessing_is_the_familys_own(family: str) -> None:
    layer = ApplicationsPreprocessing(family)
    expected = getattr(keras.applications, family).preprocess_input(PIXELS.copy())
    np.testing.assert_allclose(tf.function(layer)(PIXELS), expected, rtol=1e-5, atol=1e-4)


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, str]:
    """A network of keras.applications with random weights and statistics, and its weights' file."""
    network = shaken(keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3)))
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    network.save_weights(path)
    return network, str(path)


def test_applications_with_a_weights_file(mobilenet: tuple[keras.Model, str]) -> None:
    network, path = mobilenet
    image = ImageSettings(encoder="applications:MobileNetV2", weights=path, units=8)
    tower = image_tower_from_settings(image, MODEL, (32, 32, 3))
    backbone = backbone_of(tower)
    assert backbone is tower.get_layer("backbone")
    expected = np.mean(network(PIXELS / 127.5 - 1), axis=(1, 2))
    np.testing.assert_allclose(backbone(PIXELS), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head_of(tower)(backbone(PIXELS)), tower(PIXELS), atol=1e-6)
    shaken(head_of(tower))  # biases too: without them the length of the feature would cancel out anyway
    np.testing.assert_allclose(head_of(tower)(3 * expected), tower(PIXELS), atol=1e-4)  # it is brought to unit length
    before = [weight.numpy() for weight in backbone.weights]
    check_frozen(tower, before)
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(PIXELS), tower(PIXELS))
    assert len(again.trainable_weights) == len(tower.trainable_weights) == 5


def test_efficientnets_normalisation_survives_assigned_weights(tmp_path: Path) -> None:
    # As ImageNet's weights have it: the standard deviation in the variance's place.
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    normalization = network.get_layer("normalization")
    normalization.adapt_mean.assign(mean)
    normalization.adapt_variance.assign(deviation)
    network.save_weights(tmp_path / "b0.weights.h5")
    image = ImageSettings(encoder="applications:EfficientNetB0", weights=str(tmp_path / "b0.weights.h5"), units=8)
    tower = image_tower_from_settings(image, MODEL, (32, 32, 3))
    # The plain network without its own normalisation, fed with what the weights were trained on.
    normalization.adapt_mean.assign(np.zeros(3))
    normalization.adapt_variance.assign(np.ones(3))
    normalization.finalize_state()
    expected = np.mean(network((PIXELS / 255 - mean) / deviation * 255), axis=(1, 2))
    np.testing.assert_allclose(backbone_of(tower)(PIXELS), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    again = rebuilt(tower)
    for ours, theirs in zip(again.variables, tower.variables, strict=True):
        ours.assign(theirs)
    assert np.array_equal(again(PIXELS), tower(PIXELS))


@pytest.mark.parametrize("image", [ImageSettings(encoder="cnn", units=8, channels=[4, 4]), features()])
def test_tower_survives_its_config_and_a_graph(image: ImageSettings) -> None:
    x = PIXELS if image.encoder == "cnn" else PIXELS[:, 0, :, 0]
    tower = image_tower_from_settings(image, MODEL, x.shape[1:])
    again = rebuilt(tower)
    again.set_weights(tower.get_weights())
    assert np.array_equal(again(x), tower(x))
    np.testing.assert_allclose(tf.function(again)(x), tower(x), atol=1e-6)


def test_same_seed_same_weights() -> None:
    def weights(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        return image_tower_from_settings(ImageSettings(encoder="cnn", channels=[4]), MODEL, (8, 8, 3)).get_weights()

    assert all(np.array_equal(a, b) for a, b in zip(weights(3), weights(3), strict=True))
    assert not np.array_equal(weights(3)[0], weights(4)[0])


@pytest.mark.parametrize(
    ("encoder", "kind", "message"),
    [
        ("features", "files", r"image\.encoder: features needs precomputed features"),
        ("cnn", "features", r"image\.encoder: cnn needs images; the data are features"),
        ("cn", "files", r"image\.encoder: no encoder 'cn' \(did you mean cnn\?\)"),
        ("cnn:small", "files", r"image\.encoder: no encoder 'cnn:small'"),
        ("hub:", "files", r"image\.encoder: no encoder 'hub:'"),
        ("applications:Resnet152", "files", r"image\.encoder: .*no model 'Resnet152' \(did you mean ResNet152"),
        ("applications:vgg19", "files", r"no model 'vgg19' \(did you mean VGG19"),
        ("hub:resnet50_imagenet", "files", r"image\.encoder: no KerasHub preset .*did you mean resnet_50_imagenet"),
    ],
)
def test_image_size_of_a_wrong_encoder(encoder: str, kind: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_size(ImageSettings(encoder=encoder), images(kind))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"encoder": "applications:MobileNet", "weights": "imagnet"}, (32, 32, 3), r"image\.weights: .*imagenet\?"),
        ({"encoder": "applications:MobileNet", "weights": "no.h5"}, (32, 32, 3), r"image\.weights: no file 'no\.h5'"),
        ({"encoder": "applications:MobileNet", "weights": "none"}, (16, 16, 3), r"image\.size 16x16.*at least 32x32"),
        ({"encoder": "applications:MobileNet"}, (10,), r"takes pixels \(h, w, 3\), the data have shape \(10,\)"),
        ({"encoder": "features"}, (8, 8, 3), r"takes features"),
        ({"encoder": "features"}, None, r"needs the shape of the precomputed features"),
        ({"encoder": "cnn", "channels": []}, (8, 8, 3), r"image\.channels"),
        ({"encoder": "cnn", "size": 0}, None, r"image\.size: 0x0"),
    ],
)
def test_build_with_a_wrong_setting(settings: dict[str, Any], shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_tower_from_settings(ImageSettings(**settings), MODEL, shape)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_do_not_fit(tmp_path: Path, mobilenet: tuple[keras.Model, str]) -> None:
    (tmp_path / "text.weights.h5").write_text("no weights")
    for path in (str(tmp_path / "text.weights.h5"), mobilenet[1]):
        image = ImageSettings(encoder="applications:MobileNet", weights=path)
        with pytest.raises(UserError, match=r"image\.weights .*without classifier"):
            image_tower_from_settings(image, MODEL, (32, 32, 3))
