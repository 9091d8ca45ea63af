"""One vector from the maps of a network's last stages."""

import keras
import numpy as np
import pytest

from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.errors import UserError
from vse_tf.models.backbones import backbone_of
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.pooling import last_stages, pool_maps

PIXELS = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def residual_network():
    """Widths 4, 8, 8 with a block of width 16 inside a way around it, and 6 at the end."""
    layers = keras.layers
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, strides=2, name="stem")(inputs)
    x = layers.Conv2D(8, 3, strides=2, name="narrow")(x)
    inner = layers.Conv2D(16, 1, name="inner_1")(x)
    inner = layers.Conv2D(8, 1, name="inner_2")(inner)
    x = layers.Add(name="joined")([x, inner])
    x = layers.Conv2D(6, 1, name="top")(x)
    return keras.Model(inputs, layers.ReLU(name="top_activation")(x))


def test_stages_are_the_last_maps_of_a_width_that_all_must_pass():
    network = residual_network()
    found = [x._keras_history.operation.name for x in last_stages(network, 3, "network")]
    assert found == ["top_activation", "joined", "stem"]
    with pytest.raises(UserError, match=r"image\.stages: 4, but network has 3 stages of maps"):
        last_stages(network, 4, "network")


def test_parts_are_means_and_maxima_of_unit_length():
    random = np.random.default_rng(1)
    maps = [random.normal(size=(2, 4, 4, 5)).astype(np.float32), random.normal(size=(2, 2, 2, 3)).astype(np.float32)]
    got = np.asarray(pool_maps(maps, "mean_max"))
    parts = [part for x in maps for part in (x.mean((1, 2)), x.max((1, 2)))]
    expected = np.concatenate([part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(pool_maps(maps[:1], "mean"), maps[0].mean((1, 2)), atol=1e-6)
    tokens = maps[0][:, 0]
    got = np.asarray(pool_maps([tokens], "mean_max"))[:, 5:]
    np.testing.assert_allclose(got, tokens.max(1) / np.linalg.norm(tokens.max(1), axis=1, keepdims=True), atol=1e-6)


def test_a_tower_of_several_stages_survives_its_config():
    settings = ImageSettings(
        encoder="applications:MobileNet", weights="none", size=32, units=0, stages=2, pooling="mean_max"
    )
    tower = image_tower_from_settings(settings, ModelSettings(dim=6, head=False))
    backbone = backbone_of(tower)
    assert backbone.output_shape == (None, 2 * (1024 + 512))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tower))
    again.set_weights(tower.get_weights())
    np.testing.assert_array_equal(again(PIXELS), tower(PIXELS))
    single = image_tower_from_settings(
        ImageSettings(encoder="applications:MobileNet", weights="none", size=32, units=0), ModelSettings(dim=6)
    )
    for weight in backbone.weights:
        if weight.name == "moving_variance":
            # A fresh network's maps all but vanish.
            weight.assign(weight * 0.02)
    values = {weight.path: weight.numpy() for weight in backbone.weights}
    for weight in backbone_of(single).weights:
        weight.assign(values[weight.path])
    mean = np.asarray(backbone_of(single)(PIXELS))
    mean = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(backbone(PIXELS)[:, :1024], mean, atol=1e-5)
