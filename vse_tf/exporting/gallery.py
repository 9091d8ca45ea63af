"""The gallery of a retrieval model: from an index, or embedded from a folder or a list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.index import LINE_BYTES, Index, Item
from vse_tf.artifacts.index_manifest import MANIFEST
from vse_tf.artifacts.index_paths import relative
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import Problem
from vse_tf.data.sources.files import problem_of_text, read_text
from vse_tf.data.sources.rows import csv_rows, json_rows
from vse_tf.display import phase_if
from vse_tf.embedder import Embedder
from vse_tf.errors import UserError
from vse_tf.files import file_errors, open_regular
from vse_tf.indexing import items as collection

TABLES = (".csv", ".jsonl", ".ndjson", ".json")
Note = Callable[[Problem], None]


@dataclass(frozen=True)
class Gallery:
    """The vectors of a gallery, and the items that they belong to.

    Args:
        vectors: float32 `(rows, dim)`, unit rows.
        ids: the name of each row's item.
        captions: text to display for each item: its caption, or else its path.
        facts: kind, number and source of the items, as JSON.
        calibration: what a score means in it, if it is an index that was calibrated.
    """

    vectors: np.ndarray
    ids: list[str]
    captions: list[str]
    facts: dict[str, Any]
    calibration: Calibration | None = None

    def __len__(self) -> int:
        return len(self.ids)


def read_gallery(
    place: str | Path, embedder: Embedder, note: Note, progress: bool = True, model_id: str | None = None
) -> Gallery:
    """Read or embed a gallery.

    Args:
        place: one of

            - the folder of an index (`python -m vse_tf.embed`), made by the same run;
            - a folder of images, subfolders included;
            - a text file with one path or one caption per line: it lists images if the first line ends like the
              name of an image file;
            - a CSV file with a header, or JSONL: `image` (path) or `caption` or both, and optionally `id`.

            Relative paths are below the list's folder.
        embedder: the run.
        note: called with the problem of every item that is skipped: missing, unreadable, not UTF-8.
        progress: show progress bars.
        model_id: identity of the run (`RunFolder.identity`), which an index must have been made by; None: any.

    Raises:
        UserError: no such file or folder, no usable item in it, or an index of another model.

    Example:
        >>> len(read_gallery("images", embedder, print))
        8091
    """
    path = Path(os.path.expanduser(place))  # noqa: PTH111 - it takes every name
    if os.path.lexists(path / MANIFEST):
        with phase_if(progress, "reading the index"):
            return _of_index(path, embedder, model_id)
    if not os.path.exists(path):  # noqa: PTH110 - a name may be too long to ask
        raise UserError(f"{path}: no such file or folder; name the gallery's folder, list or index")
    left_out: list[Problem] = []

    def leave_out(problem: Problem) -> None:
        left_out.append(problem)
        note(problem)

    items, root = _items(path, leave_out)
    of_images = any(item.path is not None for item in items)
    if of_images:
        vectors, items = _encode_images(items, root, embedder, leave_out, progress)
    else:
        vectors = embedder.encode_texts([item.caption or "" for item in items], progress=progress)
    if not items:
        reason = f"; first: {left_out[0]}" if left_out else ""
        raise UserError(f"{path}: no usable image or caption in it{reason}")
    facts = {"kind": "images" if of_images else "captions", "source": path.name, "left_out": len(left_out)}
    return _gallery(vectors, items, facts)


def _of_index(path: Path, embedder: Embedder, model_id: str | None) -> Gallery:
    index = Index.open(path)
    if index.dim != embedder.dim:
        raise UserError(
            f"{path} holds vectors of {index.dim} dimensions, this run gives {embedder.dim}; make the index "
            "with this run: python -m vse_tf.embed --run"
        )
    if model_id and index.model.get("id") != model_id:
        raise UserError(f"{path} was made by another model; make the index with this run: python -m vse_tf.embed --run")
    if not len(index):
        raise UserError(f"{path}: the index is empty")
    index.verify()
    facts = {"kind": index.kind, "source": path.name, "index_model": index.model.get("id")}
    gallery = _gallery(index.matrix(), [_without_folders(item, path) for item in index.all_items()], facts)
    return replace(gallery, calibration=index.calibration)


def _without_folders(item: Item, index: Path) -> Item:
    """An item of an older index without the absolute path on its author's machine."""
    if item.path is None or not os.path.isabs(item.path):  # noqa: PTH117
        return item
    name = relative(item.path, index) or Path(item.path).name
    return replace(item, id=name if item.id == item.path else item.id, path=name)


