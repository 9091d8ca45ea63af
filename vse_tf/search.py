"""`python -m vse_tf.search`: find items of an index by words or by a photo."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from vse_tf.data.cache import write_atomically
from vse_tf.errors import UserError, run_command
from vse_tf.retrieval.backends import BACKENDS, backend
from vse_tf.retrieval.contact_sheet import contact_sheet
from vse_tf.retrieval.encoders import index_encoder
from vse_tf.retrieval.index import Index, told
from vse_tf.retrieval.report import answers_table
from vse_tf.retrieval.search import check_model, hits
from vse_tf.settings_parser import command_parser

PROG = "python -m vse_tf.search"


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: no index or model there, a model that does not fit, or a photo that cannot be read.
    """
    parser = command_parser(PROG, "Find items of an index by words or by a photo.")
    parser.add_argument("words", nargs="*", type=str, help="what to search for")
    parser.add_argument("--index", type=str, required=True, help="folder that python -m vse_tf.embed made")
    parser.add_argument("--image", type=str | None, help="search by this photo instead of words")
    parser.add_argument("--run", type=str | None, help="run folder (default: the model that made the index)")
    parser.add_argument("--models", type=str | None, help="folder of exported models, instead of a run")
    parser.add_argument("--root", type=str | None, help="folder of the photos (default: where they were embedded)")
    parser.add_argument("--top_k", "--top-k", type=int, default=10, help="number of answers")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--html", type=str | None, help="write a contact sheet to this file, pictures inside")
    parser.add_argument("--backend", choices=list(BACKENDS), default="exact", help="faiss-…: approximate, [faiss]")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    words = " ".join(arguments.words or [])
    if bool(words.strip()) == (arguments.image is not None):
        raise UserError('name what to search for: either "words" or --image with a photo')
    if arguments.top_k < 1:
        raise UserError(f"--top_k: {arguments.top_k} is not above 0")
    page = Path(arguments.html) if arguments.html else None
    if page and not page.absolute().parent.is_dir():
        raise UserError(f"--html: the folder {page.absolute().parent} does not exist")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    index = Index.open(arguments.index, arguments.root)
    encoder = index_encoder(index, arguments.run, arguments.models)
    check_model(index, encoder.model)
    search = backend(arguments.backend, index, note=lambda line: print(line, file=sys.stderr))
    if arguments.image is None:
        query = encoder.encode_texts([words])
    else:
        query, _, problems = encoder.encode_files([arguments.image], "skip")
        if problems:
            raise UserError(f"--image: {problems[0]}")
    rows, scores = search(query, arguments.top_k)
    answers = hits(index, rows[0], scores[0])
    if arguments.json:
        print(json.dumps([answer.to_dict() for answer in answers], indent=2))
    else:
        print(answers_table(answers))
    if page:
        asked = words if arguments.image is None else Path(arguments.image)
        told(page, write_atomically, page, contact_sheet(asked, answers), doing="written")
        print(f"written to {page}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
