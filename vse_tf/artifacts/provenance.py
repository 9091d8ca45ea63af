"""Provenance of a result: versions, seed, settings, data, revision."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import vse_tf
from vse_tf.artifacts.checkpoint_files import required_checkpoint
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings, to_dict
from vse_tf.data.records import Collection


def provenance(settings: Settings, collection: Collection) -> dict[str, Any]:
    """The values that are needed to reproduce a result.

    Args:
        settings: the run's settings.
        collection: its data.

    Returns:
        Versions, seed, settings and their hash, the data's fingerprint, and the git revision if there is one.
    """
    values = to_dict(settings)
    return {
        **software(),
        "seed": settings.train.seed,
        "settings": without_folders(values),
        "settings_sha256": _sha256(json.dumps(values, sort_keys=True)),
        "data": {name: len(split) for name, split in collection.splits.items()},
        "data_sha256": fingerprint(collection),
        "skipped": len(collection.skipped),
    }


def provenance_of_run(run: RunFolder, checkpoint: str) -> dict[str, Any]:
    """The values that are needed to reproduce a file that was made from a run.

    Args:
        run: the run folder.
        checkpoint: `best` or `last`.

    Returns:
        The run's name, the model's identity, the checkpoint's position and hash, the settings (see `without_folders`),
        the run's own provenance (fingerprint of the data, seed, versions at that time), and the versions of the
        software that wrote the file.

    Raises:
        UserError: no such run or checkpoint.

    Example:
        provenance_of_run(RunFolder("runs/shapes-convse-0"), "best")["checkpoint"]["epoch"]  # 18
    """
    settings = to_dict(run.settings())
    found = required_checkpoint(run.checkpoints, checkpoint)
    trained = dict((run.read_results() or {}).get("provenance", {}))
    trained.pop("settings", None)
    return {
        "run": run.path.resolve().name,
        "id": run.identity(checkpoint),
        "checkpoint": {
            "which": checkpoint,
            "epoch": found.position.epoch,
            "step": found.position.step,
            "sha256": found.sha256,
        },
        "settings": without_folders(settings),
        "settings_sha256": _sha256(json.dumps(settings, sort_keys=True)),
        "trained": trained,
        "written": software(),
    }


def without_folders(settings: object) -> object:
    """Settings for publication: of absolute paths only the last name.

    Example:
        >>> without_folders({"data": {"images": "/home/me/images"}, "image": {"encoder": "hub:/home/me/preset"}})
        {'data': {'images': 'images'}, 'image': {'encoder': 'hub:preset'}}
    """
    if isinstance(settings, dict):
        return {key: without_folders(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_folders(value) for value in settings]
    if isinstance(settings, str):
        kind = "hub:" if settings.startswith("hub:") else ""
        path = Path(settings.removeprefix(kind))
        return kind + path.name if path.is_absolute() else settings
    return settings


def software() -> dict[str, Any]:
    """Versions, and the git revision if there is one."""
    return {
        "vse_tf": vse_tf.__version__,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tensorflow", "keras", "keras-hub", "numpy")},
        "git": _revision(),
    }


def fingerprint(collection: Collection) -> str:
    """A hash of the splits, their image names and captions, in order."""
    digest = hashlib.sha256()
    for name, split in sorted(collection.splits.items()):
        for record in split.records:
            digest.update(json.dumps([name, Path(record.image).name, record.captions]).encode())
    return digest.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _revision() -> str | None:
    """The git revision of the checkout that this package runs from."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # An environment may be inside another repository, which does not track this file.
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=12") or None
    except (OSError, subprocess.SubprocessError):
        return None