def _gallery(vectors: np.ndarray, items: list[Item], facts: dict[str, Any]) -> Gallery:
    captions = [item.caption if item.caption is not None else item.path or item.id for item in items]
    return Gallery(vectors, [item.id for item in items], captions, {**facts, "items": len(items)})


def _encode_images(
    items: list[Item], root: Path, embedder: Embedder, leave_out: Note, progress: bool
) -> tuple[np.ndarray, list[Item]]:
    """The vectors of the images that can be read, and their items."""
    if embedder.view.size is None:
        raise UserError("this run takes precomputed features, not images; give a list of captions, or an index")
    paths = [str(root / (item.path or "")) for item in items]
    bad = BadImages("skip", embedder.view.max_pixels, leave_out)
    with phase_if(progress, "images", len(paths), "images") as bar:
        vectors, rows = embedder.encode_files(paths, bad, advance=bar.update)
    return vectors, [items[row] for row in rows]


def _items(path: Path, leave_out: Note) -> tuple[list[Item], Path]:
    root = path.parent
    if path.is_file() and path.suffix.lower() in TABLES:
        found: Iterable[Item | Problem] = _table(path)
    elif path.is_file() and not _lists_images(path):
        found = collection.caption_items(path)
    else:
        found = images = collection.image_items(path)
        root = images.root or root
    items: dict[str, Item] = {}
    for item in found:
        if isinstance(item, Problem):
            leave_out(item)
        elif item.id in items:
            leave_out(Problem(str(path), f"a second item is called {item.id!r}"))
        else:
            items[item.id] = item
    return list(items.values()), root


def _lists_images(path: Path) -> bool:
    """Whether the first line that is not blank ends like the name of an image file."""
    with file_errors(path), open_regular(path) as file:
        for line in iter(lambda: file.readline(LINE_BYTES), b""):
            if text := line.decode("utf-8-sig", errors="replace").strip():
                return text.lower().endswith(collection.SUFFIXES)
    return False


def _table(path: Path) -> Iterator[Item | Problem]:
    """Items of a CSV or JSONL file; an image on several rows is one item, with the first caption."""
    text = read_text(path, "gallery")
    seen: set[str] = set()
    is_csv = path.suffix.lower() == ".csv"
    for number, row in csv_rows(path, text, partial(_check_header, path)) if is_csv else json_rows(text):
        where = f"{path}: line {number}"
        if isinstance(row, str):
            yield Problem(where, row)
            continue
        caption = row.get("caption")
        caption = caption[0] if isinstance(caption, list) and caption else caption
        values = {"id": row.get("id"), "image": row.get("image"), "caption": caption}
        wrong = [key for key, value in values.items() if value is not None and not isinstance(value, str | int)]
        texts = {key: str(value).strip() for key, value in values.items() if value is not None and key not in wrong}
        problem = next(filter(None, map(problem_of_text, texts.values())), "")
        if wrong or problem:
            yield Problem(where, problem or f"{wrong[0]} is not a string")
        elif image := texts.get("image"):
            if image not in seen:
                yield _image(path, image, where, texts)
            seen.add(image)
        elif texts.get("caption"):
            yield Item(texts.get("id") or str(number), caption=texts["caption"])
        else:
            yield Problem(where, "neither image nor caption")


def _check_header(path: Path, names: list[str]) -> None:
    if not {"image", "caption"} & set(names):
        raise UserError(f"{path}: line 1: no column image or caption in the header; rename one")


def _image(path: Path, image: str, where: str, texts: dict[str, str]) -> Item | Problem:
    found = collection.image_item(image, os.path.join(path.parent, image), where)  # noqa: PTH118
    if isinstance(found, Problem):
        return found
    # Not the author's folders: others see captions and names.
    name = relative(image, path.parent) or Path(image).name if Path(image).is_absolute() else image
    return Item(texts.get("id") or name, path=image, caption=texts.get("caption") or name)
