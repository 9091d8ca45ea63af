import errno
import json
import os
import resource
import shutil

import h5py
import keras
import numpy as np
import pytest

from tests.tiny import tiny_settings
from vse_tf.artifacts import checkpoints as module
from vse_tf.artifacts.checkpoint_files import Position, find_checkpoint
from vse_tf.artifacts.checkpoints import Checkpoints
from vse_tf.errors import UserError
from vse_tf.losses import ConVSE
from vse_tf.models.dual_encoder import DualEncoder
from vse_tf.models.image_tower import image_tower_from_settings
from vse_tf.models.text_tower import text_tower_from_settings
from vse_tf.training.optimizer import TowerAdam

pytestmark = pytest.mark.lowest


def model(seed=0, **changed):
    settings = tiny_settings("unused", model__dropout=0.3, **changed)
    keras.utils.set_random_seed(seed)
    built = DualEncoder(
        image_tower_from_settings(settings.image, settings.model, (16, 16, 3)),
        text_tower_from_settings(settings.text, settings.model, 12),
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
    assert find_checkpoint(checkpoints.folder).position == Position(6, 60)
    assert find_checkpoint(checkpoints.folder, "best").position == Position(2, 20)
    assert not list(tmp_path.glob(".*"))


def test_the_best_is_kept_without_its_optimizer(tmp_path):
    built, checkpoints = model(), Checkpoints(tmp_path, keep=2)
    for epoch in range(1, 5):
        checkpoints.save(built, Position(epoch, 10 * epoch), best=epoch == 1)
    with_optimizer = [path.parent.name for path in sorted(tmp_path.glob("step-*/optimizer.h5"))]
    assert with_optimizer == ["step-000000030", "step-000000040"]
    assert checkpoints.restore(model(seed=3), "best", training=False) == Position(1, 10)
    with pytest.raises(UserError, match=r"step-000000010/optimizer\.h5"):
        checkpoints.restore(model(), "best")


def test_a_finished_run_holds_the_best_weights_and_one_state(tmp_path):
    built, checkpoints = model(), Checkpoints(tmp_path, keep=2)
    for epoch in range(1, 5):
        checkpoints.save(built, Position(epoch, 10 * epoch), best=epoch == 1)
    checkpoints.finish()
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("step-*/*.h5"))
    assert files == ["step-000000010/state.h5", "step-000000040/optimizer.h5", "step-000000040/state.h5"]
    assert Checkpoints(tmp_path).newest().position == Position(4, 40)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    Checkpoints(tmp_path).save(model(), Position(1, 1), best=True)
    with pytest.raises(UserError, match="another model"):
        Checkpoints(tmp_path).restore(model(text__units=8))


def of_features(old_names, **changed):
    """A model whose layers in and before the head all have the same shape."""
    given = {"data__source": "precomp", "image__encoder": "features", "image__units": 8, "text__units": 8}
    head = changed if "model__head" in changed else {"model__head": "true", "model__head_units": 8, **changed}
    settings = tiny_settings("unused", **{**given, **head})
    image = image_tower_from_settings(settings.image, settings.model, (8,))
    config = json.dumps(DualEncoder(image, text_tower_from_settings(settings.text, settings.model, 12)).get_config())
    if old_names:
        config = config.replace('"head_units"', '"head_hidden"').replace('"feature_units"', '"head_units"')
    built = DualEncoder.from_config(json.loads(config))
    built.compile(optimizer=TowerAdam(1e-2), loss=ConVSE())
    built.optimizer.build(built.trainable_variables)
    return built


