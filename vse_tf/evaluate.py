"""`python -m vse_tf.evaluate`: recalls of a trained run."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from vse_tf.artifacts.run_folder import RunFolder, settings_of_run
from vse_tf.atomic import check_file, write_json, write_text
from vse_tf.config import DataSettings
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command
from vse_tf.files import file_errors
from vse_tf.settings_parser import data_parser, parse_with_data
from vse_tf.startup import starting_tensorflow

if TYPE_CHECKING:
    from vse_tf.data.bad_images import BadImages
    from vse_tf.data.records import Collection, Split
    from vse_tf.embedder import Embedder
    from vse_tf.evaluation.split_results import Compared, SplitResults

PROG = "python -m vse_tf.evaluate"
# Settings of the data that do not say which images and captions are read.
_HOW_READ = {"on_bad", "verify", "cache_dir", "cache_size", "workers", "features", "feature_crops"}
_HOW_READ |= {"text_features", "epoch_over"}


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: no such run or split, data that cannot be read, embeddings that are not finite, or metrics that need
            another package or other data.
    """
    arguments, data = _parse(sys.argv[1:] if argv is None else argv)
    with starting_tensorflow():
        from vse_tf.artifacts.provenance import provenance  # noqa: PLC0415

    if arguments.labels:
        _classify(arguments)
        return
    results, embedder, collection = _measure(arguments, data)
    print(*results.lines(), sep="\n")
    if arguments.output:
        found = {**results.as_json(), "provenance": provenance(embedder.settings, collection)}
        _write_output(Path(arguments.output), found)
    if arguments.errors:
        from vse_tf.pages.report_page import report_page  # noqa: PLC0415

        with Phase("drawing the page"):
            page = report_page(results, data.max_pixels, arguments.errors_count)
        _write_page(Path(arguments.errors), page)


def _measure(arguments: Namespace, data: DataSettings) -> tuple[SplitResults, Embedder, Collection]:
    """Read the data, load the model, and measure what is asked for."""
    import vse_tf.embedder  # noqa: PLC0415
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.data.sources import named_paths, read  # noqa: PLC0415
    from vse_tf.evaluation.eccv import EccvBenchmark  # noqa: PLC0415
    from vse_tf.evaluation.hubness import split_hubness  # noqa: PLC0415
    from vse_tf.evaluation.metrics import measure_both  # noqa: PLC0415
    from vse_tf.evaluation.split_results import SplitResults  # noqa: PLC0415
    from vse_tf.models.feature_cache import with_features  # noqa: PLC0415

    benchmark = EccvBenchmark() if "eccv" in arguments.metrics else None
    # The paths are the run's, which may come from others.
    for path in named_paths(data):
        print(f"reading {path}", file=sys.stderr, flush=True)
    with Phase("reading the data"):
        collection = _as_trained(read(data), data, RunFolder(arguments.run))
    split = collection.split(arguments.split or ("test" if "test" in collection.splits else "val"))
    if benchmark:
        benchmark.check(split)
    with Phase("loading the model"):
        embedder = vse_tf.load(arguments.run, arguments.checkpoint)
    embedder.check_images(split.images)
    bad = BadImages(data.on_bad, data.max_pixels, note=lambda problem: say(f"left out: {problem}", sys.stderr))
    seen = with_features(split, data, embedder.image_tower, embedder.view, bad)
    encoded = embedder.encode_split(seen, bad, progress=True)
    with Phase("ranking"):
        measured = measure_both(embedder, encoded, arguments.folds)
    with Phase("drawing the intervals"):
        results = SplitResults(arguments.run, seen, measured)
    if benchmark:
        with Phase("ECCV Caption and CxC"):
            results.benchmarks = {key: benchmark.measure(seen, each.encoded) for key, each in measured.items()}
    if "order" in arguments.metrics:
        with Phase("word order"):
            _measure_order(results, collection, embedder)
    if "hubness" in arguments.metrics:
        with Phase("counting hubs"):
            results.hubness = {key: split_hubness(each.encoded) for key, each in measured.items()}
    if arguments.compare:
        results.compared = _compared(arguments, data, results, split, bad)
    return results, embedder, collection


def _measure_order(results: SplitResults, collection: Collection, embedder: Embedder) -> None:
    from vse_tf.evaluation.word_order import TextGuesser, order_results  # noqa: PLC0415

    found = results.measured["metrics"].encoded
    captions = results.captions
    # The guesser learns from other captions than those that it guesses.
    others = [
        caption for name, split in collection.splits.items() if name != results.split.name for caption in split.captions
    ]
    results.order, results.wrong_order = order_results(
        found.image,
        captions,
        found.image_id,
        lambda texts: embedder.plain(embedder.encode_texts(texts)),
        TextGuesser(others),
    )


def _compared(
    arguments: Namespace, data: DataSettings, results: SplitResults, split: Split, bad: BadImages
) -> Compared:
    from vse_tf.evaluation.split_results import Compared  # noqa: PLC0415
    from vse_tf.indexing.split_embedding import embed_by  # noqa: PLC0415

    other = embed_by(arguments.compare, split, data, bad)
    trained = (RunFolder(arguments.run).read_results() or {}).get("provenance") or {}
    if trained.get("data_sha256") != other.data_sha256:
        say(f"{other.name} was trained on other data: it may have seen images of {split.name}", sys.stderr)
    with Phase("comparing"):
        return Compared.of((arguments.run, other.name), results.measured[results.used], other.encoded)


