"""`manifest.json` of a version folder: what the model is, where it comes from, and the hash of every file.

No TensorFlow is imported here: a SavedModel is a program, so its hashes are checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vse_tf.artifacts.run_folder import read_json, write_json
from vse_tf.errors import UserError
from vse_tf.files import sha256_of

MANIFEST = "manifest.json"
FORMAT = 1
_AGAIN = "copy the folder again, or write it again with python -m vse_tf.export"


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a finished folder.

    Args:
        folder: the version folder; every file in it gets its hash into the manifest.
        facts: what else the manifest says.

    Raises:
        OSError: the folder cannot be read or written.
    """
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)}
    write_json(folder / MANIFEST, {"format": FORMAT, **facts, "files": files})


def read(folder: str | Path) -> dict[str, Any]:
    """The manifest of a version folder, its files unchecked.

    Raises:
        UserError: there is none, or it cannot be read.

    Example:
        >>> read("models/text_tower/1")["dim"]
        1024
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise UserError(f"{folder}: no {MANIFEST} here; name a version folder that python -m vse_tf.export wrote")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not _names_files(manifest.get("files")):
        raise UserError(f"{path}: not a manifest of format {FORMAT}; {_AGAIN}")
    return manifest


def verify(folder: str | Path) -> dict[str, Any]:
    """Compare every file of a version folder with its manifest, before anything of it is loaded.

    Files that the manifest does not name are left alone: a server's own settings may lie there. A second
    `saved_model.pbtxt` is not: a loader could take it for the model.

    Args:
        folder: the version folder.

    Returns:
        The manifest.

    Raises:
        UserError: no manifest, or a file is missing, damaged or foreign; the message names it.

    Example:
        >>> verify("models/text_tower/1")["signatures"].keys()
        dict_keys(['serving_default'])
    """
    folder = Path(folder)
    manifest = read(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        try:
            found = sha256_of(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}; {_AGAIN}") from None
        if found != expected:
            raise UserError(f"{path}: damaged or replaced: its hash is not the manifest's; {_AGAIN}")
    loadable = {"saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"}
    for path in sorted(folder.iterdir()):
        if path.name in loadable and path.name not in manifest["files"]:
            raise UserError(f"{path}: a model that the manifest does not name; remove it, or {_AGAIN}")
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _names_files(files: Any) -> bool:
    """Names of files inside the folder, each with a hash: a manifest must not reach outside."""
    return isinstance(files, dict) and all(
        isinstance(digest, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        for name, digest in files.items()
    )
