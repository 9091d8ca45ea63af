"""Settings from YAML files and the command line, by jsonargparse. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import sys
from argparse import ArgumentError
from argparse import ArgumentParser as PlainParser
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser, Namespace

from vse_tf.atomic import write_text
from vse_tf.command_line import CommandParser, command_parser, more
from vse_tf.config import DataSettings, LossSettings, Settings, TrainSettings, to_dict
from vse_tf.errors import UserError
from vse_tf.losses.registry import LOSSES
from vse_tf.removed_settings import refuse_removed, split_removed
from vse_tf.setting_types import Section, allowed_addresses, check_values
from vse_tf.settings_yaml import read_yaml
from vse_tf.source_detection import with_source
from vse_tf.used_settings import unused

# Options that take a dictionary.
SECTIONS = {field.name for field in dataclasses.fields(Settings)} | {"data.shapes", "data.table", "data.tfds"}

# The built-in set has its own defaults, so that `python -m vse_tf.train` alone is a complete run; configs/shapes.yaml
# spells the same settings out. Measured to learn the set in about a minute on two CPU cores.
_SHAPES: dict[str, Any] = {
    "data.epoch_over": "images",
    "image.encoder": "cnn",
    "image.random_crop": False,
    "image.flip": False,
    "image.units": 128,
    "text.min_count": 1,
    "text.embedding_dim": 64,
    "text.units": 128,
    "model.dim": 128,
    "model.head": False,
    "loss.temperature": 0.07,
    "train.epochs": 20,
    "train.learning_rate": 4e-3,
    "train.schedule": "cosine",
    "train.warmup_epochs": 1.0,
    "train.clip_norm": 1.0,
    "train.patience": 0,
    "train.eval_batch_size": 250,
}
SOURCE_DEFAULTS = {"shapes": _SHAPES, "precomp": {"image.encoder": "features"}}


def parse_settings(
    argv: list[str], prog: str, description: str, examples: Iterable[str] = (), usual: Iterable[str] = ()
) -> Settings:
    """Read the settings of a run from the command line.

    Precedence: defaults (those of the source, which the annotations tell), then `--config` files in their order, then
    single fields. A setting that the run does not use is an error on the command line, and one printed line in a file.

    Args:
        argv: the arguments without the program's name.
        prog: how the program is called, for `--help`.
        description: first line of `--help`.
        examples: as for `CommandParser`.
        usual: as for `CommandParser`.

    Raises:
        UserError: an unknown key, a wrong type, an unreadable file, settings that contradict each other, or an option
            that the run does not use.

    Example:
        >>> parse_settings(["--train.epochs", "3"], "python -m vse_tf.train", "Train").train.epochs
        3
    """
    parser, in_files = _parser(prog, description, tuple(examples), tuple(usual)), dict[str, Any]()
    for path in _named_configs(argv):
        values = read_yaml(path)
        # The user has named the file: its addresses are typed.
        allowed_addresses(_checked_values(values, str(path)))
        in_files |= dict(_leaves(values))
    with _defaults(parser, SOURCE_DEFAULTS.get(_source(parser, argv), {})):
        parsed = _settings(parser, parser.parse_args(argv))
    # What was typed as an option has lost it already.
    parsed = allowed_addresses(parsed) if in_files else parsed
    check_values(parsed)
    settings = check(replace(parsed, data=with_source(parsed.data)))
    # Not in `check`: a finished run that had them otherwise is still read.
    epochs = settings.train.decay_epochs
    if sorted(set(epochs)) != epochs:
        raise UserError(f"train.decay_epochs: {epochs} are not epochs in rising order")
    typed = typed_keys(argv)
    refuse_unused(settings, typed, source_named=parsed.data.source != "auto")
    changed = differences(settings, Settings())
    if left := unused(settings, [key for key in in_files if key in changed and key not in typed]):
        named = ", ".join(f"{key} ({mark.found(settings)})" for key, mark in left.items())
        print(f"not used by this run: {named}", file=sys.stderr, flush=True)
    return settings


def settings_of_options(values: Mapping[str, Any], config: str | Path | None = None) -> Settings:
    """Settings from options of the command line as a dictionary, for callers in Python.

    Args:
        values: values by their options' names.
        config: YAML file with settings; `values` win.

    Raises:
        UserError: as `parse_settings`.

    Example:
        >>> settings_of_options({"train.epochs": 3, "image.channels": [4, 8]}).image.channels
        [4, 8]
    """
    argv = [] if config is None else [f"--config={config}"]
    prog = "python -m vse_tf.train"
    try:
        return parse_settings([*argv, *(f"--{key}={_as_text(value)}" for key, value in values.items())], prog, "Train")
    except SystemExit:
        # --help and --print_config, which are no settings.
        raise UserError(f"{', '.join(values)}: not settings alone") from None


def _as_text(value: Any) -> str:
    """A value as it is written on the command line. Paths and NumPy's numbers are no JSON, but their text is."""
    return value if isinstance(value, str) else json.dumps(value, default=str).removeprefix('"').removesuffix('"')


