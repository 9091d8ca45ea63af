"""A run folder that somebody else changed is data: refused in one line, and nothing in it runs."""

import ast
import json
import shutil
from pathlib import Path

import pytest

import vse_tf
from vse_tf.errors import UserError


@pytest.fixture
def stranger(tiny_run, tmp_path):
    """A copy of the run folder to do mischief in."""
    return shutil.copytree(tiny_run, tmp_path / "stranger")


def first_layer(description):
    return description["model"]["text_tower"]["config"]["layers"][1]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: first_layer(d).update(class_name="Lambda", module="keras.layers", registered_name=None),
        lambda d: first_layer(d).update(class_name="system", module="os", registered_name=None),
        lambda d: first_layer(d).update(class_name="Evil", module="evil", registered_name="evil>Evil"),
        lambda d: first_layer(d)["config"].update(nonsense=3),
        lambda d: d.pop("view"),
        lambda d: d.update(view=[]),
        lambda d: d.update(model=[]),
    ],
)
def test_a_strangers_model_is_refused_in_one_line(stranger, change):
    (stranger / "evil.py").write_text("raise SystemExit('executed')")
    description = json.loads((stranger / "model.json").read_text())
    change(description)
    (stranger / "model.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"model\.json: ") as error:
        vse_tf.load(stranger)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("model.json", "{"),
        ("model.json", "[]"),
        ("model.json", "[" * 100_000),
        ("config.yaml", "train: !!python/object/apply:os.system ['touch executed']"),
        ("config.yaml", "!!python/module:os"),
        ("config.yaml", "train: {epochs: !!python/name:os.system }"),
        ("config.yaml", "a: [" * 2000),
        ("config.yaml", "- 1"),
        ("tokenizer/tokenizer.json", '{"kind": "preset", "max_tokens": 3}'),
        ("tokenizer/tokenizer.json", '{"kind": "../../x", "max_tokens": 3}'),
        ("tokenizer/vocabulary.txt", "\udcff"),
        ("checkpoints/pointer.json", '{"best": "../../../x"}'),
    ],
)
def test_a_strangers_file_is_refused_in_one_line(stranger, name, contents, monkeypatch):
    monkeypatch.chdir(stranger)
    assert (stranger / name).exists()
    (stranger / name).write_bytes(contents.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError):
        vse_tf.load(stranger)
    assert not (stranger / "executed").exists()


def test_nothing_here_reads_pickles_or_runs_text():
    forbidden = {"pickle", "dill", "joblib", "marshal", "shelve", "eval", "exec", "unsafe_load", "full_load"}
    for path in Path(vse_tf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                named = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not named & forbidden, path
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert name not in forbidden, path
            assert keywords.get("allow_pickle", "False") == "False", path
            assert keywords.get("safe_mode", "True") == "True", path
            assert name != "np.load" or "allow_pickle" in keywords, path
            assert name != "yaml.load", path
