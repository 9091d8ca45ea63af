"""manifest.json: the hash of every file, and files that differ from it."""

import hashlib
import json

import pytest

from vse_tf.artifacts import manifest
from vse_tf.errors import UserError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "variables.index").write_bytes(b"index")
    manifest.write(tmp_path, {"model": "text_tower", "dim": 3})
    return tmp_path


def test_it_holds_the_facts_and_the_hash_of_every_file(folder):
    found = manifest.verify(folder)
    assert found == json.loads((folder / "manifest.json").read_text())
    assert (found["model"], found["dim"], found["format"]) == ("text_tower", 3, 1)
    assert found["files"] == {
        "saved_model.pb": hashlib.sha256(b"graph").hexdigest(),
        "variables/variables.index": hashlib.sha256(b"index").hexdigest(),
    }


def test_a_changed_a_missing_and_a_foreign_file_are_named(folder):
    (folder / "batching_params.txt").write_text("a server's own")
    manifest.verify(folder)
    (folder / "saved_model.pbtxt").write_text("another model")
    with pytest.raises(UserError, match=r"saved_model\.pbtxt: a model that the manifest does not name"):
        manifest.verify(folder)
    (folder / "saved_model.pbtxt").unlink()
    (folder / "variables" / "variables.index").write_bytes(b"indeX")
    with pytest.raises(UserError, match=r"variables\.index: damaged or replaced"):
        manifest.verify(folder)
    (folder / "variables" / "variables.index").unlink()
    with pytest.raises(UserError, match=r"variables\.index: cannot be read"):
        manifest.verify(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 3, "files": {}}',
        '{"format": 1}',
        '{"format": 1, "files": {"../x": "00"}}',
        '{"format": 1, "files": {"/etc/passwd": "00"}}',
        '{"format": 1, "files": {"a": 1}}',
    ],
)
def test_a_broken_manifest_is_one_line(folder, text):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json") as caught:
        manifest.verify(folder)
    assert "\n" not in str(caught.value)


def test_the_manifest_of_a_newer_version_is_named(folder):
    (folder / "manifest.json").write_text('{"format": 3, "files": 5}')
    with pytest.raises(UserError, match=r"manifest\.json: written by a newer version of vse_tf \(format 3"):
        manifest.read(folder)


def test_a_folder_without_one_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json here"):
        manifest.verify(tmp_path)
