"""`python -m vse_tf.export`: a trained run as SavedModels that TensorFlow Serving loads."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from vse_tf.addresses import is_address
from vse_tf.artifacts.run_folder import CARD, RunFolder
from vse_tf.atomic import check_folder, write_text
from vse_tf.command_line import command_parser
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command, shell_path
from vse_tf.files import file_errors
from vse_tf.preprocessing.image_limits import SERVED_PIXELS
from vse_tf.remote.copies import local_path
from vse_tf.remote.filesystem import check_writable
from vse_tf.startup import starting_tensorflow

if TYPE_CHECKING:
    from vse_tf.embedder import Embedder

PROG = "python -m vse_tf.export"
FORMATS = ("savedmodel", "onnx", "litert")


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: there is no such run or checkpoint, the gallery cannot be used, the folder cannot be written, or a
            written model's answers differ from the live one's.
    """
    arguments = _checked(_parser().parse_args(sys.argv[1:] if argv is None else argv))
    with starting_tensorflow():
        import vse_tf.embedder  # noqa: PLC0415
        from vse_tf.artifacts.provenance import provenance_of_run  # noqa: PLC0415

    with Phase("loading the model"):
        facts = provenance_of_run(RunFolder(arguments.run), arguments.checkpoint)
        embedder = vse_tf.load(arguments.run, arguments.checkpoint)
    max_pixels = arguments.max_pixels or min(SERVED_PIXELS, embedder.view.max_pixels)
    embedder.view = replace(embedder.view, max_pixels=max_pixels)
    plain = {"plain_dim": embedder.plain_dim} if embedder.corrections else {}
    facts = {"dim": embedder.dim, **plain, "precision": embedder.settings.model.precision, **facts}
    root = Path(arguments.output)
    if is_address(arguments.output):
        from vse_tf.exporting.remote_models import copy_of_models  # noqa: PLC0415

        root = copy_of_models(arguments.output)
    if arguments.format == "savedmodel":
        _savedmodel(arguments, embedder, facts, root)
    else:
        from vse_tf.exporting.portable import write_portable  # noqa: PLC0415

        with Phase(f"writing {arguments.format}"):
            written = write_portable(root, embedder, arguments.format, facts)
        _copy_card(arguments.run, written[0][0].parent)
        for path, difference in written:
            print(f"{_place(arguments, path, root)}: within {difference:.1g} of the run")
    if is_address(arguments.output):
        from vse_tf.exporting.remote_models import publish_models  # noqa: PLC0415

        publish_models(root, arguments.output)
    elif arguments.format == "savedmodel":
        print(f"try it: python -m vse_tf.serve --models {shell_path(root)}")


def _place(arguments: Namespace, path: Path, root: Path) -> str:
    """Where a written file or folder is, for messages."""
    return f"{arguments.output}/{path.relative_to(root)}" if is_address(arguments.output) else str(path)


def _copy_card(run: str, folder: Path) -> None:
    """Put the run's model card beside what was written; the manifest does not name it, so that it may be edited."""
    if card := RunFolder(run).read_card():
        with file_errors(folder / CARD, "written", "mend that and export again"):
            write_text(folder / CARD, card)


