"""The models that embed: a run's, known by its files and loaded when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vse_tf.config import OnBad
from vse_tf.data.records import Problem
from vse_tf.errors import UserError
from vse_tf.retrieval.embedding import Encoder
from vse_tf.retrieval.index import Index
from vse_tf.training.run_folder import RunFolder

if TYPE_CHECKING:
    from vse_tf.embedder import Embedder


class RunEncoder:
    """The model of a run.

    Args:
        run: the run folder.
        checkpoint: `best` or `last`.
        batch_size: photos or sentences at a time (default: the run's `train.eval_batch_size`).

    Raises:
        UserError: no run there.

    Example:
        >>> RunEncoder("runs/shapes-convse-0").encode_texts(["a red circle"]).shape
        (1, 128)
    """

    def __init__(self, run: str | Path, checkpoint: str = "best", batch_size: int | None = None) -> None:
        self.run = Path(run)
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.dim = RunFolder(run).settings().model.dim

    def __reduce__(self) -> tuple[type[RunEncoder], tuple[Any, ...]]:
        # Travels to other processes by name; each loads the model itself.
        return type(self), (self.run, self.checkpoint, self.batch_size)

    @cached_property
    def model(self) -> dict[str, Any]:
        """The run, its checkpoint, and a hash of both."""
        identity = RunFolder(self.run).identity(self.checkpoint)
        return {"kind": "run", "path": str(self.run.resolve()), "checkpoint": self.checkpoint, "id": identity}

    def encode_files(
        self, paths: Sequence[str], on_bad: OnBad, advance: Callable[[int], Any] = lambda count: None
    ) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
        """Vectors of the photos that can be read, their positions in `paths`, and the problems of the others.

        Raises:
            UserError: a photo cannot be read and `on_bad` is `fail`, or the model takes no photos.
        """
        from vse_tf.data.bad_images import BadImages  # noqa: PLC0415

        bad = BadImages(on_bad, self._embedder.view.max_pixels, remedy="--on_bad skip")
        vectors, rows = self._embedder.encode_files(paths, bad, self.batch_size, advance)
        return vectors, rows, list(bad.problems.values())

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of sentences, float32 `(len(texts), dim)`."""
        return self._embedder.encode_texts(texts, self.batch_size)

    @cached_property
    def _embedder(self) -> Embedder:
        import vse_tf  # noqa: PLC0415

        return vse_tf.load(self.run, self.checkpoint)


def named_encoder(run: str | None, checkpoint: str = "best", batch_size: int | None = None) -> Encoder:
    """The model that a command's options name.

    Args:
        run: `--run`.
        checkpoint: `--checkpoint`.
        batch_size: `--batch_size`.

    Raises:
        UserError: no model is named, or there is none.
    """
    if run is None:
        raise UserError("name the model: --run with a run folder")
    return RunEncoder(run, checkpoint, batch_size)


def index_encoder(index: Index, run: str | None = None) -> Encoder:
    """The model for queries to an index.

    Args:
        index: the index.
        run: `--run`; by default the run that made the index.

    Raises:
        UserError: the index's run is no longer where it was.
    """
    made = index.model
    checkpoint = made.get("checkpoint", "best")
    if run is not None:
        return RunEncoder(run, checkpoint)
    if made.get("kind") != "run" or not isinstance(made.get("path"), str):
        raise UserError(f"{index.folder}: its manifest names no run; name it with --run")
    if not Path(made["path"]).exists():
        raise UserError(f"{made['path']}: the run that made {index.folder} is not there; name it with --run")
    return RunEncoder(made["path"], checkpoint)
