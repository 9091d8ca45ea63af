"""Objectives against each other at one budget: validation recalls on frozen features, mean and spread over seeds.

    python -m benchmarks.objectives --runs DIR [--tables objectives mask] [--seeds 0 1 2] [--output PATH]
        --data.source karpathy --data.annotations FILE --data.images DIR --image.encoder hub:PRESET [SETTING…]

Trains each variant with each seed through the same code as `python -m vse_tf.train`; whatever is no option of this
command is a setting of the runs, and goes before the settings of a variant. Runs are stored below `--runs`: finished
ones are read, a stopped one is continued, so the command can be repeated until it is through. Writes PATH.md and
PATH.json after every run; PATH is benchmarks/results/objectives by default.

Table `objectives`: every objective at the same batch. Table `mask`: both of the method's objectives with and without
the same-image mask at a larger batch, in which more pairs share an image.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import shlex
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vse_tf.config import Settings
from vse_tf.errors import run_command
from vse_tf.settings_parser import parse_settings

PROG = "python -m benchmarks.objectives"

# About a minute a run on two cores: cached features, and text towers of which many runs can be made.
RECIPE = {
    "data.features": "true",
    "data.epoch_over": "captions",
    "image.random_crop": "false",
    "image.units": "512",
    "text.embedding_dim": "200",
    "text.units": "256",
    "text.dropout": "0.2",
    "model.dim": "512",
    "model.head": "false",
    "model.dropout": "0.2",
    "model.hubness_correction": "true",
    "train.epochs": "6",
    "train.batch_size": "128",
    "train.learning_rate": "1e-3",
    "train.schedule": "cosine",
    "train.warmup_epochs": "0.5",
    "train.eval_batch_size": "500",
    "train.examples": "0",
    "train.projector": "0",
    "train.collapse_steps": "0",
    "train.patience": "0",
}
MASK_OFF = {"loss.mask_same_image": "false"}
LARGE = {"train.batch_size": "512"}
COLUMNS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum")
CORRECTED, GAIN = "corrected rsum", "gain"
SHOWN = (*COLUMNS, CORRECTED, GAIN)


@dataclass(frozen=True)
class Variant:
    """What a row of a table trains.

    Args:
        settings: what differs from the recipe.
        warm_up: share of the epochs in which the hardness rises from all negatives to the hardest.
        base: share of the epochs that a ConVSE run is trained first, whose weights this one starts from.
    """

    settings: dict[str, str] = field(default_factory=dict)
    warm_up: float = 0.0
    base: float = 0.0


PLUS_PLUS = {"loss.name": "convse++"}
TABLES: dict[str, dict[str, Variant]] = {
    "objectives": {
        "ConVSE": Variant(),
        "ConVSE, no mask": Variant(MASK_OFF),
        "ConVSE++": Variant(PLUS_PLUS),
        "ConVSE++, no mask": Variant(PLUS_PLUS | MASK_OFF),
        "ConVSE++, warm-up": Variant(PLUS_PLUS, warm_up=0.5),
        "ConVSE++, warm-up, no mask": Variant(PLUS_PLUS | MASK_OFF, warm_up=0.5),
        "ConVSE++, from ConVSE at half the budget": Variant(PLUS_PLUS, base=0.5),
        "VSE0 (sum of hinges)": Variant({"loss.name": "triplet_sum"}),
        "VSE++ (max of hinges)": Variant({"loss.name": "triplet_max"}),
        "SimCLR form": Variant({"loss.name": "simclr"}),
        "n-pairs angular": Variant({"loss.name": "npairs_angular"}),
    },
    "mask": {
        "ConVSE, mask": Variant(LARGE),
        "ConVSE, no mask": Variant(LARGE | MASK_OFF),
        "ConVSE++, warm-up, mask": Variant(LARGE | PLUS_PLUS, warm_up=0.5),
        "ConVSE++, warm-up, no mask": Variant(LARGE | PLUS_PLUS | MASK_OFF, warm_up=0.5),
    },
}


def arguments(values: dict[str, Any]) -> list[str]:
    """Settings as arguments."""
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def slug(name: str) -> str:
    """A folder's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.lower().replace("+", "p")).split())


def settings_of(given: list[str], *values: dict[str, Any]) -> Settings:
    """The recipe, what the command was given, and what a variant changes, in this order."""
    own = [part for each in values for part in arguments(each)]
    return parse_settings([*arguments(RECIPE), *given, *own], PROG, "")


