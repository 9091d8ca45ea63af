"""Settings from YAML files and the command line, by jsonargparse. No TensorFlow is imported here."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from argparse import ArgumentError
from argparse import ArgumentParser as PlainParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from vse_tf.atomic import write_text
from vse_tf.config import DataSettings, LossSettings, Settings, TrainSettings, to_dict
from vse_tf.errors import UserError
from vse_tf.losses.registry import LOSSES
from vse_tf.removed_settings import refuse_removed, split_removed

# The built-in set has its own defaults, so that `python -m vse_tf.train` alone is a complete run; configs/shapes.yaml
# spells the same settings out. Values: DESIGN of the set, measured to learn it in about a minute.
SHAPES_DEFAULTS: dict[str, Any] = {
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
    "train.eval_batch_size": 250,
}


def parse_settings(argv: list[str], prog: str, description: str) -> Settings:
    """Read the settings of a run from the command line.

    Precedence: defaults (of the built-in set where `data.source` is `shapes`), then `--config` files in their order,
    then single fields.

    Args:
        argv: the arguments without the program's name.
        prog: how the program is called, for `--help`.
        description: first line of `--help`.

    Raises:
        UserError: an unknown key, a wrong type, an unreadable file, or settings that contradict each other.

    Example:
        >>> parse_settings(["--train.epochs", "3"], "python -m vse_tf.train", "Train").train.epochs
        3
    """
    parser = _parser(prog, description)
    for path in _named_configs(argv):
        _checked_values(_read_yaml(path), str(path))
    silent = [a for a in argv if a not in ("-h", "--help") and not a.startswith("--print_config")]
    if _requested_source(parser, silent) == "shapes":
        parser.set_defaults(SHAPES_DEFAULTS)
    return check(_settings(parser, parser.parse_args(argv)))


def settings_from_dict(values: dict[str, Any], where: str) -> Settings:
    """Settings from a dictionary such as a run's config.yaml.

    Raises:
        UserError: an unknown key or a wrong type; the message begins with `where`.
    """
    return check(_checked_values(values, where))


def load_settings(path: Path) -> Settings:
    """Settings from a YAML file written by `save_settings`, also by an earlier version: removed ones are dropped."""
    return settings_from_dict(split_removed(_read_yaml(path))[0], str(path))


def changed_removed_settings(path: Path) -> dict[str, Any]:
    """Removed settings that a file written by `save_settings` gives another value than their default."""
    return split_removed(_read_yaml(path))[1]


def save_settings(settings: Settings, path: Path) -> None:
    """Write all settings as YAML."""
    write_text(path, yaml.safe_dump(to_dict(settings), sort_keys=False, allow_unicode=True))


def data_parser(prog: str, description: str) -> ArgumentParser:
    """A parser with the fields of `data` alone, for commands that read a run and may replace its data."""
    parser = command_parser(prog, description)
    parser.add_class_arguments(DataSettings, "data")
    return parser


def parse_with_data(parser: ArgumentParser, argv: list[str], data: DataSettings) -> tuple[Namespace, DataSettings]:
    """Parse with the fields of `data` preset; returns all arguments and the resulting data settings."""
    parser.set_defaults({f"data.{key}": value for key, value in _leaves(to_dict(data))})
    arguments = parser.parse_args(argv)
    return arguments, parser.instantiate(arguments)["data"]


def differences(first: Settings, second: Settings) -> dict[str, tuple[Any, Any]]:
    """The settings keys in which two runs differ, each with both values."""
    mine, other = flat(first), flat(second)
    return {key: (mine.get(key), other.get(key)) for key in mine | other if mine.get(key) != other.get(key)}


def check(settings: Settings) -> Settings:
    """Refuse settings that no run can satisfy.

    Raises:
        UserError: the first such setting, with its key and what it may be.
    """
    train, text, loss, model, image = settings.train, settings.text, settings.loss, settings.model, settings.image
    positive = {
        "loss.temperature": loss.temperature,
        "model.dim": model.dim,
        "model.head_units": model.head_units,
        "image.stages": image.stages,
        "image.queries": image.queries,
        "text.stages": text.stages,
        "text.queries": text.queries,
        "text.embedding_dim": text.embedding_dim,
        "text.units": text.units,
        "text.min_count": text.min_count,
        "text.layers": text.layers,
        "text.heads": text.heads,
        "train.epochs": train.epochs,
        "train.learning_rate": train.learning_rate,
        "train.eval_batch_size": train.eval_batch_size,
        "train.keep_checkpoints": train.keep_checkpoints,
        "train.log_steps": train.log_steps,
        "data.max_pixels": settings.data.max_pixels,
    }
    for key, value in positive.items():
        if not 0 < value < math.inf:
            raise UserError(f"{key}: {value} is not a number above 0")
    not_negative = {
        "loss.margin": loss.margin,
        "loss.hardness_epochs": loss.hardness_epochs,
        "image.units": image.units,
        "train.clip_norm": train.clip_norm,
        "train.warmup_epochs": train.warmup_epochs,
        "train.patience": train.patience,
        "train.checkpoint_steps": train.checkpoint_steps,
        "train.checkpoint_minutes": train.checkpoint_minutes,
        "train.collapse_steps": train.collapse_steps,
        "train.micro_batch": train.micro_batch,
        "train.examples": train.examples,
        "train.projector": train.projector,
        "train.seed": train.seed,
        "distribution.virtual_cpus": settings.distribution.virtual_cpus,
    }
    for key, value in not_negative.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{key}: {value} is not a number from 0 on")
    _check_batch(train)
    _check_loss(loss)
    if text.max_tokens < 3:
        raise UserError(f"text.max_tokens: {text.max_tokens}; start, one word and end need 3")
    if not text.buckets or any(b <= 0 for b in text.buckets) or sorted(set(text.buckets)) != text.buckets:
        raise UserError(f"text.buckets: {text.buckets} are not rising lengths above 0")
    for key, rate in (("model.dropout", model.dropout), ("text.dropout", text.dropout)):
        if not 0 <= rate < 1:
            raise UserError(f"{key}: {rate} is not in [0, 1)")
    low, high = image.crop_scale
    if not 0 < low <= high <= 1:
        raise UserError(f"image.crop_scale: {low}, {high} are not shares of an area in rising order")
    fractions = settings.data.val_fraction, settings.data.test_fraction
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise UserError(f"data.val_fraction and data.test_fraction: {fractions} leave no image to train on")
    _check_combinations(settings)
    return settings


def _check_combinations(settings: Settings) -> None:
    train, text, image = settings.train, settings.text, settings.image
    if train.jit_compile is True and text.encoder == "gru" and text.packed:
        raise UserError("train.jit_compile: true does not go with text.packed true; set --text.packed false")
    if (settings.data.source == "precomp") != (image.encoder == "features"):
        raise UserError(
            f"image.encoder: {image.encoder} does not go with data.source {settings.data.source}; "
            "precomp data hold features, and only they do: use both or neither of precomp and features"
        )


def _check_batch(train: TrainSettings) -> None:
    if train.batch_size < 2:
        raise UserError(f"train.batch_size: {train.batch_size}; a contrastive batch needs 2 pairs at least")
    if train.micro_batch and train.batch_size % train.micro_batch:
        raise UserError(f"train.micro_batch: {train.micro_batch} does not divide train.batch_size ({train.batch_size})")


def _check_loss(loss: LossSettings) -> None:
    """Refuse settings of the objective that contradict each other or would be left unused."""
    default, chosen = LossSettings(), LOSSES[loss.name]
    for name, entry in LOSSES.items():
        for key in entry.settings:
            if key not in chosen.settings and getattr(loss, key) != getattr(default, key):
                raise UserError(f"loss.{key}: belongs to loss.name {name}, not to {loss.name}")
    if loss.multiple_positives and not loss.mask_same_image:
        raise UserError("loss.multiple_positives: needs loss.mask_same_image true, which compares the image ids")
    if loss.hardest is not None and loss.hardest < 1:
        raise UserError(f"loss.hardest: {loss.hardest} is not a whole number from 1 on, or null for all negatives")
    if not math.isfinite(loss.bias):
        raise UserError(f"loss.bias: {loss.bias} is not a number")
    if loss.learned:
        if chosen.temperature in ("none", "fixed"):
            reason = "it has none" if chosen.temperature == "none" else "a larger one always lowers the loss"
            raise UserError(f"loss.learn_temperature: {loss.name} cannot learn its temperature: {reason}; give false")
        low, high = loss.temperature_limits
        if not 0 < low <= loss.temperature <= high < math.inf:
            raise UserError(
                f"loss.temperature_limits: {low}, {high} are not limits above 0 around loss.temperature "
                f"({loss.temperature})"
            )


class _OneLineParser(ArgumentParser):
    """Raises what would print usage and exit."""

    def parse_args(self, args: list[str], **kwargs: Any) -> Namespace:  # type: ignore[override]
        refuse_removed(argument.removeprefix("--").partition("=")[0] for argument in args)
        return super().parse_args(args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> None:  # type: ignore[override]
        raise UserError(f"{message}{_more(self.prog)}") from ex


def _more(prog: str) -> str:
    return f" (all settings: {prog} --help)"


def command_parser(prog: str, description: str) -> ArgumentParser:
    """An empty parser whose errors are `UserError`s of one line."""
    return _OneLineParser(prog=prog, description=description)


def _parser(prog: str, description: str) -> ArgumentParser:
    parser = command_parser(prog, description)
    parser.add_argument("--config", action="config", help="YAML file with settings; later ones win")
    parser.add_class_arguments(Settings, None)
    return parser


def _requested_source(parser: ArgumentParser, argv: list[str]) -> str | None:
    try:
        return parser.parse_args(argv)["data"]["source"]
    except UserError:
        # The real parse that follows says what is wrong.
        return None


def _named_configs(argv: list[str]) -> list[Path]:
    finder = PlainParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", action="append", default=[], type=Path)
    with contextlib.suppress(ArgumentError):
        return finder.parse_known_args(argv)[0].config
    return []


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings")
    return values or {}


def _checked_values(values: dict[str, Any], where: str) -> Settings:
    """Settings from a dictionary, with errors that name its file."""
    sections = [f.name for f in dataclasses.fields(Settings)]
    for section, fields in values.items():
        if section not in sections:
            raise UserError(f"{where}: no section {section!r}; there are {', '.join(sections)}")
        if not isinstance(fields, dict):
            raise UserError(f"{where}: {section} is not a section with settings below it")
        refuse_removed((f"{section}.{key}" for key in fields), f"{where}: ")
    parser = _parser("settings", "")
    try:
        return _settings(parser, parser.parse_object(values))
    except UserError as error:
        raise UserError(f"{where}: {str(error).removesuffix(_more(parser.prog))}") from None


def _settings(parser: ArgumentParser, parsed: Namespace) -> Settings:
    built = parser.instantiate(parsed)
    return Settings(**{f.name: built[f.name] for f in dataclasses.fields(Settings)})


def flat(settings: Any) -> dict[str, Any]:
    """All settings as one dictionary with keys such as `train.epochs`."""
    return dict(_leaves(to_dict(settings)))


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # data.split_ids is a value although it is a dictionary
        if isinstance(value, dict) and key != "split_ids":
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
