"""Version folders appear complete, together and with a new number, or not at all."""

import errno
import os
import time

import pytest

from vse_tf.artifacts.versions import Release, unwritable, versions
from vse_tf.errors import UserError

NAMES = ["image_tower", "text_tower"]


def publish(root, text="new", names=NAMES):
    with Release(root, names) as release:
        for name in names:
            (release.folder(name) / "saved_model.pb").write_text(text)
        return release.publish()


def integer_folders(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir() and path.name.isdigit())


def test_models_get_the_next_number_and_nothing_is_overwritten(tmp_path):
    assert publish(tmp_path, "first") == [tmp_path / name / "1" for name in NAMES]
    (tmp_path / "text_tower" / "7").mkdir()
    (tmp_path / "text_tower" / "notes").mkdir()
    assert publish(tmp_path) == [tmp_path / name / "8" for name in NAMES]
    assert publish(tmp_path, names=["retrieval"]) == [tmp_path / "retrieval" / "1"]
    assert versions(tmp_path / "text_tower") == [1, 7, 8]
    assert (tmp_path / "image_tower/1/saved_model.pb").read_text() == "first"
    assert versions(tmp_path / "nothing") == []
    assert not list(tmp_path.rglob(".export-*"))


def test_before_the_rename_no_server_would_load_anything(tmp_path):
    with Release(tmp_path, NAMES) as release:
        (release.folder("image_tower") / "saved_model.pb").write_text("half")
        assert release.folder("image_tower").name.startswith(".")
        assert integer_folders(tmp_path) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_nothing(tmp_path, error):
    root = tmp_path / "models"
    with pytest.raises(error), Release(root, NAMES) as release:
        (release.folder("text_tower") / "saved_model.pb").write_text("half")
        raise error
    assert not root.exists()
    publish(root)
    with pytest.raises(error), Release(root, NAMES):
        raise error
    assert integer_folders(root) == ["image_tower/1", "text_tower/1"]


def test_a_number_that_another_export_takes_is_left_to_it(tmp_path):
    with Release(tmp_path, NAMES) as release:
        for name in NAMES:
            (release.folder(name) / "saved_model.pb").write_text("mine")
        # Between the look at the folder and the rename; text_tower comes second, so image_tower has to be taken back.
        import vse_tf.artifacts.versions as module  # noqa: PLC0415

        look = module.versions

        def late(model):
            found = look(model)
            if model.name == "text_tower":
                (model / "1").mkdir()
                (model / "1" / "saved_model.pb").write_text("theirs")
            return found

        module.versions = late
        try:
            assert [path.name for path in release.publish()] == ["2", "2"]
        finally:
            module.versions = look
    assert (tmp_path / "text_tower/1/saved_model.pb").read_text() == "theirs"
    assert not (tmp_path / "image_tower/1").exists()


def test_a_failed_rename_takes_the_others_back(tmp_path):
    with pytest.raises(UserError, match="nothing was published"), Release(tmp_path, NAMES) as release:
        (release.folder("image_tower") / "saved_model.pb").write_text("complete")
        release.folder("text_tower").rmdir()
        release.publish()
    assert integer_folders(tmp_path) == []


def test_what_killed_exports_left_goes_after_a_day(tmp_path):
    for name, age in (("old", 25), ("young", 1)):
        left = tmp_path / "image_tower" / f".export-{name}"
        left.mkdir(parents=True)
        (left / "saved_model.pb").write_text("half")
        then = time.time() - age * 3600
        for path in (left / "saved_model.pb", left):
            os.utime(path, (then, then))
    publish(tmp_path)
    assert sorted(path.name for path in (tmp_path / "image_tower").iterdir()) == [".export-young", "1"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UserError, match=r"--output: cannot write to .*models"), Release(tmp_path / "models", NAMES):
        pass
    assert (tmp_path / "models").read_text() == "a file"


def test_the_reason_is_the_systems(tmp_path):
    message = str(unwritable(tmp_path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    assert "No space left on device" in message