def _savedmodel(arguments: Namespace, embedder: Embedder, facts: dict[str, Any], root: Path) -> None:
    from vse_tf.exporting.batching import batching_of_newest  # noqa: PLC0415
    from vse_tf.exporting.gallery import read_gallery  # noqa: PLC0415
    from vse_tf.exporting.retrieval import retrieval_model  # noqa: PLC0415
    from vse_tf.exporting.towers import IMAGE_TOWER, TEXT_TOWER, tower_models  # noqa: PLC0415
    from vse_tf.exporting.writing import write_models  # noqa: PLC0415

    with Phase("tracing the towers"):
        models = tower_models(embedder)
    if arguments.batching:
        models = [replace(each, batching=arguments.batching) if each.name == TEXT_TOWER else each for each in models]
    elif before := batching_of_newest(root / TEXT_TOWER):
        advice = "the newest version batches requests and the new one will not; to batch them too, add --batching"
        print(f"{root / TEXT_TOWER}: {advice} {shell_path(before)}", file=sys.stderr)
    if arguments.gallery:

        def note(problem: object) -> None:
            say(f"left out: {problem}", sys.stderr)

        gallery = read_gallery(arguments.gallery, embedder, note, model_id=facts["id"])
        if len(gallery) < arguments.top_k:
            print(f"the gallery has {len(gallery)} items: an answer has all of them, not {arguments.top_k}")
        queries = None
        if arguments.gallery_queries:
            queries = read_gallery(arguments.gallery_queries, embedder, note).vectors
        with Phase("building the retrieval model"):
            # The same towers: tracing them again would take as long as the first time.
            towers: dict[str, Any] = {model.name: model.module for model in models}
            image, text = towers[IMAGE_TOWER], towers[TEXT_TOWER]
            storage = arguments.gallery_storage
            models.append(retrieval_model(embedder, image, text, gallery, arguments.top_k, storage, queries))
    written = write_models(root, models, facts, embedder.settings.model.precision, progress=True)
    for model in written:
        _copy_card(arguments.run, model.folder)
        facts, place = model.manifest, _place(arguments, model.folder, root)
        print(
            f"{place}: {', '.join(facts['signatures'])}; {model.size / 1e6:.1f} MB; within "
            f"{facts['largest_difference']:.1g} of the run; {facts['needs']}"
        )
        if loss := facts.get("gallery", {}).get("recall_loss"):
            print(
                f"{facts['gallery']['storage']} storage loses {loss['loss_at_k']:.2%} of the exact first {loss['k']}, "
                f"{loss['loss_at_1']:.2%} of the first ({loss['queries']} queries: {loss['of']})"
            )


def _parser() -> ArgumentParser:
    parser = command_parser(PROG, "Write a trained run as SavedModels for TensorFlow Serving, in new version folders.")
    parser.add_argument("--run", type=str, required=True, help="run folder")
    parser.add_argument(
        "--output",
        type=str,
        default="models",
        help="folder of all models, each with its versions, or its address in a bucket",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which model of the run")
    parser.add_argument(
        "--gallery",
        type=str | None,
        help="also write a retrieval model of these items: a folder of images, a list (text, CSV or JSONL file of "
        "paths or captions), or an index that python -m vse_tf.embed made",
    )
    parser.add_argument("--top-k", type=int, default=10, help="items in an answer of the retrieval model")
    parser.add_argument(
        "--gallery-storage",
        choices=["float32", "float16", "int8"],
        default="float32",
        help="type of its stored vectors; the recall that the smaller types lose is measured and printed",
    )
    parser.add_argument(
        "--gallery-queries",
        type=str | None,
        help="queries to measure that loss with, given like a gallery (default: the gallery's own vectors)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int | None,
        help=f"refuse larger images (default: {SERVED_PIXELS}, or the run's data.max_pixels if that is smaller)",
    )
    parser.add_argument(
        "--batching",
        type=str | None,
        help="a batching_params.pbtxt for the text tower, by which TensorFlow Serving batches concurrent requests; "
        "there is one in export/",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), default="savedmodel", help="onnx and litert: only the towers; needs an extra"
    )
    return parser


def _checked(arguments: Namespace) -> Namespace:
    """Refuse wrong options, as far as this needs no TensorFlow."""
    RunFolder(arguments.run).settings()
    for option in ("top_k", "max_pixels"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')}: {value} is not above 0")
    if arguments.format != "savedmodel" and arguments.gallery:
        raise UserError(f"--gallery: {arguments.format} has only the towers; leave it out, or use savedmodel")
    if arguments.format != "savedmodel" and arguments.batching:
        raise UserError(f"--batching: {arguments.format} is not for TensorFlow Serving; leave it out")
    if arguments.batching:
        from vse_tf.exporting.batching import read_batching  # noqa: PLC0415

        arguments.batching = read_batching(arguments.batching)
    for option in ("gallery", "gallery_queries"):
        place = getattr(arguments, option)
        if is_address(place):
            arguments[option] = str(local_path(place))
        elif place and not Path(place).expanduser().exists():
            raise UserError(f"--{option.replace('_', '-')}: {place}: no such file or folder")
    if is_address(arguments.output):
        check_writable(arguments.output, "--output")
    else:
        check_folder(Path(arguments.output), "--output")
    return arguments


if __name__ == "__main__":
    run_command(main)
