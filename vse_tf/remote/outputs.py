"""Writing a local folder to a bucket: each object once, and last the one by which readers find the others."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vse_tf.display import phase_if
from vse_tf.remote.filesystem import Version, listed, remove, upload

MB = 10**6
# Uploads at a time.
PARALLEL = 4
# Names that hold the hash of their contents: an object with such a name is never written again.
_BY_CONTENTS = re.compile(r"(?:.*/)?(?:(?:vectors|compact|background)-[0-9a-f]{16}\.npy|items-[0-9a-f]{16}\.jsonl)")


def put_folder(
    folder: Path,
    address: str,
    last: Sequence[str],
    *,
    tidy: Callable[[str], bool] = lambda name: False,
    there: dict[str, Version] | None = None,
    progress: bool = True,
) -> None:
    """Write the files of a folder below an address, and delete what belongs to an earlier version.

    Hidden files are left out.

    Args:
        folder: the folder.
        address: the address.
        last: names of files, without folders, that are written after all others, in this order.
        tidy: whether an object that is not in the folder is deleted, by its name; after all is written.
        there: what is there already (default: it is listed).
        progress: show a progress bar; not in a thread.

    Raises:
        UserError: an object cannot be written; then the last ones are as before.

    Example:
        put_folder(Path("photos.index"), "s3://bucket/photos.index", ["manifest.json"])
    """
    there = listed(address) if there is None else there
    sizes = {name: (folder / name).stat().st_size for name in _files(folder)}
    written = {name for name, found in there.items() if _BY_CONTENTS.fullmatch(name) and sizes.get(name) == found.size}
    groups: list[list[str]] = [[] for _ in range(len(last) + 1)]
    for name in sizes.keys() - written:
        rank = next((number for number, each in enumerate(last, 1) if name.rpartition("/")[2] == each), 0)
        groups[rank].append(name)
    total = sum(sizes[name] for group in groups for name in group)

    def put(name: str) -> int:
        upload(f"{address}/{name}", b"", str(folder / name))
        return sizes[name]

    shown = phase_if(progress, f"writing {address}", max(1, total // MB), "MB")
    with shown as phase, ThreadPoolExecutor(PARALLEL) as pool:
        done = 0
        for group in groups:
            for size in pool.map(put, sorted(group)):
                before, done = done // MB, done + size
                phase.update(done // MB - before)
    for name in sorted(there.keys() - sizes.keys()):
        if tidy(name):
            remove(f"{address}/{name}")


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts)]