def settings_from_dict(values: dict[str, Any], where: str) -> Settings:
    """Settings from a dictionary such as a run's config.yaml.

    Raises:
        UserError: an unknown key or a wrong type; the message begins with `where`.
    """
    return check(_checked_values(values, where))


def load_settings(path: Path) -> Settings:
    """Settings from a YAML file written by `save_settings`, also by an earlier version: removed ones are dropped."""
    return settings_from_dict(split_removed(read_yaml(path))[0], str(path))


def changed_removed_settings(path: Path) -> dict[str, Any]:
    """Removed settings that a file written by `save_settings` gives another value than their default."""
    return split_removed(read_yaml(path))[1]


def save_settings(settings: Settings, path: Path) -> None:
    """Write all settings as YAML."""
    write_text(path, yaml.safe_dump(to_dict(settings), sort_keys=False, allow_unicode=True))


def data_parser(prog: str, description: str, **kwargs: Any) -> CommandParser:
    """A parser with the fields of `data` alone, for commands that read a run and may replace its data."""
    parser = command_parser(prog, description, settings=Settings(), **kwargs)
    parser.add_class_arguments(DataSettings, "data")
    return parser


def parse_with_data(parser: ArgumentParser, argv: list[str], run: Settings) -> tuple[Namespace, DataSettings]:
    """Parse with a run's fields of `data` preset; returns all arguments and the resulting data settings.

    A command without a run gives the default settings.

    Other annotations than the run's may be of another kind.
    """
    parser.set_defaults({f"data.{key}": value for key, value in _leaves(to_dict(run.data))})
    typed = typed_keys(argv)
    if "data.annotations" in typed:
        parser.set_defaults({"data.source": "auto"})
    arguments = parser.parse_args(argv)
    data = parser.instantiate(arguments)["data"]
    check_values(data, "data.")
    if {"data.annotations", "data.source"} & set(typed) or run == Settings():
        # Not for those in the run folder, which may come from others: what is read is printed before.
        data = with_source(data)
    refuse_unused(replace(run, data=data), [key for key in typed if key.startswith("data.")])
    return arguments, data


def typed_keys(argv: list[str]) -> list[str]:
    """The settings that a command line gives, whatever their values.

    Args:
        argv: the arguments.

    Example:
        >>> typed_keys(["--train.epochs", "3", "--data.table", "{image_column: path}", "--config", "a.yaml"])
        ['train.epochs', 'data.table.image_column']
    """
    keys, found = list(flat(Settings())), list[str]()
    for argument, following in itertools.pairwise([*argv, ""]):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.removesuffix("+")
            found += [key for key in keys if name == key or name.startswith(f"{key}.")]
            if name in SECTIONS:
                given = yaml.safe_load(value if equals else following)
                found += [f"{name}.{key}" for key, _ in _leaves(given)] if isinstance(given, dict) else []
    return list(dict.fromkeys(found))


def refuse_unused(settings: Settings, keys: list[str], source_named: bool = True) -> None:
    """Refuse options that a run does not use.

    Args:
        settings: the run's settings.
        keys: the settings that were typed.
        source_named: the source was named, not inferred.

    Raises:
        UserError: the first such option, with what it belongs to.
    """
    for key, mark in unused(settings, keys).items():
        advice = f"leave it out, or change --{mark.named[0]}"
        if mark.keys == ("data.source",) and not source_named and not settings.data.annotations:
            advice = "name a caption file with --data.annotations, or leave it out"
        raise UserError(f"{key}: only used with {mark.needed()}, but {mark.found(settings)}; {advice}")


