"""Which models, versions and labels are served: folders, options, models.config."""

from __future__ import annotations

import pytest

from vse_tf.errors import UserError
from vse_tf.serving.model_config import ModelConfig, models_below, read_models_config, version_folders, with_labels


@pytest.fixture
def root(tmp_path):
    for name in ("tower/1", "tower/2", "tower/10", "other/3", "no_model/assets", "bad:name/1"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({}, {10}),
        ({"newest": 2}, {2, 10}),
        ({"newest": 0}, {1, 2, 10}),
        ({"newest": 99}, {1, 2, 10}),
        ({"versions": (1, 7)}, {1}),
        ({"labels": {"stable": 1}}, {1, 10}),
        ({"labels": {"stable": 7}}, {10}),
        ({"versions": (2,), "labels": {"stable": 1}}, {1, 2}),
    ],
)
def test_which_versions_are_wanted(root, config, wanted):
    assert ModelConfig("m", root, **config).wanted([1, 10, 2]) == wanted
    assert ModelConfig("m", root, **config).wanted([]) == set()


def test_version_folders_are_whole_numbers(tmp_path):
    for name in ("1", "002", "30", "-4", "5.1", "x6", ".7", "9" * 30, "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    assert version_folders(tmp_path).keys() == {1, 2, 30}
    assert version_folders(tmp_path / "gone") == {}


def test_models_are_the_folders_with_versions(root):
    found = models_below(root, newest=3)
    assert [(model.name, model.folder, model.newest) for model in found] == [
        ("other", root / "other", 3),
        ("tower", root / "tower", 3),
    ]
    with pytest.raises(UserError, match="no folder"):
        models_below(root / "gone")


def test_labels(root):
    models = models_below(root)
    other, tower = with_labels(models, ["stable=1", "canary=3", "tower:new=10", "tower:stable=2"])
    assert other.labels == {"canary": 3}
    assert tower.labels == {"stable": 2, "new": 10}
    assert models[1].labels == {}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("stable", "write LABEL=VERSION"),
        ("stable=x", "write LABEL=VERSION"),
        ("=1", "write LABEL=VERSION"),
        ("a/b=1", "write LABEL=VERSION"),
        ("stable=7", "no model has a version 7"),
        ("tower:stable=3", "no tower has a version 3"),
        ("nope:stable=1", "no model nope; there are other, tower"),
    ],
)
def test_labels_of_nothing(root, label, told):
    with pytest.raises(UserError, match=told):
        with_labels(models_below(root), [label])


CONFIG = """
model_config_list {
  config { name: "a" base_path: "/models/tower" model_platform: "tensorflow"
           version_labels { key: "stable" value: 1 } }
  config { name: "b" base_path: "/models/other" model_version_policy { latest { num_versions: 2 } } }
  config { name: "c" base_path: "/models/other" model_version_policy { all {} } }
  config { name: "d" base_path: "/models/other" model_version_policy { specific { versions: 1 versions: 3 } } }
}
"""


def test_models_config(root):
    path = root / "models.config"
    path.write_text(CONFIG)
    assert read_models_config(path, root) == [
        ModelConfig("a", root / "tower", 1, (), {"stable": 1}),
        ModelConfig("b", root / "other", 2),
        ModelConfig("c", root / "other", 0),
        ModelConfig("d", root / "other", 1, (1, 3)),
    ]
    assert str(read_models_config(path)[0].folder) == "/models/tower"
    path.write_text(CONFIG.replace("/models/tower", str(root / "tower")))
    assert read_models_config(path, root / "elsewhere")[0].folder == root / "tower"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model_config_list {", "cannot be read"),
        ("models {}", "cannot be read"),
        ("", "no models in it"),
        ('model_config_list { config { name: "a/b" base_path: "/x" } }', "model name"),
        ('model_config_list { config { name: "a" } config { name: "a" } }', "more than one model is called a"),
        ("\x00\ufffd", "cannot be read"),
    ],
)
def test_broken_models_config(tmp_path, text, told):
    path = tmp_path / "models.config"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"models\.config: .*{told}"):
        read_models_config(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_models_config(tmp_path / "gone.config")
