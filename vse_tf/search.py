"""`python -m vse_tf.search`: find items of an index by a text, an image, or both."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jsonargparse import Namespace
from jsonargparse.typing import ClosedUnitInterval

from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_base import IndexBase
from vse_tf.artifacts.index_paths import OutsideError
from vse_tf.atomic import atomic_file, check_file
from vse_tf.command_line import command_parser
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command
from vse_tf.files import file_errors
from vse_tf.indexing.embedding import EmbeddingModel
from vse_tf.indexing.embedding_models import UNKNOWN, model_of_index, named_model, unknown_texts
from vse_tf.indexing.faiss import BACKENDS, search_backend
from vse_tf.indexing.items import read_queries
from vse_tf.indexing.relevance import MIN_RELEVANCE, NOTHING, relevance
from vse_tf.indexing.search import Hit, check_model, hits, hits_table
from vse_tf.models.mixing import Part, Query, mix
from vse_tf.pages.contact_sheet import contact_sheet, hits_picture
from vse_tf.startup import starting_tensorflow
from vse_tf.stores.address import TABLE, address_of, check_table

PROG = "python -m vse_tf.search"
EXAMPLES = (
    f'{PROG} --index photos.index "two dogs in the snow"',
    f'{PROG} --index photos.index "at night" --image beach.jpg --without people',
)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: arguments of the command (default: those of the process).

    Raises:
        UserError: there is no such index or model, another model made the index, or an image cannot be read.
    """
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    image = None if arguments.image is None else Path(arguments.image)
    texts = read_queries(arguments.queries) if arguments.queries else [" ".join(arguments.query or [])]
    titles = [_title(text, image, arguments.without) for text in texts]
    with Phase("opening the index"):
        index, model, find = _opened(arguments)
        check_model(index, model.identity)
    with starting_tensorflow():
        import tensorflow  # noqa: F401, PLC0415
    with Phase("searching"):
        queries, unknown = _queries(index, model, texts, arguments.image, arguments.without)
        results = find(queries)
    for title, result in zip(titles, results, strict=True):
        best = result[0].relevance if result else None
        if best is not None and best < arguments.min_relevance:
            print(f"{title}: {NOTHING}", file=sys.stderr)
    _print(arguments, texts, results)
    for text in unknown:
        print(UNKNOWN.format(text), file=sys.stderr)
    files = _ImageFiles(index)
    if missing := files.missing([hit for result in results for hit in result]):
        advice = "if their folder was moved, name it with --root"
        print(f"{len(missing)} of these images are missing, the first is {missing[0]}; {advice}", file=sys.stderr)
    if arguments.html:
        page = contact_sheet(titles[0], results[0], contents=files, image=image)
        _write(arguments.html, page.encode())
    if arguments.picture:
        rows = list(zip(titles, results, strict=True))
        _write(arguments.picture, hits_picture(rows, Path(arguments.picture).suffix, contents=files))
    if files.refused:
        print(f"{len(files.refused)} images are not shown; {files.reason}", file=sys.stderr)


Find: TypeAlias = Callable[[Sequence[Query]], list[list[Hit]]]


def _opened(arguments: Namespace) -> tuple[IndexBase, EmbeddingModel, Find]:
    """The index, the model that made it, and what searches it."""
    note = partial(say, file=sys.stderr)
    address = address_of(arguments.index)
    if address is None:
        index = Index.open(arguments.index, arguments.root)
        model = model_of_index(index, arguments.run, arguments.models)
        search = search_backend(arguments.backend or "auto", index, note)

        def find(queries: Sequence[Query]) -> list[list[Hit]]:
            found = search(np.stack([query.vector for query in queries]), arguments.top_k)
            return [
                hits(index, rows, scores, relevance(index.calibration, query, scores))
                for query, rows, scores in zip(queries, *found, strict=True)
            ]

        return index, model, find
    from vse_tf.stores.published import PublishedIndex  # noqa: PLC0415 (Arrow)

    if arguments.backend not in (None, "exact"):
        raise UserError(
            f"--backend: {arguments.backend} searches an index's folder; a store takes exact, or its own index"
        )
    check_table(arguments.table)
    published = PublishedIndex.open(address, arguments.table, arguments.root)
    if published.about.recall is not None and arguments.backend is None:
        note(f"approximate: recall@10 against exact search {published.about.recall:.3f}")
    exact = arguments.backend == "exact"
    return (
        published,
        named_model(arguments.run, arguments.models, published.model.get("checkpoint", "best")),
        lambda queries: published.search(queries, arguments.top_k, exact),
    )


