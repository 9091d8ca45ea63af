"""`python -m vse_tf.check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from vse_tf.artifacts.run_folder import settings_of_run
from vse_tf.atomic import check_file, write_json, write_text
from vse_tf.config import DataSettings, Settings
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command
from vse_tf.files import file_errors
from vse_tf.settings_parser import data_parser, parse_with_data, typed_keys
from vse_tf.startup import starting_tensorflow

if TYPE_CHECKING:
    from vse_tf.data.records import Collection, Split
    from vse_tf.evaluation.data_check import DataCheck, FoundCaption

PROG = "python -m vse_tf.check"
EXAMPLES = (
    f"{PROG} --data.annotations captions.csv --data.images photos --page check.html",
    f"{PROG} --run runs/table-convse-0 --page check.html",
)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: the data cannot be read at all, or there is no such run.
    """
    arguments, data, settings = _parse(sys.argv[1:] if argv is None else argv)
    with starting_tensorflow():
        from vse_tf.evaluation.data_check import check_data  # noqa: PLC0415

    collection = _read(data)
    found = check_data(collection, settings.text.min_count, data.max_pixels, data.workers, progress=True)
    if arguments.run:
        found.unlikely = _unlikely(arguments, data, collection)
    print(*found.lines(), sep="\n")
    if arguments.output:
        with file_errors(Path(arguments.output), "written", "name another file with --output"):
            write_json(Path(arguments.output), found.as_json())
        print(f"written to {arguments.output}")
    if arguments.page:
        _write_page(Path(arguments.page), found, data.max_pixels, arguments.page_count)


def _read(data: DataSettings) -> Collection:
    from vse_tf.data.sources import named_paths, read  # noqa: PLC0415
    from vse_tf.data.training_splits import training_splits  # noqa: PLC0415

    # The paths may be those of a run that came from others.
    for path in named_paths(data):
        print(f"reading {path}", file=sys.stderr, flush=True)
    with Phase("reading the data"):
        return training_splits(read(data), data)


def _unlikely(arguments: Namespace, data: DataSettings, collection: Collection) -> list[FoundCaption]:
    """The captions least like their own image, by the run's model."""
    import vse_tf.embedder  # noqa: PLC0415
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.evaluation.data_check import found_captions  # noqa: PLC0415
    from vse_tf.models.feature_cache import with_features  # noqa: PLC0415

    with Phase("loading the model"):
        embedder = vse_tf.load(arguments.run, arguments.checkpoint)
    bad = BadImages(data.on_bad, data.max_pixels, note=lambda problem: say(f"left out: {problem}", sys.stderr))
    found = []
    for split in collection.splits.values():
        embedder.check_images(split.images)
        seen: Split = with_features(split, data, embedder.image_tower, embedder.view, bad)
        found += found_captions(split, embedder.encode_split(seen, bad, progress=True))
    return found


def _write_page(path: Path, found: DataCheck, max_pixels: int, count: int) -> None:
    from vse_tf.pages.check_page import check_page  # noqa: PLC0415

    with Phase("drawing the page"):
        page = check_page(found, max_pixels, count)
    with file_errors(path, "written", "name another file with --page"):
        write_text(path, page)
    print(f"written to {path}")


def _parse(argv: list[str]) -> tuple[Namespace, DataSettings, Settings]:
    parser = data_parser(PROG, "Look for what is wrong with a data set before a model learns it.", examples=EXAMPLES)
    parser.add_argument(
        "--run",
        type=str | None,
        help="a run: its data, unless --data.… names others, and the captions that its model finds least like their "
        "own image",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which model of the run")
    parser.add_argument("--output", type=str | None, help="write all that was found to this JSON file")
    parser.add_argument("--page", type=str | None, help="write it to this HTML file, pictures inside")
    parser.add_argument("--page_count", type=int, default=50, help="pairs and captions of each kind on that page")
    settings = settings_of_run(argv)
    arguments, data = parse_with_data(parser, argv, settings)
    if arguments.page_count < 1:
        raise UserError(f"--page_count: {arguments.page_count} is not above 0")
    for option in ("output", "page"):
        if arguments[option]:
            check_file(Path(arguments[option]), f"--{option}")
    typed = typed_keys(argv)
    # Problems are what is looked for: all of them, and in the pixels too.
    if "data.on_bad" not in typed:
        data = replace(data, on_bad="skip")
    if "data.verify" not in typed:
        data = replace(data, verify="decode")
    return arguments, data, settings


if __name__ == "__main__":
    run_command(main)
