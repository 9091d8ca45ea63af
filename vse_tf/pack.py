"""`python -m vse_tf.pack`: write images and captions as tar shards."""

from __future__ import annotations

import sys
from pathlib import Path

from vse_tf.atomic import check_folder
from vse_tf.config import Settings
from vse_tf.display import Phase, say
from vse_tf.errors import UserError, run_command, shell_path
from vse_tf.settings_parser import data_parser, parse_with_data

PROG = "python -m vse_tf.pack"
EXAMPLES = (f"{PROG} --data.annotations captions.csv --data.images photos --output shards",)
USUAL = ("--data.source", "--data.annotations", "--data.images", "--data.on_bad")
MB = 10**6


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: data that cannot be read, or a folder that cannot be written.
    """
    parser = data_parser(PROG, "Write images and captions of any source as tar shards.", examples=EXAMPLES, usual=USUAL)
    parser.add_argument("--output", type=str, required=True, help="folder of the shards; repeat the command to go on")
    parser.add_argument("--shard_mb", type=int, default=256, help="largest size of a shard in MB")
    arguments, data = parse_with_data(parser, sys.argv[1:] if argv is None else argv, Settings())
    if arguments.shard_mb < 1:
        raise UserError(f"--shard_mb: {arguments.shard_mb} is not above 0")
    output = Path(arguments.output)
    check_folder(output, "--output")

    from vse_tf.data.shard_writer import plan_shards, write_shards  # noqa: PLC0415
    from vse_tf.data.sources import read  # noqa: PLC0415

    with Phase("reading the data"):
        collection = read(data)
    shards = plan_shards(collection, arguments.shard_mb * MB)
    images = sum(map(len, collection.splits.values()))
    captions = sum(len(split.captions) for split in collection.splits.values())
    print(f"{images:,} images and {captions:,} captions in {len(shards):,} shards", flush=True)
    left_out = write_shards(shards, output, data.on_bad)
    for problem in left_out:
        say(f"left out: {problem}", sys.stderr)
    sizes = [(output / shard.name).stat().st_size for shard in shards]
    print(f"{output}: {sum(sizes) / MB:,.1f} MB, the largest shard {max(sizes) / MB:,.1f} MB")
    print(f"to train on them: python -m vse_tf.train --data.annotations {shell_path(output)}")


if __name__ == "__main__":
    run_command(main)
