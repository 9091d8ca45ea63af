"""What happens between the steps: watching the loss, measuring, keeping, showing."""

from __future__ import annotations

import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import Split
from vse_tf.embedder import Embedder, EncodedSplit
from vse_tf.errors import UserError
from vse_tf.retrieval.measuring import measure
from vse_tf.training.checkpoints import Checkpoints, Position
from vse_tf.training.run_folder import RunFolder
from vse_tf.training.tensorboard import Board


class StepWatch(keras.callbacks.Callback):
    """Averages the step's figures over an epoch, feeds TensorBoard, and stops a run whose loss is not finite.

    Args:
        batch_size: pairs in a global batch.
        steps_per_epoch: steps in an epoch.
        board: TensorBoard, or None on workers that do not write.
        log_steps: steps between two entries.
    """

    def __init__(self, batch_size: int, steps_per_epoch: int, board: Board | None, log_steps: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.board = board
        self.log_steps = log_steps
        self.means: dict[str, float] = {}
        self._epoch = 0
        self._rows: list[dict[str, float]] = []
        self._since = (0, 0.0)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._rows = []
        self._since = (0, time.perf_counter())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        row = {name: float(np.reshape(value, -1)[0]) for name, value in (logs or {}).items()}
        step = self._epoch * self.steps_per_epoch + batch + 1
        if not np.isfinite(row["loss"]):
            raise UserError(
                f"the loss is {row['loss']} at step {step} (epoch {self._epoch + 1}); lower --train.learning_rate, "
                "set --train.clip_norm, or raise --loss.temperature"
            )
        self._rows.append(row)
        self.means = {name: float(np.mean([r[name] for r in self._rows])) for name in row} if self._due(batch) else {}
        if self.board and self._due(batch):
            done, then = self._since
            now = time.perf_counter()
            speed = (batch + 1 - done) * self.batch_size / max(now - then, 1e-9)
            self._since = (batch + 1, now)
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            scalars = {f"train/{name}": value for name, value in row.items()}
            self.board.scalars({**scalars, "train/learning_rate": rate, "train/pairs_per_second": speed}, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.means = {name: float(np.mean([row[name] for row in self._rows])) for name in self._rows[0]}
        if logs is not None:
            logs.update(self.means)

    def _due(self, batch: int) -> bool:
        return (batch + 1) % self.log_steps == 0 or batch + 1 == self.steps_per_epoch


class Validation(keras.callbacks.Callback):
    """Measures after each epoch, keeps checkpoints, metrics and results, and stops early.

    Args:
        embedder: the model in training.
        split: the validation split.
        bad: what to do with images that cannot be read.
        run: the run folder, or None on workers that do not write.
        checkpoints: where the checkpoints go.
        steps_per_epoch: steps in an epoch.
        patience: epochs without a better rsum before the run stops; 0 never stops.
        provenance: goes into results.json.

    Attributes:
        encoded: the split's embeddings of the last epoch.
        stopped: why the run stopped early, if it did.
    """

    def __init__(
        self,
        embedder: Embedder,
        split: Split,
        bad: BadImages,
        run: RunFolder | None,
        checkpoints: Checkpoints,
        steps_per_epoch: int,
        patience: int,
        provenance: dict[str, Any],
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.split = split
        self.bad = bad
        self.run = run
        self.checkpoints = checkpoints
        self.steps_per_epoch = steps_per_epoch
        self.patience = patience
        self.provenance = provenance
        self.encoded: EncodedSplit | None = None
        self.stopped: str | None = None
        self.rows: list[dict[str, Any]] = []
        self._began = 0.0

    @property
    def best(self) -> dict[str, Any] | None:
        """The row with the highest rsum; the earliest of equals."""
        return max(self.rows, key=lambda row: row["metrics"]["rsum"], default=None)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        trained = time.perf_counter()
        self.encoded = self.embedder.encode_split(self.split, self.bad)
        metrics = measure(self.encoded)
        measured = time.perf_counter()
        step = (epoch + 1) * self.steps_per_epoch
        pairs = self.steps_per_epoch * self.embedder.settings.train.batch_size
        row = {
            "epoch": epoch + 1,
            "step": step,
            "metrics": metrics,
            "train": {name: value for name, value in (logs or {}).items() if np.ndim(value) == 0},
            "timing": {
                "time": time.time(),
                "train_seconds": trained - self._began,
                "validation_seconds": measured - trained,
                "pairs_per_second": pairs / (trained - self._began),
            },
        }
        self.rows.append(row)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in metrics.items()})
        assert self.best is not None
        if self.patience and epoch + 1 - self.best["epoch"] >= self.patience:
            self.stopped = f"no better validation rsum for {self.patience} epochs"
            self.model.stop_training = True
        if self.run:
            self.checkpoints.save(self.model, Position(epoch + 1, step), best=self.best is row)
            self.run.append_metrics(row)
            self.write_results(finished=False)

    def write_results(self, finished: bool, galleries: dict[str, Any] | None = None) -> None:
        """Replace results.json by what is known now."""
        if not self.run or not self.rows or self.best is None:
            return
        kept = ("epoch", "step", "metrics")
        self.run.write_results(
            {
                "best": {key: self.best[key] for key in kept},
                "last": {key: self.rows[-1][key] for key in kept},
                "galleries": galleries or {},
                "finished": finished,
                "stopped": self.stopped,
                "provenance": self.provenance,
            }
        )


class BoardWriter(keras.callbacks.Callback):
    """Writes an epoch's recalls and pictures to TensorBoard.

    Args:
        board: TensorBoard.
        validation: where the epoch's measurement is.
        thumbnails: uint8 `(images, h, w, 3)` of the validation split; None writes no pictures.
        examples: images and captions shown with their neighbours.
        projector: images in the embedding projector.
    """

    def __init__(
        self, board: Board, validation: Validation, thumbnails: np.ndarray | None, examples: int, projector: int
    ) -> None:
        super().__init__()
        self.board = board
        self.validation = validation
        self.thumbnails = thumbnails
        self.examples = examples
        self.projector = projector

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        row, encoded, split = self.validation.rows[-1], self.validation.encoded, self.validation.split
        assert encoded is not None
        scalars = {f"val/{name}": value for name, value in row["metrics"].items()}
        scalars |= {f"epoch/{name}": value for name, value in row["train"].items() if not name.startswith("val_")}
        scalars["epoch/pairs_per_second"] = row["timing"]["pairs_per_second"]
        self.board.scalars(scalars, row["step"])
        if self.thumbnails is not None:
            thumbnails = self.thumbnails[encoded.rows]
            if self.examples:
                count = min(self.examples, len(encoded.rows))
                shown = np.linspace(0, len(encoded.rows) - 1, count).astype(int).tolist()
                self.board.neighbours(split, thumbnails, shown, encoded, row["step"])
            if self.projector:
                chosen = slice(0, self.projector)
                labels = [split.records[r].captions[0] for r in encoded.rows[chosen]]
                self.board.projector(thumbnails[chosen], labels, encoded.image[chosen])
        self.board.flush()


class Progress(keras.callbacks.Callback):
    """One bar over the whole run, with rate and ETA, and a line an epoch.

    Args:
        epochs: epochs of the run.
        steps_per_epoch: steps in an epoch.
        first_epoch: epochs that are done already.
    """

    def __init__(self, epochs: int, steps_per_epoch: int, first_epoch: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.first_epoch = first_epoch
        self._bar: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        # A log file gets a line now and then instead of a moving bar.
        live = sys.stderr.isatty()
        self._bar = tqdm(
            total=self.epochs * self.steps_per_epoch,
            initial=self.first_epoch * self.steps_per_epoch,
            desc="training",
            unit="step",
            mininterval=0.5 if live else 20,
            dynamic_ncols=live,
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._bar.update(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        line = (
            f"epoch {epoch + 1}/{self.epochs}  loss {logs['loss']:.4f}  "
            f"i2t R@1 {logs['val_i2t_r1']:.1f}  t2i R@1 {logs['val_t2i_r1']:.1f}  rsum {logs['val_rsum']:.1f}"
        )
        tqdm.write(line)

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.close()


def thumbnails(split: Split, size: int, max_pixels: int) -> np.ndarray | None:
    """Small pictures of a split for TensorBoard, uint8 `(images, size, size, 3)`; None for features.

    Images that cannot be read stay white.
    """
    from vse_tf.data.pipeline import ImageView, image_batches  # noqa: PLC0415

    if split.images.kind == "features":
        return None
    view = ImageView((size, size), resize=size, max_pixels=max_pixels)
    result = np.full([len(split), size, size, 3], 255, np.uint8)
    for batch, rows in image_batches(split.images, view, 64, BadImages("skip", max_pixels)):
        read = rows.numpy() >= 0
        result[rows.numpy()[read]] = tf.cast(tf.round(batch), tf.uint8).numpy()[read]
    return result
