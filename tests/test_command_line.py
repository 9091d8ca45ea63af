"""`--help`, options that do not exist, and `python -m vse_tf`."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from typing import Annotated, Literal

import pytest

from vse_tf import __main__, check, embed, evaluate, export, pack, publish, search, serve, train
from vse_tf.config import Settings
from vse_tf.errors import UserError
from vse_tf.help_text import values_in_words
from vse_tf.setting_types import Range
from vse_tf.settings_parser import flat

MODULES = {
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "pack": pack,
    "embed": embed,
    "publish": publish,
    "search": search,
    "export": export,
    "serve": serve,
}


def help_of(main, argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", MODULES)
def test_the_first_screen_of_help(name, capsys):
    text = help_of(MODULES[name].main, ["--help"], capsys)
    assert text.count("\n") <= 40
    assert "Optional[" not in text
    assert "type:" not in text
    assert "| null" not in text


def test_help_all_has_every_setting_once(capsys):
    text = help_of(train.main, ["--help", "all"], capsys)
    for key in flat(Settings()):
        assert text.count(f"\n  --{key} ") == 1, key
    assert "as a preset without training (0 to 1000000; default: 20)" in " ".join(text.split())
    assert "CONFIG             Path" not in text


def test_help_has_the_defaults_of_the_source(capsys):
    for argv, epochs in (([], 20), (["--data.source", "coco"], 7)):
        for help_ in (["--help"], ["--help", "all"]):
            assert f"(0 to 1000000; default: {epochs})" in help_of(train.main, [*argv, *help_], capsys)


@pytest.mark.parametrize(
    ("main", "argv", "meant"),
    [
        (train.main, ["--epochs", "5"], ["--train.epochs"]),
        (train.main, ["--train.epochz=5"], ["--train.epochs"]),
        (train.main, ["--name", "sigmoid"], ["--data.tfds.name", "--loss.name"]),
        (evaluate.main, ["--run", "x", "--foldz", "5"], ["--folds"]),
        (search.main, ["--indexes", "x"], ["--index"]),
    ],
)
def test_unknown_options_name_what_was_meant(main, argv, meant, tmp_path, monkeypatch):
    monkeypatch.setattr("vse_tf.artifacts.run_folder.RunFolder.settings", lambda self: Settings())
    with pytest.raises(UserError) as caught:
        main(argv)
    found = re.search(r"; did you mean (.*)\?", str(caught.value))
    assert sorted(found[1].split(" or ")) == meant


def test_an_option_like_no_other_has_no_guess():
    with pytest.raises(UserError, match="--zzz") as caught:
        train.main(["--zzz"])
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (bool, "true or false"),
        (str, ""),
        (Annotated[int, Range(1)] | None, "1 or more"),
        (Annotated[float, Range(0, 1, below=True)], "0 to below 1"),
        (Annotated[float, Range(above=True)], "above 0"),
        (Annotated[int, Range(-(2**63), 2**63)], ""),
        (Literal["a", "b"], "a, b"),
        (bool | Literal["auto"], "true or false or auto"),
        (tuple[Annotated[int, Range(1, 9)], int], "2 values, each 1 to 9"),
        (list[Annotated[int, Range(1, 9)]], "list of 1 to 9"),
        (list[str], ""),
    ],
)
def test_values_in_words(kind, words):
    assert values_in_words(kind) == words


@pytest.mark.parametrize(
    ("main", "option", "expected"),
    [
        (serve.main, "--workers=0", "--workers: 0 is not a whole number >0"),
        (serve.main, "--port=abc", "--port: abc is not a whole number >=0 and <65536"),
        (serve.main, "--versions=no", "--versions: no is not a whole number >0 or all"),
        (search.main, "--top_k=x", "--top_k: x is not a whole number"),
        (search.main, "--min_relevance=2", "--min_relevance: 2 is not a number >=0 and <=1"),
        (train.main, "--image.flip=maybe", "image.flip: maybe is not true or false"),
        (train.main, "--text.packed=x", "text.packed: x is not true or false or auto"),
        (train.main, "--train.monitor=x", "train.monitor: x is not one of "),
        (train.main, "--train.epochs=1.5", "train.epochs: 1.5 is not a whole number from 0 to 1000000"),
        (train.main, "--train.learning_rate=fast", "train.learning_rate: fast is not a number above 0"),
        (train.main, "--train.decay_epochs=x", "train.decay_epochs: x is not a list"),
        (train.main, "--image.crop_scale=1", "image.crop_scale: 1 is not 2 values, each 0 to 1"),
        (train.main, "--data.split_ids=x", "data.split_ids: x is not a mapping of names to values"),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(main, option, expected):
    with pytest.raises(UserError) as caught:
        main([option])
    assert str(caught.value).startswith(expected)
    assert not re.search(r"class|typing|Parser|Literal|Errors", str(caught.value))


def test_commands_are_listed_and_found(capsys):
    __main__.main([])
    listed = capsys.readouterr().out
    for name, module in MODULES.items():
        assert f"  {name}" in listed
        assert help_of(__main__.main, [name, "--help"], capsys) == help_of(module.main, ["--help"], capsys)
    __main__.main(["--version"])
    assert capsys.readouterr().out == f"vse_tf {version('vse_tf')}\n"
    with pytest.raises(UserError, match=r"tain: no such command; did you mean train\?"):
        __main__.main(["tain"])
    with pytest.raises(UserError, match="there are train, evaluate"):
        __main__.main(["zzz"])


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "vse_tf.train", "--help", "all"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
