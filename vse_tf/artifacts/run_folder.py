"""The run folder: what a run leaves behind, and where. No TensorFlow is imported here."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from vse_tf import files
from vse_tf.artifacts.checkpoint_files import read_description, read_pointer
from vse_tf.artifacts.lock import RunLock
from vse_tf.atomic import check_folder, write_text, writing
from vse_tf.config import Settings
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.files import reason_of
from vse_tf.settings_parser import load_settings, save_settings

# Of a model's description or of one file of its tokenizer.
ASSET_BYTES = 256 * 2**20
ADVICE = "mend that and repeat the command: it continues from the last checkpoint"


class RunFolder:
    """A run's files.

    Args:
        path: the folder; it need not exist yet.

    Attributes:
        config: `config.yaml`, the settings.
        model: `model.json`, the towers' architecture and the image view.
        tokenizer: `tokenizer/`.
        checkpoints: `checkpoints/`.
        logs: `logs/`, TensorBoard's.
        metrics: `metrics.jsonl`, a line an epoch.
        results: `results.json`, the best and the last epoch.
        skipped: `skipped.jsonl`, what was left out of the data.
        lock: the right to write here.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.model = self.path / "model.json"
        self.tokenizer = self.path / "tokenizer"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.metrics = self.path / "metrics.jsonl"
        self.results = self.path / "results.json"
        self.skipped = self.path / "skipped.jsonl"
        self.lock = RunLock(self.path)

    @classmethod
    def of(cls, settings: Settings) -> RunFolder:
        """The folder that the settings name, by default `runs/<source>-<loss>-<seed>`."""
        default = f"runs/{settings.data.source}-{settings.loss.name}-{settings.train.seed}"
        return cls(settings.train.run_dir or default)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        # Not pathlib's: it raises for a name of 300 letters or with a NUL.
        return os.path.exists(self.config)  # noqa: PTH110

    def claim(self) -> None:
        """Find out, before any work, whether a run can be written here; lock one that was begun.

        Raises:
            UserError: the folder cannot be written, or another process trains here.
        """
        if self.exists:
            self.lock.acquire()
        check_folder(self.path, "train.run_dir")

    def create(self, settings: Settings, begun: bool) -> None:
        """Begin a run here, or go on with it: make the folder, lock it and write the settings.

        Args:
            settings: the settings.
            begun: there was a run when these settings were compared with its.

        Raises:
            UserError: the folder cannot be written, holds something that is not a run, or another process trains here.
        """
        if self.path.exists() and not self.exists and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"train.run_dir: {self.path} holds something that is not a run; choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            if self.exists and not begun:
                raise UserError(
                    f"train.run_dir: another process has begun a run in {self.path} in the meantime; repeat the "
                    "command to continue it, or choose another folder"
                )
            save_settings(settings, self.config)
        except OSError as error:
            raise UserError(f"train.run_dir: cannot write to {self.path}: {error.strerror}") from None

    def settings(self) -> Settings:
        """The run's settings.

        Raises:
            UserError: there is no run here.
        """
        if not self.exists:
            raise UserError(f"{self.path}: no run here (no config.yaml); name the folder that training printed")
        return load_settings(self.config)

    def identity(self, checkpoint: str = "best") -> str:
        """A hash of the model: its description, its tokenizer and the hash that the checkpoint carries of its weights.

        Args:
            checkpoint: `best` or `last`.

        Raises:
            UserError: there is no checkpoint yet.
        """
        name = read_pointer(self.checkpoints).get(checkpoint)
        if name is None:
            raise UserError(f"{self.checkpoints}: no checkpoint; the run ended before its first epoch did: train again")
        digest = hashlib.sha256(read_description(self.checkpoints / name).sha256.encode())
        for path in [self.model, *sorted(path for path in self.tokenizer.rglob("*") if path.is_file())]:
            try:
                digest.update(hashlib.sha256(files.read_regular(path, ASSET_BYTES)).digest())
            except OSError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}; copy the run folder again") from None
        return digest.hexdigest()

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace results.json in one step."""
        with writing(self.results, "the results", ADVICE):
            write_json(self.results, results)

    def read_results(self) -> dict[str, Any] | None:
        """results.json, or None before the first epoch's end.

        Raises:
            UserError: it cannot be read, or is something else.
        """
        if not self.results.exists():
            return None
        results = read_json(self.results)
        if not isinstance(results, dict) or not {"best", "last", "finished", "stopped", "provenance"} <= results.keys():
            raise UserError(f"{self.results}: not the results of a run; delete the file and run the command again")
        return results

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        with writing(self.metrics, "the metrics", ADVICE):
            # The folder may be a stranger's, and this a link to any file.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
            with os.fdopen(os.open(self.metrics, flags, 0o666), "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def replace_metrics(self, rows: list[dict[str, Any]]) -> None:
        """Replace metrics.jsonl."""
        with writing(self.metrics, "the metrics", ADVICE):
            write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    def write_skipped(self, problems: list[Problem]) -> None:
        """Replace skipped.jsonl."""
        lines = [json.dumps({"where": p.where, "what": p.what}, ensure_ascii=False) + "\n" for p in problems]
        with writing(self.skipped, "what was left out", ADVICE):
            write_text(self.skipped, "".join(lines))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return files.read_json(path)
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise UserError(f"{path}: cannot be read: {reason}") from None
