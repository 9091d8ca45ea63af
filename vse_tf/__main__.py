"""`python -m vse_tf <command>`, also installed as `vse-tf`. No TensorFlow is imported here."""

from __future__ import annotations

import difflib
import importlib
import sys
from importlib.metadata import version

from vse_tf.errors import UserError, run_command

COMMANDS = {
    "train": "train a dual encoder, or continue a run",
    "evaluate": "measure a run, and compare it with another one",
    "check": "look for what is wrong with a data set",
    "pack": "write images and captions as tar shards",
    "embed": "embed a collection of images or captions into an index",
    "publish": "fill a vector store with an index: Parquet, LanceDB, PostgreSQL",
    "search": "find items of an index by words or by an image",
    "export": "write a run as SavedModels for TensorFlow Serving",
    "serve": "serve exported models and a search page on this machine",
}
HELP = "\n".join(
    [
        "usage: vse-tf COMMAND [OPTIONS]",
        "",
        *(f"  {name:10}{purpose}" for name, purpose in COMMANDS.items()),
        "",
        "vse-tf COMMAND --help lists the options of a command; vse-tf --version prints the version.",
        "python -m vse_tf.COMMAND is the same command.",
    ]
)


def main(argv: list[str] | None = None) -> None:
    """Run the command that the first argument names.

    Args:
        argv: the arguments (default: those of the process).

    Raises:
        UserError: there is no such command, or it fails.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP)
    elif name == "--version":
        print(f"vse_tf {version('vse_tf')}")
    elif name in COMMANDS:
        importlib.import_module(f"vse_tf.{name}").main(rest)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"{name}: no such command; {meant}")


def console() -> None:
    """The installed script `vse-tf`."""
    run_command(main)


if __name__ == "__main__":
    console()