def differences(first: Settings, second: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings keys in which two runs differ, each with both values."""
    mine, other = flat(first), flat(second)
    both = {key: (mine.get(key), other.get(key)) for key in mine | other}
    # Python holds true for 1.
    return {key: (a, b) for key, (a, b) in both.items() if a != b or isinstance(a, bool) != isinstance(b, bool)}


def check(settings: Settings) -> Settings:
    """Refuse settings that no run can satisfy.

    Raises:
        UserError: the first such setting, with its key and what it may be.
    """
    check_values(settings)
    train, text, image = settings.train, settings.text, settings.image
    _check_batch(train)
    _check_loss(settings.loss)
    nested = settings.loss.nested_dims
    if sorted(set(nested)) != nested or (nested and nested[-1] >= settings.model.dim):
        raise UserError(f"loss.nested_dims: {nested} are not rising numbers below model.dim ({settings.model.dim})")
    if not text.buckets or sorted(set(text.buckets)) != text.buckets:
        raise UserError(f"text.buckets: {text.buckets} are not rising lengths above 0")
    low, high = image.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"image.crop_scale: {low}, {high} are not shares of an area in rising order")
    fractions = settings.data.val_fraction, settings.data.test_fraction
    if sum(fractions) >= 1:
        raise UserError(f"data.val_fraction and data.test_fraction: {fractions} leave no image to train on")
    _check_combinations(settings)
    return settings


def _check_combinations(settings: Settings) -> None:
    train, text, image = settings.train, settings.text, settings.image
    if train.jit_compile is True and text.encoder == "gru" and text.packed is True:
        raise UserError("train.jit_compile: true does not go with text.packed true; set --text.packed auto")
    if settings.data.source != "auto" and (settings.data.source == "precomp") != (image.encoder == "features"):
        raise UserError(
            f"image.encoder: {image.encoder} does not go with data.source {settings.data.source}; "
            "precomp data hold features, and only they do: use both or neither of precomp and features"
        )


def _check_batch(train: TrainSettings) -> None:
    if train.micro_batch and train.batch_size % train.micro_batch:
        raise UserError(f"train.micro_batch: {train.micro_batch} does not divide train.batch_size ({train.batch_size})")


def _check_loss(loss: LossSettings) -> None:
    """Refuse settings of the objective that contradict each other."""
    chosen = LOSSES[loss.name]
    if loss.multiple_positives and not loss.mask_same_image:
        raise UserError("loss.multiple_positives: needs loss.mask_same_image true, which compares the image ids")
    if loss.learned:
        if chosen.temperature in ("none", "fixed"):
            reason = "it has none" if chosen.temperature == "none" else "a larger one always lowers the loss"
            raise UserError(f"loss.learn_temperature: {loss.name} cannot learn its temperature: {reason}; give false")
        low, high = loss.temperature_limits
        if loss.temperature != "preset" and not low <= loss.temperature <= high:
            raise UserError(
                f"loss.temperature_limits: {low}, {high} are not limits above 0 around loss.temperature "
                f"({loss.temperature})"
            )


@functools.cache
def _parser(prog: str, description: str, examples: tuple[str, ...] = (), usual: tuple[str, ...] = ()) -> CommandParser:
    # A tenth of a second of processor time.
    parser = command_parser(prog, description, settings=Settings(), examples=examples, usual=usual)
    parser.add_argument("--config", action="config", help="YAML file with settings; later ones win")
    parser.add_class_arguments(Settings, None)
    return parser


@contextlib.contextmanager
def _defaults(parser: CommandParser, values: Mapping[str, Any]) -> Iterator[None]:
    """Other defaults for a while; the parser is used again."""
    before = {key: parser.get_default(key) for key in values}
    parser.set_defaults(dict(values))
    try:
        yield
    finally:
        parser.set_defaults(before)


def _source(parser: ArgumentParser, argv: list[str]) -> str:
    """The source that the command line and its files name, or that their annotations tell."""
    asked = next((number for number, argument in enumerate(argv) if argument in ("-h", "--help")), None)
    silent = [argument for argument in argv[:asked] if not argument.startswith("--print_config")]
    try:
        data = parser.instantiate(parser.parse_args(silent))["data"]
        check_values(data, "data.")
    except UserError:
        # The real parse that follows says what is wrong.
        return "auto"
    try:
        return with_source(allowed_addresses(data)).source
    except UserError:
        if asked is None:
            raise
        return "auto"


def _named_configs(argv: list[str]) -> list[Path]:
    finder = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[], type=Path)
    with contextlib.suppress(ArgumentError):
        return finder.parse_known_args(argv)[0].config
    return []


def _checked_values(values: dict[str, Any], where: str) -> Settings:
    """Settings from a dictionary, with errors that name its file."""
    sections = [f.name for f in dataclasses.fields(Settings)]
    for section, fields in values.items():
        if section not in sections:
            raise UserError(f"{where}: no section {str(section)[:80]!r}; there are {', '.join(sections)}")
        if isinstance(fields, dict):
            refuse_removed((f"{section}.{key}" for key in fields), f"{where}: ")
    _check_sections(Settings, values, "", where)
    parser = _parser("settings", "")
    try:
        return _settings(parser, parser.parse_object(values))
    except UserError as error:
        raise UserError(f"{where}: {str(error).removesuffix(more(parser.prog))}") from None


def _check_sections(kind: Any, values: dict[str, Any], prefix: str, where: str) -> None:
    """Refuse anything but settings where a section stands; jsonargparse would open the file that a string names."""
    for name, section in get_type_hints(kind).items():
        if isinstance(section, type) and dataclasses.is_dataclass(section) and name in values:
            if not isinstance(values[name], dict):
                raise UserError(f"{where}: {prefix}{name} is not a section with settings below it")
            _check_sections(section, values[name], f"{prefix}{name}.", where)


def _settings(parser: ArgumentParser, parsed: Namespace) -> Settings:
    built = parser.instantiate(parsed)
    return Settings(**{f.name: built[f.name] for f in dataclasses.fields(Settings)})


def flat(settings: Section) -> dict[str, Any]:
    """All settings as one dictionary with keys such as `train.epochs`."""
    return dict(_leaves(to_dict(settings)))


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # data.split_ids is a value although it is a dictionary
        if isinstance(value, dict) and key != "split_ids":
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
