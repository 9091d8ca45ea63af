"""`python -m vse_tf.publish`: fill a vector store with an index, or bring it up to date."""

from __future__ import annotations

import sys

from vse_tf.artifacts.index import Index
from vse_tf.command_line import command_parser
from vse_tf.errors import UserError, run_command, shell_path
from vse_tf.stores.address import STORES, TABLE, address_of, check_table

PROG = "python -m vse_tf.publish"
EXAMPLES = (
    f"{PROG} photos.index --to photos.parquet",
    f"{PROG} photos.index --to photos.lancedb",
    f"{PROG} photos.index --to postgresql://localhost/photos --approximate",
)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: arguments of the command (default: those of the process).

    Raises:
        UserError: see `vse_tf.stores.publishing.publish`.
    """
    description = "Fill a vector store with an index; repeated, write what differs and delete what has gone."
    parser = command_parser(PROG, description, examples=EXAMPLES)
    parser.add_argument("index", type=str, help="folder written by python -m vse_tf.embed")
    parser.add_argument("--to", type=str, required=True, metavar="ADDRESS", help=STORES)
    parser.add_argument("--table", type=str, default=TABLE, help="table of the store (not of Parquet)")
    parser.add_argument(
        "--approximate", action="store_true", help="build an approximate index in the store, and print its recall"
    )
    arguments = parser.parse_args(sys.argv[1:] if argv is None else argv)
    address = address_of(arguments.to)
    if address is None:
        raise UserError(f"--to: not the address of a store; name {STORES}")
    check_table(arguments.table)
    index = Index.open(arguments.index)
    if address.kind == "parquet":
        from vse_tf.stores.parquet import publish_parquet  # noqa: PLC0415 (Arrow)

        if arguments.approximate:
            raise UserError("--approximate: Parquet files have no index; leave it out")
        published = publish_parquet(index, address, progress=True)
        print(f"{address}: {index.count:,} {index.kind} in {published.new + published.unchanged:,} files: {published}")
        return
    from vse_tf.stores.publishing import publish  # noqa: PLC0415
    from vse_tf.stores.store import open_store  # noqa: PLC0415

    store = open_store(address, arguments.table)
    try:
        published = publish(index, store, approximate=arguments.approximate, progress=True)
    finally:
        store.close()
    print(f"{store.name}: {published}")
    if published.recall is not None:
        print(f"recall@10 of its approximate index against exact search {published.recall:.3f}")
    table = f" --table {arguments.table}" if arguments.table != TABLE else ""
    print(f'to search it: python -m vse_tf.search --index {shell_path(str(address))}{table} --run RUN "two dogs"')


if __name__ == "__main__":
    run_command(main)