def _classify(arguments: Namespace) -> None:
    """Zero-shot classification of labelled images."""
    import numpy as np  # noqa: PLC0415

    import vse_tf.embedder  # noqa: PLC0415
    from vse_tf.artifacts.provenance import provenance_of_run  # noqa: PLC0415
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.evaluation.report import zero_shot_lines  # noqa: PLC0415
    from vse_tf.evaluation.zero_shot import PROMPT, class_vectors, classify  # noqa: PLC0415
    from vse_tf.indexing.labelled_images import labelled_images, read_labels, read_prompts  # noqa: PLC0415

    labels = read_labels(arguments.labels)
    prompts = read_prompts(arguments.prompts) if arguments.prompts else [PROMPT]
    images = labelled_images(arguments.images, labels)
    for name, count in images.unused.items():
        say(f"left out: {count} images of {name!r}, which is not among the labels", sys.stderr)
    with Phase("loading the model"):
        embedder = vse_tf.load(arguments.run, arguments.checkpoint)
    data = embedder.settings.data
    bad = BadImages(data.on_bad, data.max_pixels, note=lambda problem: say(f"left out: {problem}", sys.stderr))
    with Phase("images", len(images.paths), "images") as bar:
        vectors, rows = embedder.encode_files(images.paths, bad, advance=bar.update)
    classes = class_vectors(labels.words, prompts, lambda texts: embedder.plain(embedder.encode_texts(texts)))
    result = classify(embedder.plain(vectors), classes, np.array(images.labels)[rows], labels.names)
    print(*zero_shot_lines(result), sep="\n")
    if arguments.output:
        facts = provenance_of_run(RunFolder(arguments.run), arguments.checkpoint)
        _write_output(Path(arguments.output), {**result.as_json(), "prompts": prompts, "provenance": facts})
    if arguments.errors:
        from vse_tf.pages.report_page import zero_shot_page  # noqa: PLC0415

        _write_page(Path(arguments.errors), zero_shot_page(arguments.run, result, prompts))


def _write_output(path: Path, values: dict[str, Any]) -> None:
    with file_errors(path, "written", "name another file with --output"):
        write_json(path, values)
    print(f"written to {path}")


def _write_page(path: Path, page: str) -> None:
    with file_errors(path, "written", "name another file with --errors"):
        write_text(path, page)
    print(f"written to {path}")


def _as_trained(collection: Collection, data: DataSettings, run: RunFolder) -> Collection:
    """The splits that the run drew where its data lack one; other data stay as they are."""
    from vse_tf.artifacts.provenance import fingerprint  # noqa: PLC0415
    from vse_tf.data.training_splits import training_splits  # noqa: PLC0415

    drawn = training_splits(collection, data)
    if drawn is collection:
        return collection
    trained = (run.read_results() or {}).get("provenance") or {}
    same = {f.name: getattr(data, f.name) for f in fields(data) if f.name not in _HOW_READ}
    own = run.settings().data
    if trained.get("data_sha256") != fingerprint(drawn) and any(getattr(own, name) != same[name] for name in same):
        return collection
    say(drawn.notes[-1], sys.stderr)
    return drawn


def _parse(argv: list[str]) -> tuple[Namespace, DataSettings]:
    parser = data_parser(PROG, "Measure the recalls of a trained run.")
    parser.add_argument("--run", type=str, required=True, help="run folder")
    parser.add_argument("--split", type=str | None, help="split to measure (default: test if there is one, else val)")
    parser.add_argument(
        "--folds", type=int, default=1, help="mean over this number of parts of the gallery; COCO 1K is 5"
    )
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=["recalls", "eccv", "order", "hubness"],
        default=["recalls"],
        help="besides the recalls: eccv, those of ECCV Caption and CxC, [eccv]; order, captions against their words in "
        "another order (English); hubness, items that come up for most queries, and items that never do",
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which model of the run")
    parser.add_argument(
        "--compare", type=str | None, help="compare with this run, or these exported models, over the same gallery"
    )
    parser.add_argument(
        "--labels", type=str | None, help="classify --images zero-shot: a text file with one class per line"
    )
    parser.add_argument(
        "--images",
        type=str | None,
        help="with --labels: a folder with one folder of images per class, or a CSV file with the columns image, label",
    )
    parser.add_argument(
        "--prompts",
        type=str | None,
        help="with --labels: a text file of prompts with {} for the class, one per line; their vectors are averaged "
        "(default: a photo of a {})",
    )
    parser.add_argument("--output", type=str | None, help="write the metrics to this JSON file")
    parser.add_argument(
        "--errors", type=str | None, help="write all results and the worst queries to this HTML file, pictures inside"
    )
    parser.add_argument("--errors_count", type=int, default=50, help="worst queries of each direction on that page")
    arguments, data = parse_with_data(parser, argv, settings_of_run(argv))
    if arguments.folds < 1:
        raise UserError(f"--folds: {arguments.folds} is not above 0")
    if arguments.errors_count < 1:
        raise UserError(f"--errors_count: {arguments.errors_count} is not above 0")
    if arguments.labels and not arguments.images:
        raise UserError("--labels: name the images to classify with --images")
    if (arguments.images or arguments.prompts) and not arguments.labels:
        raise UserError("--images and --prompts: name the classes with --labels")
    for option in ("output", "errors"):
        if arguments[option]:
            check_file(Path(arguments[option]), f"--{option}")
    return arguments, data


if __name__ == "__main__":
    run_command(main)