class _ImageFiles:
    """Returns the contents of a hit's image file; counts those that must not be opened.

    Attributes:
        refused: the images that must not be opened.
        reason: why the first of them must not be opened.
    """

    def __init__(self, index: IndexBase) -> None:
        self.index = index
        self.refused: set[Item] = set()
        self.reason = ""

    def missing(self, found: Sequence[Hit]) -> list[Path]:
        """The files of hits that may be opened but do not exist."""
        paths = []
        for hit in found:
            with contextlib.suppress(OSError, ValueError):
                if hit.path is not None and not (path := self.index.image(hit.item)).exists():
                    paths.append(path)
        return list(dict.fromkeys(paths))

    def __call__(self, hit: Hit) -> bytes:
        try:
            return self.index.contents(hit.item)
        except OutsideError as error:
            self.reason = self.reason or f"{error.filename}: {error.strerror}"
            self.refused.add(hit.item)
            raise


def _parse(argv: list[str]) -> Namespace:
    parser = command_parser(PROG, "Find items of an index by a text, an image, or both together.", examples=EXAMPLES)
    parser.add_argument("query", nargs="*", type=str, help="text to search for")
    parser.add_argument("--index", type=str, required=True, help="folder written by python -m vse_tf.embed, or a store")
    parser.add_argument(
        "--table", type=str, default=TABLE, help="table of a store that python -m vse_tf.publish filled"
    )
    parser.add_argument("--image", type=str | None, help="search for this image; with a text, for both together")
    parser.add_argument("--without", type=str | None, help="a text for what the items shall not show")
    parser.add_argument("--queries", type=str | None, help="search for each line of this text file")
    parser.add_argument("--run", type=str | None, help="run folder (default: the run that made the index)")
    parser.add_argument("--models", type=str | None, help="folder of exported models, instead of a run")
    parser.add_argument("--root", type=str | None, help="folder of the images (default: the one that the index names)")
    parser.add_argument("--top_k", "--top-k", type=int, default=10, help="number of hits")
    parser.add_argument(
        "--min_relevance",
        "--min-relevance",
        type=ClosedUnitInterval,
        default=MIN_RELEVANCE,
        help="below this relevance, from 0 to 1, there is no relevant result",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--html", type=str | None, help="write a contact sheet with embedded pictures to this file")
    parser.add_argument("--picture", type=str | None, help="write queries and hits to this PNG or JPEG file")
    parser.add_argument(
        "--backend",
        type=Literal[BACKENDS] | None,
        help="exact: by all vectors, not by compact ones first; faiss-…: approximate, [faiss] (default: auto; of a "
        "store, its index if it has one)",
    )
    arguments = parser.parse_args(argv)
    text = " ".join(arguments.query or []).strip()
    if not (text or arguments.image or arguments.queries):
        raise UserError('name what to search for: a "text", --image with an image, or --queries with a file')
    if text and arguments.queries:
        raise UserError(f"--queries names a file of texts; leave the text {text!r} out, or add it to the file")
    if arguments.top_k < 1:
        raise UserError(f"--top_k: {arguments.top_k} is not above 0")
    if arguments.html and arguments.queries:
        raise UserError("--html shows one query; with --queries use --picture or --json")
    for option in ("html", "picture"):
        if arguments[option]:
            check_file(Path(arguments[option]), f"--{option}")
    return arguments


def _title(text: str, image: Path | None, without: str | None) -> str:
    looked_for = " + ".join(filter(None, [text, image.name if image else ""]))
    return f"{looked_for} − {without}" if without else looked_for


def _queries(
    index: IndexBase, model: EmbeddingModel, texts: list[str], image: str | None, without: str | None
) -> tuple[list[Query], list[str]]:
    """A query for each text, and the texts without a word of the vocabulary."""
    always = []
    if image is not None:
        vectors, _, problems = model.encode_files([image], "skip")
        if problems:
            raise UserError(f"--image: {problems[0]}")
        always.append(Part(index.fitted(vectors)[0], "images"))
    words = [text for text in [*texts, without or ""] if text.strip()]
    encoded = model.encode_texts(words) if words else np.zeros([0, model.dim], np.float32)
    unknown = unknown_texts(model, words, encoded) if words else []
    vector_of = dict(zip(words, index.fitted(encoded), strict=True))
    if without:
        always.append(Part(vector_of[without], "captions", -1))
    queries = []
    for text in texts:
        own = [Part(vector_of[text], "captions", known=text not in unknown)] if text in vector_of else []
        try:
            queries.append(mix([*own, *always], index.kind, index.plain_dim))
        except ValueError as error:
            raise UserError(f"--without: {error}") from None
    return queries, unknown


def _print(arguments: Namespace, texts: list[str], results: list[list[Hit]]) -> None:
    if arguments.json:
        answers = [[hit.to_dict() for hit in result] for result in results]
        every = [{"query": text, "answers": each} for text, each in zip(texts, answers, strict=True)]
        print(json.dumps(every if arguments.queries else answers[0], indent=2))
    elif arguments.queries:
        print("\n\n".join(f"{text}\n{hits_table(result)}" for text, result in zip(texts, results, strict=True)))
    else:
        print(hits_table(results[0]))


def _write(path: str, contents: bytes) -> None:
    with file_errors(path, "written"), atomic_file(Path(path)) as file:
        file.write(contents)
    print(f"written to {path}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
