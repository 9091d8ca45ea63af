"""`python -m vse_tf.search`: find items of an index by words or by a photo."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import Namespace

from vse_tf.artifacts.index import Index
from vse_tf.artifacts.index_paths import OutsideError
from vse_tf.atomic import check_file, replacing, write_text
from vse_tf.errors import UserError, run_command
from vse_tf.files import file_errors
from vse_tf.indexing.backends import BACKENDS, backend
from vse_tf.indexing.embedding import Encoder
from vse_tf.indexing.encoders import index_encoder
from vse_tf.indexing.items import query_lines
from vse_tf.indexing.search import Hit, answers_table, check_model, hits
from vse_tf.pages.contact_sheet import contact_sheet, hits_picture
from vse_tf.settings_parser import command_parser

PROG = "python -m vse_tf.search"


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: no index or model there, a model that does not fit, or a photo that cannot be read.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    words = " ".join(arguments.words or [])
    texts = query_lines(arguments.queries) if arguments.queries else [words]
    index = Index.open(arguments.index, arguments.root)
    encoder = index_encoder(index, arguments.run, arguments.models)
    check_model(index, encoder.model)
    search = backend(arguments.backend, index, note=lambda line: print(line, file=sys.stderr))
    query = encoder.encode_texts(texts) if arguments.image is None else _of_photo(encoder, arguments.image)
    found = zip(*search(query, arguments.top_k), strict=True)
    answers = [hits(index, rows, scores) for rows, scores in found]
    _print(arguments, texts, answers)
    photos = _Photos(index)
    if arguments.html:
        asked = words if arguments.image is None else Path(arguments.image)
        sheet = contact_sheet(asked, answers[0], image_file=photos)
        _write(arguments.html, lambda path: write_text(path, sheet))
    if arguments.picture:
        titles = texts if arguments.image is None else [Path(arguments.image).name]
        rows = list(zip(titles, answers, strict=True))
        picture = hits_picture(rows, Path(arguments.picture).suffix, image_file=photos)
        _write(arguments.picture, lambda path: _write_bytes(path, picture))
    if photos.refused:
        print(f"{len(photos.refused)} photos are not shown; {photos.first}", file=sys.stderr)


class _Photos:
    """Which file to open for an answer; remembers those that must not be opened."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.refused: set[int] = set()
        self.first = ""

    def __call__(self, hit: Hit) -> Path:
        try:
            return self.index.photo(hit.item)
        except OutsideError as error:
            self.first = self.first or f"{error.filename}: {error.strerror}"
            self.refused.add(hit.row)
            raise


def _parse(argv: list[str]) -> Namespace:
    parser = command_parser(PROG, "Find items of an index by words or by a photo.")
    parser.add_argument("words", nargs="*", type=str, help="what to search for")
    parser.add_argument("--index", type=str, required=True, help="folder that python -m vse_tf.embed made")
    parser.add_argument("--image", type=str | None, help="search by this photo instead of words")
    parser.add_argument("--queries", type=str | None, help="search by each line of this text file")
    parser.add_argument("--run", type=str | None, help="run folder (default: the run that made the index)")
    parser.add_argument("--models", type=str | None, help="folder of exported models, instead of a run")
    parser.add_argument(
        "--root",
        type=str | None,
        help="folder of the photos (default: the one that the index names)",
    )
    parser.add_argument("--top_k", "--top-k", type=int, default=10, help="number of answers")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--html", type=str | None, help="write a contact sheet to this file, pictures inside")
    parser.add_argument("--picture", type=str | None, help="write queries and answers to this PNG or JPEG file")
    parser.add_argument("--backend", choices=list(BACKENDS), default="exact", help="faiss-…: approximate, [faiss]")
    arguments = parser.parse_args(argv)
    words = " ".join(arguments.words or []).strip()
    if sum(map(bool, (words, arguments.image, arguments.queries))) != 1:
        raise UserError('name what to search for: either "words" or --image with a photo, or --queries with a file')
    if arguments.top_k < 1:
        raise UserError(f"--top_k: {arguments.top_k} is not above 0")
    if arguments.html and arguments.queries:
        raise UserError("--html shows one query; with --queries use --picture or --json")
    for option in ("html", "picture"):
        if arguments[option]:
            check_file(Path(arguments[option]), f"--{option}")
    return arguments


def _of_photo(encoder: Encoder, path: str) -> np.ndarray:
    query, _, problems = encoder.encode_files([path], "skip")
    if problems:
        raise UserError(f"--image: {problems[0]}")
    return query


def _print(arguments: Namespace, texts: list[str], answers: list[list[Hit]]) -> None:
    if arguments.json:
        lists = [[answer.to_dict() for answer in one] for one in answers]
        each = [{"query": text, "answers": one} for text, one in zip(texts, lists, strict=True)]
        print(json.dumps(each if arguments.queries else lists[0], indent=2))
    elif arguments.queries:
        print("\n\n".join(f"{text}\n{answers_table(one)}" for text, one in zip(texts, answers, strict=True)))
    else:
        print(answers_table(answers[0]))


def _write_bytes(path: Path, contents: bytes) -> None:
    with replacing(path) as file:
        file.write(contents)


def _write(name: str, write: Callable[[Path], Any]) -> None:
    with file_errors(name, "written"):
        write(Path(name))
    print(f"written to {name}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
