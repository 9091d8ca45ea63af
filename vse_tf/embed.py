"""`python -m vse_tf.embed`: embed photos or captions into an index, or bring an index up to date."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from vse_tf.artifacts.index import Index
from vse_tf.atomic import check_folder
from vse_tf.command_line import command_parser
from vse_tf.errors import UserError, run_command
from vse_tf.indexing.embedding import SHARD_ROWS, SKIPPED, embed
from vse_tf.indexing.encoders import named_encoder
from vse_tf.indexing.items import captions, photos
from vse_tf.indexing.merging import merge

PROG = "python -m vse_tf.embed"


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: see `vse_tf.indexing.embedding.embed`.
    """
    parser = command_parser(PROG, "Embed a collection into an index, or bring its index up to date.")
    parser.add_argument("--run", type=str | None, help="run folder whose model embeds")
    parser.add_argument("--models", type=str | None, help="folder of exported models that embed, instead of a run")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="which model of the run")
    parser.add_argument("--images", type=str | None, help="folder of photos, or text file with a path a line")
    parser.add_argument("--captions", type=str | None, help="text file with a caption a line, instead of photos")
    parser.add_argument("--merge", nargs="+", type=str, help="put these indexes together instead; no vector is copied")
    parser.add_argument("--output", type=str, required=True, help="the index's folder; repeat to bring it up to date")
    parser.add_argument("--on_bad", choices=["skip", "fail"], default="skip", help="photos that cannot be read")
    parser.add_argument("--batch_size", type=int | None, help="items encoded at a time (default: the run's)")
    parser.add_argument("--shard_rows", type=int, default=SHARD_ROWS, help="rows of a shard, held in memory at a time")
    parser.add_argument("--runner", type=str | None, help="embed by this Apache Beam runner, e.g. DirectRunner; [beam]")
    parser.add_argument("--runner_options", type=str, default="", help="the Beam runner's own options, in one string")
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if sum(source is not None for source in (arguments.images, arguments.captions, arguments.merge)) != 1:
        raise UserError("name what to embed: either --images or --captions, or --merge with indexes")
    check_folder(Path(arguments.output), "--output")
    if arguments.merge is not None:
        _tell(merge(arguments.merge, arguments.output))
        return
    for option in ("batch_size", "shard_rows"):
        if (value := arguments[option]) is not None and value < 1:
            raise UserError(f"--{option}: {value} is not above 0")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    runner = None
    if arguments.runner is not None:
        from vse_tf.indexing.beam import beam_runner  # noqa: PLC0415

        runner = beam_runner(arguments.runner, arguments.runner_options)
    done = embed(
        captions(arguments.captions) if arguments.images is None else photos(arguments.images),
        named_encoder(arguments.run, arguments.models, arguments.checkpoint, arguments.batch_size),
        arguments.output,
        on_bad=arguments.on_bad,
        shard_rows=arguments.shard_rows,
        runner=runner,
        progress=True,
        note=lambda line: print(line, file=sys.stderr),
    )
    print(f"{done.new:,} new, {done.changed:,} changed, {done.deleted:,} deleted, {done.same:,} as before")
    if done.skipped:
        print(f"{done.skipped:,} left out: see {done.index.folder / SKIPPED}")
    _tell(done.index)


def _tell(index: Index) -> None:
    what = "photos" if index.kind == "images" else "captions"
    print(f"{index.folder}: {index.count:,} {what}, {index.dim} dimensions, {len(index.shards)} shards")
    print(f'search it: python -m vse_tf.search --index {index.folder} "two dogs in the snow"')


if __name__ == "__main__":
    run_command(main)
