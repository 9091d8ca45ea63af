"""`manifest.json` of a version folder: the model's inputs and outputs, its provenance, and the hash of every file.

No TensorFlow is imported here: a SavedModel is a program, so its hashes are checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vse_tf.atomic import write_json
from vse_tf.errors import UserError
from vse_tf.files import check_format, file_errors, load_json, sha256_of

MANIFEST = "manifest.json"
# Format 2 has the dimensions of the plain space too, where vectors have those of a hubness correction after them.
FORMAT = 2
_AGAIN = "copy the folder again, or write it again with python -m vse_tf.export"


def write(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a finished folder.

    Args:
        folder: the version folder; the manifest holds the hash of every file in it.
        facts: the other values of the manifest.

    Raises:
        OSError: the folder cannot be read or written.
    """
    files = {path.relative_to(folder).as_posix(): sha256_of(path) for path in _files(folder)}
    # Earlier versions read what has no correction.
    write_json(folder / MANIFEST, {"format": FORMAT if "plain_dim" in facts else 1, **facts, "files": files})


def read(folder: str | Path) -> dict[str, Any]:
    """The manifest of a version folder, its files unchecked.

    Raises:
        UserError: there is none, it cannot be read, or a newer version wrote it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(Path(folder), {"dim": 1024})
        ...     read(folder)["dim"]
        1024
    """
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise UserError(f"{folder}: no {MANIFEST} here; name a version folder that python -m vse_tf.export wrote")
    manifest: dict[str, Any] = load_json(path)
    try:
        check_format(path, manifest.get("format") if isinstance(manifest, dict) else None, FORMAT)
        if not _names_files(manifest.get("files")):
            raise ValueError("not a manifest with the names and hashes of its files")
    except ValueError as error:
        raise UserError(f"{path}: {error}; {_AGAIN}") from None
    return manifest


def verify(folder: str | Path) -> dict[str, Any]:
    """Compare every file of a version folder with its manifest, before anything of it is loaded.

    Files that the manifest does not name are ignored: they may be a server's settings. A second `saved_model.pbtxt` is
    refused: a loader could take it for the model.

    Args:
        folder: the version folder.

    Returns:
        The manifest.

    Raises:
        UserError: there is no manifest, or a file is missing, damaged or not part of the export.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "vocabulary.txt").write_text("dog")
        ...     write(Path(folder), {"dim": 1024})
        ...     list(verify(folder)["files"])
        ['vocabulary.txt']
    """
    folder = Path(folder)
    manifest = read(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        with file_errors(path, advice=_AGAIN):
            found = sha256_of(path)
        if found != expected:
            raise UserError(f"{path}: damaged or replaced: its hash is not the manifest's; {_AGAIN}")
    loadable = {"saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"}
    for path in sorted(folder.iterdir()):
        if path.name in loadable and path.name not in manifest["files"]:
            raise UserError(f"{path}: a model that the manifest does not name; remove it, or {_AGAIN}")
    return manifest


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def _names_files(files: object) -> bool:
    """Whether these are paths of files inside the folder, each with a hash."""
    return isinstance(files, dict) and all(
        isinstance(digest, str) and not Path(name).is_absolute() and ".." not in Path(name).parts
        for name, digest in files.items()
    )
