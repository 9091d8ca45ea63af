"""Settings that earlier versions had. To remove one, add its line to `REMOVED`.

In the config.yaml of an old run a removed setting is dropped if it had its default. With another value the run still
loads, but it cannot be continued. In a user's YAML or on the command line it is an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from vse_tf.errors import UserError


@dataclass(frozen=True)
class RemovedSetting:
    """A setting that is gone.

    Args:
        default: what it was where nothing was given; today's behaviour.
        replacement: what to do instead, for the message.
    """

    default: object
    replacement: str


REMOVED: dict[str, RemovedSetting] = {
    "data.group_batches": RemovedSetting(True, "a scene and its mirror are always in one batch; leave it out"),
    "loss.hardness": RemovedSetting(1.0, "use loss.hardest, or loss.hardness_epochs for a hardness that rises to 1"),
    "loss.hardness_steps": RemovedSetting(0, "use loss.hardness_epochs, which counts in epochs"),
    "train.optimizer_epsilon": RemovedSetting(1e-7, "Adam's epsilon is always 1e-7; leave it out"),
    "train.steps_per_execution": RemovedSetting(1, "it saved no time; leave it out"),
}


def split_removed(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Separate the removed settings from those that a run of this version has.

    Args:
        values: the settings of a run, by section.

    Returns:
        The settings without removed ones, and the removed ones that did not have their default, by key.

    Example:
        >>> split_removed({"train": {"epochs": 3, "steps_per_execution": 8}})
        ({'train': {'epochs': 3}}, {'train.steps_per_execution': 8})
    """
    remaining = {section: dict(fields) if isinstance(fields, dict) else fields for section, fields in values.items()}
    changed = {}
    for key, removed in REMOVED.items():
        section, _, name = key.partition(".")
        fields = remaining.get(section)
        if isinstance(fields, dict) and name in fields:
            value = fields.pop(name)
            if value != removed.default:
                changed[key] = value
    return remaining, changed


def refuse_removed(keys: Iterable[str], where: str = "") -> None:
    """Raise a `UserError` that names what replaces the first removed setting.

    Args:
        keys: keys of settings, such as `train.epochs`.
        where: begins the message.
    """
    for key in keys:
        if key in REMOVED:
            raise UserError(f"{where}{key}: this setting was removed: {REMOVED[key].replacement}")