def stages(variant: Variant, folder: Path, seed: int, epochs: int, given: list[str]) -> list[Settings]:
    """The settings of the runs that make a variant's result, the last one being it."""
    common = {"train.seed": seed, "train.run_dir": folder}
    rise = {"loss.hardness_epochs": variant.warm_up * epochs} if variant.warm_up else {}
    if not variant.base:
        return [settings_of(given, variant.settings, rise, common)]
    first = round(variant.base * epochs)
    base = folder.with_name(f"{folder.name}-base")
    rest = {"train.epochs": epochs - first, "train.init_from": base}
    return [
        settings_of(given, common, {"train.run_dir": base, "train.epochs": first}),
        settings_of(given, variant.settings, rise, common, rest),
    ]


def trained(runs: list[Settings]) -> dict[str, Any]:
    """Train what is not trained yet; the last run's best epoch, and the seconds that all took."""
    import keras  # noqa: PLC0415

    from vse_tf.training.trainer import train  # noqa: PLC0415

    seconds = 0.0
    for settings in runs:
        run, results = train(settings)
        timing = [row["timing"] for row in map(json.loads, run.metrics.read_text("utf-8").splitlines())]
        seconds += sum(each["train_seconds"] + each["validation_seconds"] for each in timing)
        keras.backend.clear_session()
        gc.collect()
    return {**results["best"], "seconds": round(seconds, 1)}


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over the seeds."""
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else 0.0}


def columns(run: dict[str, Any]) -> dict[str, float]:
    """A run's plain recalls, its rsum with the hubness correction, and what that gains."""
    plain, corrected = run["metrics"], run["metrics_corrected"]["rsum"]
    return {c: plain[c] for c in COLUMNS} | {CORRECTED: corrected, GAIN: corrected - plain["rsum"]}


def write(output: Path, done: dict[str, dict[str, dict[int, Any]]], command: str) -> None:
    """Write what is known as JSON and as Markdown."""
    summary = {
        table: {
            name: {column: spread([columns(run)[column] for run in seeds.values()]) for column in SHOWN}
            for name, seeds in variants.items()
        }
        for table, variants in done.items()
    }
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    output.parent.mkdir(parents=True, exist_ok=True)
    values = {"date": date, "command": command, "recipe": RECIPE, "summary": summary, "runs": done}
    output.with_suffix(".json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    lines = [
        "# Objectives at one budget",
        "",
        f"Validation recalls in percent of each run's best epoch by plain rsum, mean ± standard deviation; {date}.",
        "The last two columns are with the hubness correction.",
        "",
        "```sh",
        command,
        "```",
    ]
    for table, variants in summary.items():
        batch = LARGE["train.batch_size"] if table == "mask" else RECIPE["train.batch_size"]
        lines += ["", f"## {table} (recipe's batch: {batch})", ""]
        lines.append("| objective | seeds | " + " | ".join(c.replace("_r", " R@") for c in SHOWN) + " |")
        lines.append("|---|---|" + "---|" * len(SHOWN))
        for name, found in variants.items():
            cells = [f"{found[c]['mean']:.1f} ± {found[c]['sd']:.1f}" for c in SHOWN]
            lines.append(f"| {name} | {len(done[table][name])} | " + " | ".join(cells) + " |")
    output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: its arguments (default: those of the process).
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="what to measure")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of each variant")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/objectives"), help="without suffix")
    options, given = parser.parse_known_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    epochs = settings_of(given).train.epochs
    todo = [
        (table, name, seed, stages(variant, options.runs / f"{table}-{slug(name)}-{seed}", seed, epochs, given))
        for seed in options.seeds
        for table in options.tables
        for name, variant in TABLES[table].items()
    ]
    done: dict[str, dict[str, dict[int, Any]]] = {}
    seconds = 0.0
    for i, (table, name, seed, runs) in enumerate(todo, start=1):
        found = trained(runs)
        seconds += found["seconds"]
        left = seconds / i * (len(todo) - i) / 60
        print(
            f"[{i}/{len(todo)}] {table}: {name}, seed {seed}: rsum {found['metrics']['rsum']:.1f} "
            f"in {found['seconds']:.0f} s; about {left:.0f} min to go if all are new",
            flush=True,
        )
        done.setdefault(table, {}).setdefault(name, {})[seed] = found
        write(options.output, done, shlex.join(["python", "-m", "benchmarks.objectives", *argv]))
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
