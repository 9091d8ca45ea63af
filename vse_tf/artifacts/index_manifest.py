"""`manifest.json` of an index, read without trusting who wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from vse_tf.artifacts.calibration import check_levels
from vse_tf.artifacts.index_paths import own_file
from vse_tf.data.sources.files import problem_of_text
from vse_tf.errors import UserError
from vse_tf.files import check_format, read_json, reason_of
from vse_tf.models.folding import EXTRA

Kind = Literal["images", "captions"]

MANIFEST = "manifest.json"
# Format 2 has the dimensions of the plain space too, where vectors have those of a hubness correction after them.
# Format 3 has compact vectors, which may be the only ones.
FORMAT = 3
# A billion rows in shards of 16,384 need 11 MB.
MANIFEST_BYTES = 2**26
NAME_CHARACTERS = 8192
MAX_DIM = 2**20
AGAIN = "restore it, or make the index again with python -m vse_tf.embed"
_LEAST_LINE = len('{"id":""}\n')


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an index, all its values checked.

    Raises:
        UserError: there is no index, the manifest is damaged, or a newer version wrote it.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(own_file(folder, MANIFEST), MANIFEST_BYTES)
        if not isinstance(manifest, dict) or "format" not in manifest:
            raise ValueError("not an index's manifest")
        check_format(path, manifest["format"], FORMAT)
        _check(manifest)
    except (FileNotFoundError, NotADirectoryError):
        hint = "make one with python -m vse_tf.embed"
        raise UserError(f"{folder}: no index here (no {MANIFEST}); name an index's folder, or {hint}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {reason_of(error)}; {AGAIN}") from None
    return manifest


def _check(manifest: dict[str, Any]) -> None:
    """Check every value that the index uses.

    Raises:
        ValueError: a value is missing or wrong.
    """
    if manifest.get("kind") not in get_args(Kind):
        raise ValueError(f"kind is {manifest.get('kind')!r}; it is one of {', '.join(get_args(Kind))}")
    if not _is_int(manifest.get("dim"), 1) or not _is_int(manifest.get("count"), 0):
        raise ValueError("dim and count are not integers")
    if manifest["dim"] > MAX_DIM:
        raise ValueError(f"dim is above {MAX_DIM}")
    plain = manifest.get("plain_dim", manifest["dim"])
    if not _is_int(plain, 1) or plain not in (manifest["dim"], manifest["dim"] - EXTRA):
        raise ValueError(f"plain_dim is {plain!r}; dim is {manifest['dim']}")
    _check_strings("", manifest, ("root", "root_name"))
    for key in ("items", "model", "provenance"):
        if not isinstance(manifest.get(key), dict):
            raise ValueError(f"no {key}")
    _check_strings("model.", manifest["model"], ("kind", "name", "path", "checkpoint", "id"))
    _check_items(manifest["items"])
    if "calibration" in manifest:
        _check_calibration(manifest["calibration"])
    shards = manifest.get("shards")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ValueError("shards without name, rows and sha256")
    if (rows := sum(shard["rows"] for shard in shards)) != manifest["count"]:
        raise ValueError(f"count is {manifest['count']}, the shards hold {rows} rows")
    if "compact" in manifest:
        _check_compact(manifest["compact"], plain, [shard["rows"] for shard in shards])
    # Shards may be named several times, so that this alone bounds the rows by a file's size.
    if manifest["count"] * _LEAST_LINE > manifest["items"]["bytes"]:
        raise ValueError(f"{manifest['items']['bytes']} bytes of items cannot be {manifest['count']} lines")


def _check_items(value: dict[str, Any]) -> None:
    if not _is_int(value.get("bytes"), 0) or not isinstance(value.get("sha256"), str):
        raise ValueError("items without bytes and sha256")
    if re.fullmatch(r"items(-[0-9a-f]{16})?\.jsonl", str(value.get("name", "items.jsonl"))) is None:
        raise ValueError("items with another name than items-….jsonl")


def _check_calibration(value: Any) -> None:
    if not isinstance(value, dict) or not (value.get("background") is None or _is_shard(value["background"])):
        raise ValueError("calibration without levels")
    check_levels(value.get("levels"))


def _check_compact(value: Any, plain_dim: int, rows: list[int]) -> None:
    if not isinstance(value, dict) or value.get("storage") not in ("float16", "int8"):
        raise ValueError("compact.storage is neither float16 nor int8")
    if not _is_int(value.get("dims"), 1) or value["dims"] > plain_dim:
        raise ValueError(f"compact.dims is not an integer from 1 to {plain_dim}")
    shards = value.get("shards")
    if not isinstance(shards, list) or not all(_is_shard(shard) for shard in shards):
        raise ValueError("compact.shards without name, rows and sha256")
    if [shard["rows"] for shard in shards] != rows:
        raise ValueError("compact.shards have other rows than the shards")
    # Other levels, of another definition of relevance, were called `levels`.
    check_levels(value.get("score_levels", {}))


def _is_shard(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        # Only a name: no path leads out of the folder.
        and re.fullmatch(r"[^/\\\0]{1,250}\.npy", value["name"]) is not None
        and _is_int(value.get("rows"), 1)
        and isinstance(value.get("sha256"), str)
    )


def _check_strings(prefix: str, values: dict[str, Any], keys: Sequence[str]) -> None:
    """Refuse values that are neither missing nor a path or a name."""
    for key in keys:
        value = values.get(key)
        if not isinstance(value, str | None):
            raise ValueError(f"{prefix}{key} is not a string")
        if value and (len(value) > NAME_CHARACTERS or "\0" in value or problem_of_text(value)):
            raise ValueError(f"{prefix}{key} is not a path or name")


def _is_int(value: object, least: int) -> bool:
    return type(value) is int and value >= least