@pytest.mark.parametrize("changed", [{}, {"model__head": "false"}, {"image__units": 0}], ids=str)
def test_weights_of_renamed_layers_find_their_place(tmp_path, monkeypatch, changed):
    old = of_features(old_names=True, **changed)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_renamed", lambda name, layers: name)
        Checkpoints(tmp_path / "old").save(old, Position(1, 1), best=True)
    Checkpoints(tmp_path / "new").save(old, Position(1, 1), best=True)
    with h5py.File(next(tmp_path.glob("old/*/state.h5"))) as file:
        names = set(file["model/image_tower"])
    assert ("head_hidden" in names) == ("model__head" not in changed) and "feature_units" not in names
    for folder in ("old", "new"):
        for old_names in (False, True):
            again = of_features(old_names, **changed)
            Checkpoints(tmp_path / folder).restore(again)
            for mine, other in zip(values(old), values(again), strict=True):
                np.testing.assert_array_equal(mine, other)


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
    assert find_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match="train again"):
        Checkpoints(tmp_path).restore(model())


def test_a_measured_step_is_saved_again_by_its_description_only(tmp_path):
    built, checkpoints = model(), Checkpoints(tmp_path)
    checkpoints.save(built, Position(0, 4, step_in_epoch=4), best=False, progress={"rows": []})
    assert find_checkpoint(checkpoints.folder, "best") is None
    written = (tmp_path / "step-000000004" / "state.h5").stat().st_mtime_ns
    checkpoints.save(built, Position(1, 4), best=True, progress={"rows": [1]})
    assert (tmp_path / "step-000000004" / "state.h5").stat().st_mtime_ns == written
    found = Checkpoints(tmp_path).newest()
    assert (found.position, found.best, found.progress) == (Position(1, 4), "step-000000004", {"rows": [1]})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model and its checkpoints of steps 4 (the best of then), 8 and 12 (the best now); step 8 needs step 4."""
    folder = tmp_path_factory.mktemp("three")
    built, checkpoints = model(), Checkpoints(folder, keep=2)
    for step in (4, 8, 12):
        built.trainable_variables[0].assign_add(built.trainable_variables[0] + 1)
        checkpoints.save(built, Position(step // 4, step), best=step != 8, progress={"rows": [step]})
    assert sorted(path.name for path in folder.glob("step-*")) == [f"step-{n:09d}" for n in (4, 8, 12)]
    return built, folder


@pytest.fixture
def three(trained, tmp_path):
    """A copy of those checkpoints."""
    return shutil.copytree(trained[1], tmp_path / "checkpoints")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 3] ^= 1
    path.write_bytes(contents)


DAMAGE = {"cut short": cut, "one bit flipped": flip, "gone": lambda path: path.unlink()}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("file", ["state.h5", "optimizer.h5", "position.json"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(three, trained, capsys, file, how):
    DAMAGE[how](three / "step-000000012" / file)
    built, checkpoints = trained[0], Checkpoints(three)
    found = checkpoints.newest()
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    for expected in (f"step-000000012/{file}: damaged checkpoint", "going back"):
        assert expected in printed
    assert (found.position, found.best, found.progress) == (Position(2, 8), "step-000000004", {"rows": [8]})
    checkpoints.resume(built, found, tidy=True)
    assert not (three / "step-000000012").exists()
    assert find_checkpoint(checkpoints.folder).position == Position(2, 8)
    assert checkpoints.restore(built, "best", training=False) == Position(1, 4)


def test_any_flipped_bit_of_a_description_is_noticed(three):
    path = three / "step-000000012" / "position.json"
    original = path.read_bytes()
    for place in range(0, len(original) - 1, 3):
        contents = bytearray(original)
        contents[place] ^= 1 << place % 7
        path.write_bytes(contents)
        found = Checkpoints(three).newest()
        # White space and the like may change; a value may not.
        assert found.position.step == 8 or json.loads(contents) == json.loads(original), place
    path.write_bytes(original)
    assert Checkpoints(three).newest().position.step == 12


def test_damage_of_all_checkpoints_is_one_line(three):
    for path in three.glob("step-*/state.h5"):
        cut(path)
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        Checkpoints(three).newest()


def test_a_damaged_best_model_is_an_error_and_not_another_model(three, trained):
    cut(three / "step-000000012" / "state.h5")
    with pytest.raises(UserError, match=r"step-000000012/state\.h5: damaged checkpoint"):
        Checkpoints(three).restore(trained[0], "best", training=False)


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("fault", ["pathlib.Path.write_bytes", "os.fsync", "pathlib.Path.replace", "a limit"])
def test_a_full_disk_leaves_the_checkpoint_before_valid(trained, tmp_path, monkeypatch, fault):
    built, checkpoints = trained[0], Checkpoints(tmp_path)
    checkpoints.save(built, Position(1, 4), best=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if fault == "a limit":
            # The system itself refuses, in the middle of the file.
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        else:
            patch.setattr(fault, full)
        try:
            with pytest.raises(UserError, match=r"cannot be written: .*(No space left on device|too large).*free some"):
                checkpoints.save(built, Position(2, 8), best=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    if fault != "pathlib.Path.replace":
        assert sorted(path.name for path in tmp_path.iterdir()) == ["pointer.json", "step-000000004"]
    assert not list(tmp_path.glob(".*"))
    again = Checkpoints(tmp_path)
    assert again.restore(built, "best") == Position(1, 4)
    again.save(built, Position(2, 8), best=True)
    assert find_checkpoint(again.folder).position == Position(2, 8)


@pytest.mark.parametrize("value", ["../../x", "/etc", "step-000000004/../../x", "", 7, ["step-000000004"]])
def test_a_pointer_out_of_the_folder_is_not_followed(trained, tmp_path, value):
    folder = tmp_path / "run" / "checkpoints"
    built = trained[0]
    Checkpoints(folder).save(built, Position(1, 4), best=True)
    shutil.copytree(folder / "step-000000004", tmp_path / "x")
    (folder / "pointer.json").write_text(json.dumps({"last": value, "best": value}))
    with pytest.raises(UserError, match="no checkpoint"):
        Checkpoints(folder).restore(built)
    # Continuing looks for itself.
    assert Checkpoints(folder).newest().position == Position(1, 4)


@pytest.mark.parametrize("contents", ["[1]", "{", "null", "[" * 100_000])
def test_a_broken_pointer_is_none(tmp_path, contents):
    tmp_path.joinpath("pointer.json").write_text(contents)
    assert find_checkpoint(tmp_path) is None


def test_values_in_other_files_are_not_read(trained, tmp_path):
    built = trained[0]
    Checkpoints(tmp_path).save(built, Position(1, 4), best=True)
    path = tmp_path / "step-000000004" / "state.h5"
    key = next(key for key in h5py.File(path)["model/text_tower/gru/gru_cell"])
    name = f"model/text_tower/gru/gru_cell/{key}"
    with h5py.File(path) as file:
        value = file[name][()]
    with h5py.File(tmp_path / "elsewhere.h5", "w") as file:
        file["value"] = value
    value.tofile(tmp_path / "elsewhere.bin")
    layout = h5py.VirtualLayout(value.shape, value.dtype)
    layout[:] = h5py.VirtualSource(tmp_path / "elsewhere.h5", "value", value.shape)
    tricks = {
        "external link": lambda file: file.__setitem__(name, h5py.ExternalLink(tmp_path / "elsewhere.h5", "value")),
        "soft link": lambda file: file.__setitem__(name, h5py.SoftLink("/model/image_tower")),
        "external storage": lambda file: file.create_dataset(
            name, value.shape, value.dtype, external=[(tmp_path / "elsewhere.bin", 0, value.nbytes)]
        ),
        "virtual": lambda file: file.create_virtual_dataset(name, layout),
        "group": lambda file: file.create_group(name),
    }
    original = path.read_bytes()
    for trick, put in tricks.items():
        path.write_bytes(original)
        with h5py.File(path, "r+") as file:
            del file[name]
            put(file)
            if trick not in ("soft link", "group"):
                np.testing.assert_array_equal(file[name][()], value)
        with pytest.raises(UserError, match="another model's"):
            module._read(path, module._changing(built.parts))
