"""Options that a run does not use: an error where they are typed, one line where a file has them."""

import dataclasses
import re
import shlex

import pytest
from docstring_parser import parse as parsed_docstring

from vse_tf.config import Settings
from vse_tf.data_settings import COLLECTIONS
from vse_tf.errors import UserError
from vse_tf.settings_parser import differences, flat, parse_settings
from vse_tf.used_settings import unused, used_if


def parse(*argv):
    return parse_settings(list(argv), "train", "")


def documented(section, prefix=""):
    """What the docstrings say of every setting."""
    described = {p.arg_name: p.description for p in parsed_docstring(type(section).__doc__).params}
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from documented(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", " ".join(described[field.name].split())


OF_SECTIONS = ("data.shapes.", "data.table.", "data.tfds.")


def test_docstrings_say_which_runs_use_a_setting():
    """A new setting that is for some runs only has to have a mark, and a mark has to be in the help."""
    marks, found = used_if(Settings), dict(documented(Settings()))
    assert found.keys() == marks.keys() == flat(Settings()).keys()
    for key, text in found.items():
        if key.startswith(OF_SECTIONS):
            ((*_, sources),) = [mark.needed().split(" ", 1) for mark in marks[key]]
            assert key.split(".")[1] in re.split(r", | or ", sources), key
            continue
        condition = re.match(r"([^:]*) only\b[^:]*:", text)
        assert bool(condition) == bool(marks[key]), f"{key}: {text}"
        values = {value for mark in marks[key] for value in mark.values if isinstance(value, str)}
        if condition and values == set(COLLECTIONS):
            assert condition[1] == "own data"
        elif condition and all(re.fullmatch(r"[\w+]+", word) for word in condition[1].split(", ")):
            assert set(condition[1].split(", ")) <= values, f"{key}: {text}"


def test_marks_name_settings_and_values_that_exist():
    settings = Settings()
    for key, marks in used_if(Settings).items():
        for mark in marks:
            assert mark.found(settings), key
            if mark.keys == ("loss.name",):
                for name in mark.values:
                    assert key not in unused(parse("--loss.name", name), [key])


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (
            "--data.images photos",
            r"data\.images: only used with data\.source karpathy, coco, table or parquet.*--data.annotations",
        ),
        ("--data.source shapes --data.annotations a.csv", r"data\.annotations: .* but data\.source is shapes"),
        ("--data.source table --data.annotations a.csv --data.tfds.name x", r"data\.tfds\.name: .*\.source tfds"),
        ("--text.layers 4", r"text\.layers: only used with text\.encoder transformer, but text\.encoder is gru"),
        ("--text.layers=4", r"text\.layers"),
        ("--text '{layers: 4}'", r"text\.layers"),
        ("--loss.margin 0.2", r"loss\.margin: only used with loss\.name convse\+\+, triplet_sum or triplet_max"),
        ("--loss.temperature_limits [0.1,1]", r"loss\.temperature_limits: only used with loss\.learn_temperature true"),
        ("--data.source coco --image.channels [4]", r"image\.channels: .*image\.encoder is applications:Eff"),
        ("--data.feature_crops 2", r"data\.feature_crops: .* but image\.encoder is cnn"),
        ("--data.source coco --data.features false --data.feature_crops 2", r"feature_crops: .*features is false"),
        ("--data.source coco --image.queries 2", r"image\.queries: .* but image\.pooling is mean"),
        (
            "--train.backbone_rate 1",
            r"image\.trainable or text\.trainable true or n, but image\.trainable is false and",
        ),
    ],
)
def test_a_typed_option_that_is_not_used_is_an_error(argv, wanted):
    with pytest.raises(UserError, match=wanted):
        parse(*shlex.split(argv))


def test_in_a_file_it_is_one_line(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text("text: {layers: 3, heads: 8, units: 64}\nimage: {channels: [4]}\ndata: {images: photos}\n")
    assert parse("--config", str(file), "--train.epochs", "1").text.layers == 3
    told = capsys.readouterr().err
    assert told == "not used by this run: text.layers (text.encoder is gru), data.images (data.source is shapes)\n"
    with pytest.raises(UserError, match=r"text\.layers"):
        parse("--config", str(file), "--text.layers", "3")
    parse("--config", str(file), "--text.encoder", "transformer", "--image.encoder", "hub:x")
    assert "image.channels (image.encoder is hub:x)" in capsys.readouterr().err


def test_used_options_pass():
    parse("--data.source", "coco", "--data.feature_crops", "3", "--image.encoder", "hub:x", "--image.stages", "2")
    for trainable in ("true", "1"):
        parse("--text.encoder", "hub:x", "--text.trainable", trainable, "--train.backbone_rate", "0.1")
    parse("--data.source", "coco", "--image.trainable", "2", "--data.feature_crops", "3")
    with pytest.raises(UserError, match=r"feature_crops: .* image\.trainable is true"):
        parse("--data.source", "coco", "--image.trainable", "true", "--data.feature_crops", "3")


def test_true_and_one_are_different_settings():
    one, every = (parse("--data.source", "coco", "--image.trainable", value) for value in ("1", "true"))
    assert one.image.trainable is not True and every.image.trainable is True
    assert differences(one, every) == {"image.trainable": (1, True)}
    parse("--loss.learn_temperature", "true", "--loss.temperature_limits", "[0.05, 1]")
