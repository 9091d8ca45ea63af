"""Tiny tar shards for the tests."""

import io
import json
import tarfile
from pathlib import Path

from tests.data.sources.source_files import image_bytes


def write_tar(path: Path, members: dict[str, bytes | str | tarfile.TarInfo]) -> Path:
    """A shard of these members; a `TarInfo` is one without contents, such as a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, contents in members.items():
            if isinstance(contents, tarfile.TarInfo):
                archive.addfile(contents)
                continue
            part = contents.encode() if isinstance(contents, str) else contents
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return path


def samples(names: str, split: str | None = None, seed: int = 0) -> dict[str, bytes | str]:
    """A JPEG and a `.json` with two captions for each letter."""
    found: dict[str, bytes | str] = {}
    for number, name in enumerate(names):
        found[f"{name}.jpg"] = image_bytes(seed=seed + number)
        values = {"captions": [f"{name} one", f"{name} two"]} | ({"split": split} if split else {})
        found[f"{name}.json"] = json.dumps(values)
    return found
