import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vse_tf.config import Settings, to_dict
from vse_tf.errors import UserError
from vse_tf.settings_parser import differences, load_settings, parse_settings, save_settings

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def parse(*argv):
    return parse_settings(list(argv), "train", "")


def test_no_arguments_are_the_shapes_recipe():
    recipe = Path(__file__).parent.parent / "configs" / "shapes.yaml"
    assert parse() == parse("--config", str(recipe))
    # ... which spells out every setting that is not a plain default
    written = yaml.safe_load(recipe.read_text())
    assert differences(parse(), Settings()).keys() <= {
        f"{section}.{key}" for section, values in written.items() for key in values
    }


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads_and_opens_with_its_command(config):
    parse("--config", str(config))
    head = config.read_text().splitlines()[0]
    assert head.startswith("# python -m vse_tf.train --config configs/")
    assert config.name in head


def test_one_call_leaves_nothing_to_the_next():
    # The built-in set has defaults of its own, which other sources do not take over.
    parse()
    assert parse("--data.source", "precomp").train == Settings().train
    with pytest.raises(UserError):
        parse("--train.epochs", "no")
    assert parse("--data.source", "precomp").train == Settings().train


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  epochs: 5\n  learning_rate: 1e-4\n")
    settings = parse("--config", str(file), "--train.epochs", "7")
    assert settings.train.epochs == 7
    assert settings.train.learning_rate == pytest.approx(1e-4)


def test_a_file_for_shapes_keeps_the_built_in_defaults(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("train: {epochs: 3}\n")
    assert parse("--config", str(file)).image.encoder == "cnn"
    file.write_text("data: {source: karpathy}\n")
    assert parse("--config", str(file)).image.encoder == Settings().image.encoder


def test_round_trip(tmp_path):
    settings = parse(
        "--data.source", "coco", "--image.size", "[32, 40]", "--data.split_ids", '{"train": ["a.npy", "b.npy"]}'
    )
    assert settings.image.size == (32, 40)
    save_settings(settings, tmp_path / "config.yaml")
    assert load_settings(tmp_path / "config.yaml") == settings
    assert to_dict(settings)["image"]["size"] == [32, 40]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--data.sorce", "x"], "data.sorce"),
        (["--train.epochs", "many"], "train.epochs"),
        (["--train.epochs", "-1"], "train.epochs"),
        (["--train.learning_rate", ".inf"], "train.learning_rate"),
        (["--train.clip_norm", ".nan"], "train.clip_norm"),
        (["--train.resume", "maybe"], "train.resume"),
        (["--loss.name", "convse+"], "loss.name"),
        (["--loss.temperature", "0"], "loss.temperature"),
        (["--loss.margin", "-1"], "loss.margin"),
        (["--train.batch_size", "1"], "train.batch_size"),
        (["--text.buckets", "[8, 4]"], "text.buckets"),
        (["--text.max_tokens", "2"], "text.max_tokens"),
        (["--image.crop_scale", "[0.5, 0.1]"], "image.crop_scale"),
        (["--data.val_fraction", "0.6", "--data.test_fraction", "0.5"], "data.val_fraction"),
        (["--model.dropout", "1"], "model.dropout"),
        (["--data.source", "precomp", "--image.encoder", "cnn"], "image.encoder"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(argv, named):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert named in str(error.value)


@pytest.mark.parametrize("text", ["train: {epochz: 3}", "train: [", "train: 5", "nonsense: {}", "\x00"])
def test_a_broken_file_is_one_line_that_names_it(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        parse("--config", str(file))


def bomb(link):
    """Nine lines that stand for 10^9 values."""
    lines = ["a0: &a0 {x: 1}" if link == "<<: " else "a0: &a0 [x]"]
    for number in range(1, 10):
        inner = ", ".join([f"*a{number - 1}"] * 10)
        lines.append(f"a{number}: &a{number} {{<<: [{inner}]}}" if link else f"a{number}: &a{number} [{inner}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (bomb(""), "more than 20000 values"),
        (bomb("<<: "), "more than 20000 values"),
        ("a: &a [*a]", "more than 20000 values"),
        ("[" * 50_000, "nested more than 100 deep"),
        ("- " * 30_000, "cannot be read"),
        ("# " + "x" * 2**18, "more than the limit"),
        ("train: {seed: " + "9" * 5000 + "}", "cannot be read"),
        ("train: {run_dir: 2001-99-99}", "cannot be read"),
        ("train: {run_dir: !!python/object/apply:os.system [exit]}", "cannot be read"),
        ("data: {shapes: /etc/hostname}", "data.shapes is not a section"),
        ("data: {tfds: [1]}", "data.tfds is not a section"),
        ("data: {shapes: {class_path: xml.dom.minidom, init_args: {}}}", "bad.yaml"),
    ],
    ids=[
        "bomb",
        "merged bomb",
        "cycle",
        "deep",
        "deep block",
        "large",
        "long number",
        "bad date",
        "tag",
        "path",
        "list",
        "class",
    ],
)
def test_a_hostile_file_costs_little_and_opens_nothing(tmp_path, text, wanted):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    sys.modules.pop("xml.dom.minidom", None)
    for read in (lambda: load_settings(file), lambda: parse("--config", str(file))):
        with pytest.raises(UserError, match=wanted):
            read()
    assert "xml.dom.minidom" not in sys.modules


def test_a_pipe_is_no_settings_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for file in (tmp_path / "pipe.yaml", "/dev/zero"):
        with pytest.raises(UserError, match="not a regular file"):
            parse("--config", str(file))
        with pytest.raises(UserError, match="not a regular file"):
            load_settings(Path(file))


def test_a_mistake_ends_before_tensorflow_is_imported():
    code = (
        "import sys\n"
        "from vse_tf.errors import run_command\n"
        "from vse_tf.train import main\n"
        "try:\n    run_command(main)\n"
        "finally:\n    print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, "--train.epochz", "3"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("error: ")
    assert found.stdout.strip() == "[]"
