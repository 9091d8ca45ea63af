"""What the tests of image towers share: settings, pixels, random weights, slow formulas."""

import json
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from vse_tf.artifacts.keras_configs import check_keras_config
from vse_tf.config import ImageSettings, ModelSettings
from vse_tf.models.backbones import backbone_of
from vse_tf.models.projection import head_of

MODEL = ModelSettings(dim=6, head_units=10)
SCALE, OFFSET = [0.02, 0.03, 0.04], [-1.0, -2.0, -3.0]
RNG = np.random.default_rng(0)
PIXELS = RNG.uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)


def features(size: int = 8) -> ImageSettings:
    return ImageSettings(encoder="features", units=size)


def shaken(network: keras.Model) -> keras.Model:
    """Random weights everywhere, so that a statistic or a bias left out is seen."""
    for weight in network.weights:
        if weight.name == "moving_variance":
            weight.assign(RNG.uniform(0.5, 2, weight.shape))
        else:
            weight.assign_add(RNG.normal(0, 0.05, weight.shape))
    return network


def scaled(pixels: np.ndarray) -> np.ndarray:
    return pixels * np.array(SCALE, np.float32) + np.array(OFFSET, np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def rebuilt(tower: keras.Model) -> keras.Model:
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(tower)))
    check_keras_config({**config, "compile_config": None})
    return keras.saving.deserialize_keras_object(config)


def convolved(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """3×3, stride 2, "same" on an even side: one row and column of zeros at the end."""
    batch, height, width, _ = x.shape
    x = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
    y = np.zeros((batch, height // 2, width // 2, kernel.shape[-1]))
    for i in range(height // 2):
        for j in range(width // 2):
            y[:, i, j] = np.einsum("bhwc,hwcd->bd", x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel) + bias
    return np.maximum(y, 0)


def check_frozen(tower: keras.Model, before: list[np.ndarray]) -> None:
    """Training changes the head and nothing of the backbone, which runs as in inference."""
    backbone = backbone_of(tower)
    assert backbone is not None and not backbone.trainable_weights
    feature = np.asarray(backbone(PIXELS))
    np.testing.assert_array_equal(backbone(PIXELS, training=True), feature)
    head = head_of(tower).get_weights()
    tower.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    tower.fit(PIXELS, np.ones((3, 6)), epochs=2, batch_size=2, verbose=0)
    for weight, value in zip(backbone.weights, before, strict=True):
        assert np.array_equal(weight, value), weight.path
    np.testing.assert_array_equal(backbone(PIXELS), feature)
    assert any(not np.array_equal(new, old) for new, old in zip(head_of(tower).get_weights(), head, strict=True))


def images(kind: str, shape: tuple[int, ...] = (40, 50, 3)) -> Any:
    class Some(SimpleNamespace):
        def __len__(self) -> int:
            return 5

    return Some(kind=kind, load=lambda rows: np.zeros((len(rows), *shape), np.uint8))


def tiny_efficientnet(repeats: list[int], dropout: float = 0.0) -> keras.Model:
    """KerasHub's EfficientNet with two stages of eight channels; `repeats` are their numbers of blocks."""
    import keras_hub  # noqa: PLC0415

    return keras_hub.models.EfficientNetBackbone(
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=repeats,
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 8],
        stackwise_expansion_ratios=[1, 2],
        stackwise_strides=[1, 2],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        dropout=dropout,
        input_shape=(None, None, 3),
    )
