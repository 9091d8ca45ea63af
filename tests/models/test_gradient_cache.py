"""A batch encoded in micro-batches against the same batch encoded at once."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import tiny_settings
from vse_tf.errors import UserError
from vse_tf.losses import build
from vse_tf.models.backbones import PretrainedBackbone, backbone_of
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.gradient_cache import cached_gradients, check_micro_batch
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.projection import build_head, head_options
from vse_tf.models.temperature import LearnedTemperature
from vse_tf.models.text_tower import text_tower_from_settings

BATCH = 12
RNG = np.random.default_rng(5)
INPUTS = {
    "image": RNG.uniform(0, 255, (BATCH, 16, 16, 3)).astype(np.float32),
    "text": RNG.integers(0, 12, (BATCH, 4)).astype(np.int32),
}
IMAGE_ID = np.int32([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2])


def pretrained_tower(settings, trainable):
    """An image tower whose backbone has batch statistics."""
    pixels = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, strides=4)(keras.layers.Rescaling(1 / 127.5, -1)(pixels))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    backbone = PretrainedBackbone(pixels, x, name="backbone", trainable=trainable)
    image = keras.Input((16, 16, 3))
    return keras.Model(
        image, build_head((4,), settings.model.dim, **head_options(settings.model))(backbone(image)), name="image_tower"
    )


def dual_encoder(loss="convse", *, frozen=False, micro_batch=0, temperature=None, clip_norm=0.5, **changed):
    settings = tiny_settings("unused", **changed)
    keras.utils.set_random_seed(3)
    image = (
        pretrained_tower(settings, False)
        if frozen
        else image_tower_from_settings(settings.image, settings.model, (16, 16, 3))
    )
    text = text_tower_from_settings(settings.text, settings.model, 12)
    model = DualEncoder(image, text, clip_norm=clip_norm, temperature=temperature, micro_batch=micro_batch)
    optimizer = keras.optimizers.SGD(0.5)
    if settings.model.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0**10)
    model.compile(optimizer=optimizer, loss=build(loss))
    optimizer.build(model.trainable_variables)
    return model


def stepped(model, steps=2):
    """Weights and logs after some steps on the same batch."""
    data = tf.data.Dataset.from_tensors((INPUTS, IMAGE_ID)).repeat(steps)
    logs = model.fit(data, verbose=0).history
    return [v.numpy() for v in model.trainable_variables], {k: np.reshape(v, -1)[0] for k, v in logs.items()}


def close(found, expected, limit):
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) <= limit * np.linalg.norm(other) + 1e-7


@pytest.mark.parametrize(("loss", "frozen"), [("convse", False), ("convse++", True), ("sigmoid", False)])
def test_the_step_is_that_of_the_full_batch(loss, frozen):
    learned = {"sigmoid": lambda: LearnedTemperature(0.1, bias=-10.0)}.get(loss, lambda: None)
    expected, logs = stepped(dual_encoder(loss, frozen=frozen, temperature=learned()))
    found, found_logs = stepped(dual_encoder(loss, frozen=frozen, temperature=learned(), micro_batch=4))
    close(found, expected, 1e-5)
    assert found_logs == pytest.approx(logs, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_agrees_to_its_own_rounding(precision):
    start = [v.numpy() for v in dual_encoder().trainable_variables]
    expected, _ = stepped(dual_encoder(model__precision=precision), 1)
    found, _ = stepped(dual_encoder(model__precision=precision, micro_batch=4), 1)
    rounding = 2.0**-10 if precision == "mixed_float16" else 2.0**-7
    moved = [one - other for one, other in zip(expected, start, strict=True)]
    assert max(np.abs(part).max() for part in moved) > 1e-3
    close([one - other for one, other in zip(found, start, strict=True)], moved, 10 * rounding)


def test_both_passes_draw_the_same_dropout_masks():
    """Against all micro-batches under one tape: the same masks, drawn once."""
    changed = {"model__dropout": 0.4, "text__dropout": 0.4}
    at_once, cached = dual_encoder(**changed), dual_encoder(**changed)

    @tf.function
    def of_one_tape():
        with tf.GradientTape() as tape:
            parts = [
                at_once({name: value[at : at + 4] for name, value in INPUTS.items()}, training=True)
                for at in range(0, BATCH, 4)
            ]
            loss = at_once.compute_loss(y=IMAGE_ID, y_pred=tf.concat(parts, axis=0))
        return tape.gradient(loss, at_once.trainable_variables)

    @tf.function
    def of_cached():
        return cached_gradients(cached, {k: tf.constant(v) for k, v in INPUTS.items()}, tf.constant(IMAGE_ID), 4)[2]

    for _ in range(2):
        close([g.numpy() for g in of_cached()], [tf.convert_to_tensor(g).numpy() for g in of_one_tape()], 1e-5)
    for mine, other in zip(cached.variables, at_once.variables, strict=True):
        np.testing.assert_array_equal(mine.numpy(), other.numpy(), err_msg=mine.path)


def test_a_batch_of_unknown_size():
    model, at_once = dual_encoder(micro_batch=4), dual_encoder()
    images, tokens = tf.TensorSpec([None, 16, 16, 3]), tf.TensorSpec([None, 4], tf.int32)

    @tf.function(input_signature=({"image": images, "text": tokens}, tf.TensorSpec([None])))
    def gradients(inputs, image_id):
        return cached_gradients(model, inputs, image_id, 4)[2]

    with tf.GradientTape() as tape:
        loss = at_once.compute_loss(y=IMAGE_ID, y_pred=at_once(INPUTS, training=True))
    expected = [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, at_once.trainable_variables)]
    close([g.numpy() for g in gradients(INPUTS, IMAGE_ID.astype(np.float32))], expected, 1e-5)


def test_a_frozen_backbone_runs_once(monkeypatch):
    model = dual_encoder(frozen=True, micro_batch=4)
    runs = []
    backbone = backbone_of(model.image_tower)
    call = backbone.call
    monkeypatch.setattr(
        backbone, "call", lambda x, **kw: (tf.py_function(lambda: runs.append(1), [], []), call(x, **kw))[1]
    )
    stepped(model, 1)
    assert len(runs) == BATCH // 4


def test_trained_batch_statistics_are_refused_with_the_reason():
    settings = tiny_settings("unused")
    text = text_tower_from_settings(settings.text, settings.model, 12)
    model = DualEncoder(pretrained_tower(settings, True), text, micro_batch=4)
    with pytest.raises(UserError, match=r"train\.micro_batch: the image_tower's layer batch_norm.*batch statistics"):
        check_micro_batch(model, 4)
    check_micro_batch(DualEncoder(pretrained_tower(settings, False), text), 4)


def test_micro_batches_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(UserError, match=r"train\.micro_batch: .*12 pairs.*5"):
        cached_gradients(dual_encoder(), {k: tf.constant(v) for k, v in INPUTS.items()}, tf.constant(IMAGE_ID), 5)
    with pytest.raises(UserError, match=r"train\.micro_batch: 6 .*4 replicas"):
        check_micro_batch(dual_encoder(), 6, replicas=4)
