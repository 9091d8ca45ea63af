import keras
import numpy as np
import pytest

from tests.tiny import tiny_settings
from vse_tf.errors import UserError
from vse_tf.losses import ConVSE
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import build_image_tower
from vse_tf.models.text_tower import build_text_tower
from vse_tf.training.checkpoints import Checkpoints, Position
from vse_tf.training.optimizer import TowerAdam


def model(seed=0, **changed):
    settings = tiny_settings("unused", model__dropout=0.3, **changed)
    keras.utils.set_random_seed(seed)
    built = DualEncoder(
        build_image_tower(settings.image, settings.model, (16, 16, 3)),
        build_text_tower(settings.text, settings.model, 12),
    )
    built.compile(optimizer=TowerAdam(1e-2), loss=ConVSE())
    built.optimizer.build(built.trainable_variables)
    return built


def fit(built, steps):
    rng = np.random.default_rng(5)
    inputs = {
        "image": rng.uniform(0, 255, (8 * steps, 16, 16, 3)).astype(np.float32),
        "text": rng.integers(0, 12, (8 * steps, 4)).astype(np.int32),
    }
    built.fit(inputs, np.arange(8 * steps, dtype=np.int32), batch_size=8, shuffle=False, verbose=0)


def values(built):
    return [v.numpy() for v in [*built.image_tower.variables, *built.text_tower.variables, *built.optimizer.variables]]


def test_a_restored_model_goes_on_bit_for_bit_dropout_included(tmp_path):
    first = model()
    fit(first, 2)
    Checkpoints(tmp_path).save(first, Position(1, 2), best=True)
    again = model(seed=9)
    assert Checkpoints(tmp_path).restore(again) == Position(1, 2)
    fit(first, 3)
    fit(again, 3)
    for mine, other in zip(values(first), values(again), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_the_last_k_and_the_best_are_kept(tmp_path):
    built, checkpoints = model(), Checkpoints(tmp_path, keep=2)
    for epoch in range(1, 7):
        checkpoints.save(built, Position(epoch, 10 * epoch), best=epoch == 2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [f"step-{n:09d}" for n in (20, 50, 60)]
    assert checkpoints.position() == Position(6, 60)
    assert checkpoints.position("best") == Position(2, 20)
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Checkpoints(tmp_path).save(model(), Position(1, 1), best=True)
    with pytest.raises(UserError, match="another model"):
        Checkpoints(tmp_path).restore(model(text__units=8))


def test_a_flipped_byte_is_an_error_not_a_weight(tmp_path):
    built = model()
    Checkpoints(tmp_path).save(built, Position(1, 1), best=True)
    (file,) = tmp_path.glob("step-*/state.h5")
    data = bytearray(file.read_bytes())
    kernel = built.text_tower.get_layer("gru").get_weights()[1].tobytes()
    data[data.index(kernel[:32]) + 5] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"state\.h5"):
        Checkpoints(tmp_path).restore(built)


def test_no_checkpoint_says_what_to_do(tmp_path):
    assert Checkpoints(tmp_path).position() is None
    with pytest.raises(UserError, match="train again"):
        Checkpoints(tmp_path).restore(model())
