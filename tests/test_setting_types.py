"""Every setting with odd values: each is accepted by the check or is a `UserError` of one line, at parse time."""

import dataclasses
import functools
import json

import pytest

from vse_tf.command_line import command_parser
from vse_tf.config import Settings
from vse_tf.errors import UserError
from vse_tf.setting_types import LARGEST, PathText, Range, check_values
from vse_tf.settings_parser import flat, parse_settings

KEYS = sorted(flat(Settings()))
# As they stand on a command line or in YAML.
ODD = [
    "-1",
    "0",
    "1",
    "1e20",
    "1e400",
    ".nan",
    ".inf",
    "4294967296",
    "9" * 5000,
    "",
    "a" * 300,
    "/" + "a/" * 3000,
    "gs://bucket/x",
    "a\0b",
    "[]",
    "[-3]",
    "[1e20, .nan]",
    "[99999999999999999999, 1]",
    "{a: 1}",
    "{a: [b]}",
    '"\\ud800"',
]


@functools.cache
def section_parser(section):
    """A parser of one section: the whole one takes a second per value."""
    parser = command_parser("train", "")
    parser.add_class_arguments(type(getattr(Settings(), section)), section)
    return parser


@pytest.mark.parametrize("key", KEYS)
def test_odd_values_pass_the_check_or_are_one_line(key):
    section = key.partition(".")[0]
    parser = section_parser(section)
    for value in ODD:
        try:
            settings = parser.instantiate(parser.parse_args([f"--{key}={value}"]))[section]
            check_values(settings, f"{section}.")
        except UserError as error:
            assert len(str(error)) < 8000
        else:
            _check_numbers(flat(dataclasses.replace(Settings(), **{section: settings}))[key])


def _check_numbers(value):
    """What passed is no number that 64 bits cannot hold, and no NaN."""
    for item in json.loads(json.dumps([value], default=str)):
        if isinstance(item, (int, float)):
            assert -(2**63) <= item <= 2**63


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        (["--train.seed", "4294967296"], "train.seed: 4294967296 is not a whole number from 0 to 4294967295"),
        (["--image.channels", "[-3]"], "image.channels: -3 is not a whole number from 1"),
        (["--train.run_dir", "r" * 300], "train.run_dir: .* is too long for a path"),
        (["--train.epochs", "1e20"], "train.epochs"),
        (["--image.size", "0"], "image.size: 0 is not"),
        (["--image.size", "[48, -48]"], "image.size: -48 is not"),
        (["--image.resize", "-1"], "image.resize"),
        (["--data.workers", "-1"], "data.workers"),
        (["--train.backbone_rate", ".nan"], "train.backbone_rate: nan is not a number from 0"),
        (["--train.decay_epochs", "[5, 0]"], "train.decay_epochs: 0"),
        (["--train.decay_epochs", "[20, 10]"], r"train.decay_epochs: \[20, 10\] are not epochs in rising order"),
        (["--train.decay_factor", "10"], "train.decay_factor: 10.0 is not a number above 0 to 1"),
        (["--train.init_from", "ftp://bucket/run"], "train.init_from: 'ftp://bucket/run' is an address"),
        (["--data.annotations", "[a, 'ftp://host/b']"], "data.annotations: 'ftp://host/b' is an address"),
        (["--train.sync_to", "runs/copy"], "train.sync_to: 'runs/copy' is not an address such as s3://BUCKET/FOLDER"),
        (["--data.cache_dir", "s3://bucket"], "data.cache_dir: .* is an address; name a local file or folder$"),
        (["--image.weights", "https://host/w.h5"], "image.weights"),
        (["--data.split_ids", '{"train": ["a\\u0000b"]}'], "data.split_ids: the path holds a NUL"),
        (["--data.shapes.size", "100000000"], "data.shapes.size"),
    ],
)
def test_a_value_out_of_range_names_key_and_range(argv, wanted):
    with pytest.raises(UserError, match=wanted):
        parse_settings(argv, "train", "")


def test_addresses_of_presets_pass():
    settings = parse_settings(["--image.encoder", "hub:hf://timm/vit", "--text.encoder", "hub:kaggle://a/b"], "t", "")
    assert settings.image.encoder == "hub:hf://timm/vit"


def test_every_number_has_a_range():
    """A new setting without one would be the next traceback."""
    for key, value in flat(Settings()).items():
        section, _, name = key.rpartition(".")
        owner = Settings()
        for part in section.split("."):
            owner = getattr(owner, part)
        if type(value) in (int, float):
            changed = dataclasses.replace(owner, **{name: type(value)(2**70)})
            with pytest.raises(UserError, match=name):
                check_values(changed)


def test_ranges():
    assert 0 in Range() and LARGEST in Range() and LARGEST + 1 not in Range()
    assert 0.0 not in Range(above=True) and 1.0 not in Range(0, 1, below=True)
    assert Range(-1, 1).problem(float("nan"))
    assert not Range().problem(True) and not Range().problem("text") and not Range().problem(None)
    assert not PathText().problem("C:\\photos") and not PathText().problem(None)
