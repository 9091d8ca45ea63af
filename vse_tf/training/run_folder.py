"""The run folder: what a run leaves behind, and where. No TensorFlow is imported here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from vse_tf.config import Settings
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.settings_parser import load_settings, save_settings


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

    @classmethod
    def of(cls, settings: Settings) -> RunFolder:
        """The folder that the settings name, by default `runs/<source>-<loss>-<seed>`."""
        default = f"runs/{settings.data.source}-{settings.loss.name}-{settings.train.seed}"
        return cls(settings.train.run_dir or default)

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.config.exists()

    def create(self, settings: Settings) -> None:
        """Begin a run here: make the folder and write its settings.

        Raises:
            UserError: the folder cannot be written, or holds something that is not a run.
        """
        if self.path.exists() and not self.exists and (not self.path.is_dir() or any(self.path.iterdir())):
            raise UserError(f"train.run_dir: {self.path} holds something that is not a run; choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
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
        pointer = self.checkpoints / "pointer.json"
        if not pointer.exists():
            raise UserError(f"{self.checkpoints}: no checkpoint; the run ended before its first epoch did: train again")
        position = read_json(self.checkpoints / read_json(pointer)[checkpoint] / "position.json")
        digest = hashlib.sha256(position["sha256"].encode())
        for path in [self.model, *sorted(path for path in self.tokenizer.rglob("*") if path.is_file())]:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def write_results(self, results: dict[str, Any]) -> None:
        """Replace results.json in one step."""
        write_json(self.results, results)

    def read_results(self) -> dict[str, Any] | None:
        """results.json, or None before the first epoch's end."""
        return read_json(self.results) if self.results.exists() else None

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a half-written last line is left out."""
        if not self.metrics.exists():
            return []
        rows = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
        return rows

    def truncate_metrics(self, epoch: int) -> list[dict[str, Any]]:
        """Drop the lines past an epoch, as a continued run writes them again; returns the rest."""
        rows = [row for row in self.read_metrics() if row["epoch"] <= epoch]
        write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        return rows

    def write_skipped(self, problems: list[Problem]) -> None:
        """Replace skipped.jsonl."""
        lines = [json.dumps({"where": p.where, "what": p.what}, ensure_ascii=False) + "\n" for p in problems]
        write_text(self.skipped, "".join(lines))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part."""
    beside = path.with_name(f".{path.name}.writing")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
