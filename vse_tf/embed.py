"""`python -m vse_tf.embed`: embed images or captions into an index, or update an index."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import Namespace

from vse_tf.addresses import is_address
from vse_tf.artifacts.index import Index
from vse_tf.atomic import check_folder
from vse_tf.command_line import command_parser
from vse_tf.display import say
from vse_tf.errors import UserError, run_command, shell_path
from vse_tf.indexing.compacting import compact_summary
from vse_tf.indexing.embedding import SHARD_ROWS, Runner, embed
from vse_tf.indexing.embedding_models import named_model
from vse_tf.indexing.items import Items, caption_items, image_items
from vse_tf.indexing.merging import merge
from vse_tf.indexing.remote_index import copy_of_index, publish_index
from vse_tf.indexing.shard_items import shard_items
from vse_tf.startup import starting_tensorflow

PROG = "python -m vse_tf.embed"


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: arguments of the command (default: those of the process).

    Raises:
        UserError: see `vse_tf.indexing.embedding.embed`.
    """
    parser = command_parser(PROG, "Embed a collection into an index, or update its index.")
    parser.add_argument("--run", type=str | None, help="run folder of the model")
    parser.add_argument("--models", type=str | None, help="folder of exported models, instead of a run")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="checkpoint of the run")
    parser.add_argument(
        "--images", type=str | None, help="folder of images, text file with one path per line, or shards"
    )
    parser.add_argument("--captions", type=str | None, help="text file with one caption per line, instead of images")
    parser.add_argument("--merge", nargs="+", type=str, help="merge these indexes instead; no vector is copied")
    parser.add_argument(
        "--output",
        type=str,
        required=True,
        help="the index's folder, or its address in a bucket; repeat the command to update it",
    )
    parser.add_argument("--on_bad", choices=["skip", "fail"], default="skip", help="on images that cannot be read")
    parser.add_argument("--batch_size", type=int | None, help="number of items per batch (default: the run's)")
    parser.add_argument("--shard_rows", type=int, default=SHARD_ROWS, help="rows per shard; one shard is in memory")
    parser.add_argument(
        "--storage",
        type=str | None,
        help="int8, float16 or, for the first 256 dimensions, int8:256: store vectors in this form too; it is searched "
        "first, and the best hits by the float32 ones, which may be deleted (default: as before, else float32)",
    )
    parser.add_argument(
        "--runner", type=str | None, help="Apache Beam runner that embeds: DirectRunner, DaskRunner, …; [beam]"
    )
    parser.add_argument("--runner_options", type=str, default="", help="options of the Beam runner, in one string")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if sum(source is not None for source in (arguments.images, arguments.captions, arguments.merge)) != 1:
        raise UserError("name what to embed: either --images or --captions, or --merge with indexes")
    address = arguments.output if is_address(arguments.output) else None
    if address is None or arguments.merge is not None:
        check_folder(Path(arguments.output), "--output")
    if arguments.merge is not None:
        index = merge(arguments.merge, arguments.output, arguments.storage)
        if index.compact is not None:
            say(compact_summary(index), sys.stderr)
        _print_index(index)
        return
    for option in ("batch_size", "shard_rows"):
        if (value := arguments[option]) is not None and value < 1:
            raise UserError(f"--{option}: {value} is not above 0")
    items: Items
    if arguments.images is None:
        items = caption_items(arguments.captions)
    else:
        items = shard_items(arguments.images) or image_items(arguments.images)
    model = named_model(arguments.run, arguments.models, arguments.checkpoint, arguments.batch_size)
    runner = None if arguments.runner is None else _runner(arguments, items, address)
    folder = Path(arguments.output) if address is None else copy_of_index(address)
    with starting_tensorflow():
        import tensorflow  # noqa: F401, PLC0415
    result = embed(
        items,
        model,
        folder,
        on_bad=arguments.on_bad,
        shard_rows=arguments.shard_rows,
        storage=arguments.storage,
        runner=runner,
        portable=address is not None,
        progress=True,
        note=lambda line: say(line, sys.stderr),
    )
    if address is not None:
        publish_index(folder, address)
    print("\n".join(result.summary(items.ignored)).replace(str(folder), arguments.output))
    _print_index(result.index, address)


def _runner(arguments: Namespace, items: Items, address: str | None) -> Runner:
    from vse_tf.indexing.beam import beam_runner  # noqa: PLC0415

    if address is None:
        return beam_runner(arguments.runner, arguments.runner_options)
    from vse_tf.indexing.remote_spans import remote_spans  # noqa: PLC0415

    spans_of = remote_spans(address, arguments.run, items, arguments.batch_size)
    return beam_runner(arguments.runner, arguments.runner_options, spans_of)


def _print_index(index: Index, address: str | None = None) -> None:
    place, run = (address, " --run RUN") if address else (index.folder, "")
    print(f"{place}: {index.count:,} {index.kind}, {index.dim} dimensions, {len(index.shards)} shards")
    print(f'to search it: python -m vse_tf.search --index {shell_path(place)}{run} "two dogs in the snow"')


if __name__ == "__main__":
    run_command(main)
