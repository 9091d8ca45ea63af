"""`python -m vse_tf.train`: train a dual encoder, or continue a run."""

from __future__ import annotations

import sys

from vse_tf.errors import run_command, shell_path
from vse_tf.settings_parser import parse_settings
from vse_tf.startup import starting_tensorflow

PROG = "python -m vse_tf.train"
EXAMPLES = (
    PROG,
    f"{PROG} --data.annotations captions.csv --data.images photos",
)
# What `--help` shows; `--help all` shows the rest.
USUAL = (
    "--data.source",
    "--data.annotations",
    "--data.images",
    "--data.features",
    "--image.encoder",
    "--text.encoder",
    "--loss.name",
    "--train.run_dir",
    "--train.epochs",
    "--train.batch_size",
    "--train.learning_rate",
    "--train.seed",
)


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).

    Raises:
        UserError: see `vse_tf.training.trainer.train`.
    """
    settings = parse_settings(
        sys.argv[1:] if argv is None else argv,
        PROG,
        "Train a visual-semantic embedding. Without arguments: ConVSE on the built-in shapes set.",
        examples=EXAMPLES,
        usual=USUAL,
    )
    with starting_tensorflow(settings.distribution.virtual_cpus):
        from vse_tf.evaluation.report import small_galleries, table, with_corrected  # noqa: PLC0415
        from vse_tf.training.trainer import train  # noqa: PLC0415

    run, results = train(settings)
    if not results:
        print(f"this worker is done; the chief has written {run.path}")
        return
    print()
    chance = results.get("chance", {})
    print(table(with_corrected(results["galleries"], results.get("galleries_corrected", {})), chance))
    for line in small_galleries(chance):
        print(line)
    best = results["best"]
    by = results["provenance"]["settings"]["train"].get("monitor", "rsum")
    if results["last"]["epoch"]:
        print(f"\nbest model: epoch {best['epoch']} of {results['last']['epoch']} by {by} on the validation split")
    else:
        print("\nnot trained (train.epochs 0): the model as it starts")
    if results["stopped"]:
        print(f"stopped early: {results['stopped']}")
    print(f"run folder: {run.path}")
    if run.logs.exists():
        print(f"look at it: tensorboard --logdir {shell_path(run.logs)}")
    print(f"measure it: python -m vse_tf.evaluate --run {shell_path(run.path)}")


if __name__ == "__main__":
    run_command(main)
