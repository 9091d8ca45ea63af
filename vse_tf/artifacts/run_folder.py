"""The files of a run folder. No TensorFlow is imported here."""

from __future__ import annotations

import hashlib
import json
import os
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from vse_tf import files
from vse_tf.addresses import allow_arguments
from vse_tf.artifacts.checkpoint_files import required_checkpoint
from vse_tf.atomic import check_folder, option_errors, write_json, write_text
from vse_tf.config import Settings
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.files import file_errors, load_json
from vse_tf.locks import BusyError, ProcessLock
from vse_tf.remote.copies import RUN_SKIPS, local_path
from vse_tf.settings_parser import load_settings, save_settings

# Format of run folders; to be raised when earlier versions can no longer read what this one writes.
FORMAT = 1
# Limit for a model's description or one file of its tokenizer.
ASSET_BYTES = 256 * 2**20
CARD, CARD_BYTES = "model_card.md", 2**20
ADVICE = "mend that and repeat the command: it continues from the last checkpoint"


class RunFolder:
    """The files of a run.

    Args:
        path: the folder; it may be missing. Of an address, its copy in the cache folder.

    Attributes:
        config: `config.yaml`, the settings.
        format: `run.json`, the format of the folder; a folder without it has format 1.
        model: `model.json`, the towers' architecture and the image view.
        tokenizer: `tokenizer/`.
        checkpoints: `checkpoints/`.
        logs: `logs/`, for TensorBoard's `--logdir`.
        events: `logs/<name of the run folder>/`, TensorBoard's events: it shows the run under that name.
        metrics: `metrics.jsonl`, one line per epoch.
        results: `results.json`, the best and the last epoch.
        card: `model_card.md`, what the model is, what it reaches and how to use it.
        skipped: `skipped.jsonl`, the problems of the data that was left out.
        hubness: `hubness/bank.json`, the model that the bank belongs to; see `vse_tf.artifacts.hubness_bank`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local_path(path, skip=RUN_SKIPS)
        self.config = self.path / "config.yaml"
        self.format = self.path / "run.json"
        self.model = self.path / "model.json"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.events = self.logs / (self.path.absolute().name or "run")
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.card = self.path / CARD
        self.skipped = self.path / "skipped.jsonl"
        self.hubness = self.path / "hubness" / "bank.json"
        self._lock = ProcessLock(self.path / ".lock")

    @classmethod
    def of(cls, settings: Settings) -> RunFolder:
        """The folder that the settings name, by default `runs/<source>-<loss>-<seed>`."""
        default = f"runs/{settings.data.source}-{settings.loss.name}-{settings.train.seed}"
        return cls(settings.train.run_dir or default)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        # Not pathlib's: it raises for a name of 300 letters or with a NUL.
        return os.path.exists(self.config)  # noqa: PTH110

    def lock(self) -> None:
        """Take the folder's lock, which one process at a time can have; may be called again.

        Raises:
            UserError: another process has it, or the folder cannot be written.
        """
        with option_errors(self.path, "train.run_dir", "mend its permissions or choose another folder"):
            try:
                self._lock.acquire()
            except BusyError as busy:
                raise UserError(
                    f"train.run_dir: {busy} is training in {self.path}; wait for it, stop it, or choose another folder"
                ) from None

    def unlock(self) -> None:
        """Release the lock."""
        self._lock.release()

    def claim(self) -> None:
        """Check, before any work, that a run can be written here, and lock the folder of an existing one.

        Raises:
            UserError: the folder cannot be written, or another process trains here.
        """
        if self.exists:
            self.lock()
        check_folder(self.path, "train.run_dir")

    def create(self, settings: Settings, begun: bool) -> None:
        """Start a run here, or continue it: make and lock the folder, write settings and format.

        Args:
            settings: the settings.
            begun: the folder held a run when the settings were compared with that run's.

        Raises:
            UserError: the folder cannot be written, holds something that is not a run, or another process trains here.
        """
        if self.path.exists() and not self.exists and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"train.run_dir: {self.path} holds something that is not a run; choose another folder")
        with option_errors(self.path, "train.run_dir", "mend its permissions or choose another folder"):
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if self.exists and not begun:
                raise UserError(
                    f"train.run_dir: another process has begun a run in {self.path} in the meantime; repeat the "
                    "command to continue it, or choose another folder"
                )
            save_settings(settings, self.config)
            write_json(self.format, {"format": FORMAT})

    def check_format(self) -> None:
        """Refuse the run of a newer version.

        Raises:
            UserError: a newer version wrote it, or the format is damaged.
        """
        if os.path.lexists(self.format):
            values = load_json(self.format)
            try:
                files.check_format(self.format, values.get("format") if isinstance(values, dict) else None, FORMAT)
            except ValueError as error:
                raise UserError(f"{self.format}: {error}; copy the run folder again") from None

    def settings(self) -> Settings:
        """The run's settings.

        Raises:
            UserError: there is no run here, or a newer version wrote it.
        """
        if not self.exists:
            raise UserError(f"{self.path}: no run here (no config.yaml); name the folder that training printed")
        self.check_format()
        return load_settings(self.config)

    def identity(self, checkpoint: str = "best") -> str:
        """A hash of the model: of its description, its tokenizer, the stored hash of the checkpoint's weights, and its
        hubness correction if it has one.

        Args:
            checkpoint: `best` or `last`.

        Raises:
            UserError: there is no checkpoint yet.
        """
        digest = hashlib.sha256(required_checkpoint(self.checkpoints, checkpoint).sha256.encode())
        for path in [self.model, *sorted(path for path in self.tokenizer.rglob("*") if path.is_file())]:
            with file_errors(path, advice="copy the run folder again"):
                digest.update(hashlib.sha256(files.read_regular(path, ASSET_BYTES)).digest())
        bank = self.hubness_of(checkpoint)
        if bank is not None:
            digest.update(json.dumps(bank, sort_keys=True).encode())
        return digest.hexdigest()

    def hubness_of(self, checkpoint: str = "best") -> dict[str, Any] | None:
        """The description of the hubness correction's bank; None if the checkpoint's model has no correction.

        Args:
            checkpoint: `best` or `last`.

        Raises:
            UserError: the description cannot be read, or there is no checkpoint.
        """
        if not os.path.lexists(self.hubness):
            return None
        found = load_json(self.hubness)
        weights = required_checkpoint(self.checkpoints, checkpoint).sha256
        return found if isinstance(found, dict) and found.get("checkpoint") == weights else None

    def write_results(self, results: dict[str, Any]) -> None:
        """Write results.json."""
        with file_errors(self.results, "written", ADVICE):
            write_json(self.results, results)

    def read_results(self) -> dict[str, Any] | None:
        """The contents of results.json; None before the end of the first epoch.

        Raises:
            UserError: it cannot be read, or holds no results.
        """
        if not self.results.exists():
            return None
        results = load_json(self.results)
        if not isinstance(results, dict) or not {"best", "last", "finished", "stopped", "provenance"} <= results.keys():
            raise UserError(f"{self.results}: not the results of a run; delete the file and run the command again")
        return results

    def measured(self, checkpoint: str = "best") -> tuple[int | None, dict[str, dict[str, float]]]:
        """The epoch of a checkpoint and its metrics by split, as far as the run has written them.

        Args:
            checkpoint: `best` or `last`.
        """
        try:
            results = self.read_results() or {}
            epoch, metrics = results[checkpoint]["epoch"], {"val": dict(results[checkpoint]["metrics"])}
            if checkpoint == "best":
                metrics |= {split: dict(found) for split, found in results["galleries"].items()}
        except (UserError, LookupError, TypeError, ValueError, AttributeError):
            # An unfinished run, or a damaged file, which keeps no model from being used.
            return None, {}
        return epoch, metrics

    def read_card(self) -> str:
        """The model card; empty where there is none that can be read."""
        # The folder may come from others, and this be a link to any file.
        if self.card.is_symlink():
            return ""
        try:
            return files.read_regular(self.card, CARD_BYTES).decode("utf-8")
        except (OSError, ValueError):
            return ""

    def write_card(self, text: str) -> None:
        """Write the model card."""
        with file_errors(self.card, "written", ADVICE):
            write_text(self.card, text)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        with file_errors(self.metrics, "written", ADVICE):
            # The folder may come from others, and this be a link to any file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(self.metrics, flags, 0o666), "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def replace_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl."""
        with file_errors(self.metrics, "written", ADVICE):
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def write_skipped(self, problems: list[Problem]) -> None:
        """Write skipped.jsonl."""
        lines = [json.dumps({"where": p.where, "what": p.what}, ensure_ascii=False) + "\n" for p in problems]
        with file_errors(self.skipped, "written", ADVICE):
            write_text(self.skipped, "".join(lines))


def settings_of_run(argv: list[str]) -> Settings:
    """The settings of the run that a command line names with `--run`; the defaults where it names none.

    They are read before the other arguments, whose defaults they are.

    Args:
        argv: the arguments of the command.

    Raises:
        UserError: the run cannot be read.
    """
    # Errors in the arguments are left to the command's own parser.
    known = ArgumentParser(add_help=False)
    known.add_argument("--run", nargs="?")
    run = known.parse_known_args(allow_arguments(argv))[0].run
    return RunFolder(run).settings() if run and not {"-h", "--help"} & set(argv) else Settings()
