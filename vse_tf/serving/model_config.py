"""Which models, versions and labels to serve: `--models`, `--label` and TensorFlow Serving's own models.config."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vse_tf.errors import UserError

_NAME = re.compile(r"[^/:]+")
_LABEL = re.compile(r"(?:(?P<model>[^/:=]+):)?(?P<label>[^/:=]+)=(?P<version>[0-9]+)")


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Args:
        name: its name in the address.
        folder: the folder with its version folders.
        newest: number of the newest versions to serve; 0 serves all.
        versions: serve exactly these versions instead.
        labels: version by label; these versions are served as well.
    """

    name: str
    folder: Path
    newest: int = 1
    versions: tuple[int, ...] = ()
    labels: dict[str, int] = field(default_factory=dict)

    def wanted(self, available: Sequence[int]) -> set[int]:
        """The versions to serve out of those that can be loaded.

        Example:
            >>> ModelConfig("tower", Path("models/tower"), labels={"stable": 1}).wanted([1, 2, 3])
            {1, 3}
        """
        ordered = sorted(available, reverse=True)
        named = self.versions or ordered[: self.newest or None]
        return {version for version in available if version in named or version in self.labels.values()}


def version_folders(folder: Path) -> dict[int, Path]:
    """The version folders in a model's folder: those whose name is an integer."""
    try:
        children = list(folder.iterdir())
    except OSError:
        return {}
    return {int(child.name): child for child in children if re.fullmatch(r"[0-9]{1,18}", child.name) and child.is_dir()}


def models_below(folder: Path, newest: int = 1) -> list[ModelConfig]:
    """Every folder in `folder` that holds version folders, as a model of that name.

    Raises:
        UserError: the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"--models: there is no folder {folder}; name the one that export wrote")
    children = sorted(child for child in folder.iterdir() if _NAME.fullmatch(child.name))
    return [ModelConfig(child.name, child, newest) for child in children if version_folders(child)]


def read_models_config(path: Path, below: Path | None = None) -> list[ModelConfig]:
    """The models of a `models.config` file, TensorFlow Serving's own format.

    Args:
        path: a ModelServerConfig in text form with a `model_config_list`.
        below: where a `base_path` does not exist on this machine (it is one inside a container), the model is looked
            for under its last part in this folder.

    Raises:
        UserError: it cannot be read, or names no models.
    """
    from google.protobuf import text_format  # noqa: PLC0415
    from tensorflow_serving.config import model_server_config_pb2  # noqa: PLC0415

    config = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(path.read_text(encoding="utf-8"), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    models = []
    for entry in config.model_config_list.config:
        if not _NAME.fullmatch(entry.name):
            raise UserError(f"{path}: model name {entry.name!r}: give one without '/' and ':'")
        folder = Path(entry.base_path)
        if below is not None and not folder.is_dir():
            folder = below / folder.name
        policy = entry.model_version_policy
        kind = policy.WhichOneof("policy_choice")
        newest = 0 if kind == "all" else policy.latest.num_versions or 1
        versions = tuple(policy.specific.versions) if kind == "specific" else ()
        models.append(ModelConfig(entry.name, folder, newest, versions, dict(entry.version_labels)))
    if not models:
        raise UserError(f"{path}: no models in it; it needs a model_config_list with a config for each")
    repeated = {model.name for model in models if [each.name for each in models].count(model.name) > 1}
    if repeated:
        raise UserError(f"{path}: more than one model is called {min(repeated)}")
    return models


def with_labels(models: Sequence[ModelConfig], labels: Sequence[str]) -> list[ModelConfig]:
    """The models with labels from the command line added.

    Args:
        models: the models.
        labels: each `LABEL=VERSION`, for every model that has this version, or `MODEL:LABEL=VERSION`.

    Raises:
        UserError: a label of another form, an unknown model, or a version that is not there.
    """
    result = list(models)
    for text in labels:
        found = _LABEL.fullmatch(text)
        if found is None:
            raise UserError(f"--label: {text}: write LABEL=VERSION or MODEL:LABEL=VERSION, such as stable=1")
        name, version = found["model"], int(found["version"])
        if name is not None and name not in [model.name for model in models]:
            raise UserError(f"--label: {text}: no model {name}; there are {', '.join(m.name for m in models)}")
        matching = [
            at
            for at, model in enumerate(result)
            if name in (None, model.name) and version in version_folders(model.folder)
        ]
        if not matching:
            raise UserError(f"--label: {text}: no {name or 'model'} has a version {version}")
        for at in matching:
            result[at] = dataclasses.replace(result[at], labels={**result[at].labels, found["label"]: version})
    return result
