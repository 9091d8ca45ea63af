"""Two views at inference: one definition in every place that makes a vector of an image."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

import vse_tf
from tests.tiny import tiny_settings
from vse_tf.artifacts.rebuilding import view_of
from vse_tf.artifacts.trained_model import TrainedModel
from vse_tf.embedder import Embedder
from vse_tf.exporting.towers import image_module
from vse_tf.preprocessing.view import ImageView


@pytest.fixture(scope="module")
def plain(tiny_run):
    return vse_tf.load(tiny_run)


@pytest.fixture(scope="module")
def model(plain):
    return Embedder(TrainedModel(plain.model, plain.tokenizer, replace(plain.view, eval_flip=True)), plain.settings)


def mean(first, second):
    """The definition, in float64."""
    total = np.float64(first) + np.float64(second)
    return total / np.linalg.norm(total, axis=-1, keepdims=True)


def test_a_vector_is_the_mean_of_the_two_views(plain, model):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    expected = mean(plain.encode_images(images), plain.encode_images(images[:, :, ::-1]))
    found = model.encode_images(images)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, plain.encode_images(images), atol=1e-3)
    np.testing.assert_allclose(model.encode_images(images[:, :, ::-1]), found, atol=1e-6)
    exported = image_module(model).signatures()["pixels"](pixels=tf.constant(images))["embedding"]
    np.testing.assert_allclose(exported, expected, atol=1e-6)


def test_the_view_of_a_run_says_so(tmp_path):
    of = [
        ImageView.of(tiny_settings(tmp_path, image__eval_views=views).image, (16, 16), 10**8)
        for views in ("centre", "centre_flip")
    ]
    # Descriptions of runs with one view are as they were.
    assert "eval_flip" not in of[0].to_dict()
    for view in of:
        assert view_of(json.loads(json.dumps(view.to_dict()))) == view
    # Features have no mirror image.
    assert not ImageView.of(tiny_settings(tmp_path, image__eval_views="centre_flip").image, None, 10**8).eval_flip
