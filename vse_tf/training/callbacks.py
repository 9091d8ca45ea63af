"""What happens between the steps: watching the loss, measuring, keeping, showing."""

from __future__ import annotations

import sys
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from vse_tf.artifacts.checkpoints import Position
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import Split
from vse_tf.embedder import Embedder, EncodedSplit
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import measure
from vse_tf.training.interruption import Interruption
from vse_tf.training.tensorboard import Board


class StepWatch(keras.callbacks.Callback):
    """Counts steps, averages their figures over an epoch, feeds TensorBoard, stops a run whose loss is not finite.

    Args:
        batch_size: pairs in a global batch.
        steps_per_epoch: steps in an epoch.
        board: TensorBoard, or None on workers that do not write.
        log_steps: steps between two entries.
        start: where the run stands at first; where that is within an epoch, its first `fit` runs the rest of it.
        figures: `figures` as they were then.

    Attributes:
        position: where the run stands; an epoch counts as finished when the next one begins.
    """

    def __init__(
        self,
        batch_size: int,
        steps_per_epoch: int,
        board: Board | None,
        log_steps: int,
        start: Position = Position(0, 0),  # noqa: B008 - frozen
        figures: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.board = board
        self.log_steps = log_steps
        self.start = start
        self.position = start
        self._count: int = (figures or {}).get("count", 0)
        self._sums: dict[str, float] = dict((figures or {}).get("sums", {}))
        self._since = (0, 0.0)

    @property
    def figures(self) -> dict[str, Any]:
        """Count and sums of the epoch's figures so far: sums, so that a continued epoch ends in the same bits."""
        return {"count": self._count, "sums": dict(self._sums)}

    @property
    def steps_here(self) -> int:
        """Steps of this epoch that this process does."""
        return self.steps_per_epoch - self._before(self.position.epoch)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch != self.start.epoch or not self.start.within:
            self._count, self._sums = 0, {}
        within = self._before(epoch)
        self.position = Position(epoch, self._step(epoch, within), within)
        self._since = (within, time.perf_counter())

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        row = {name: float(np.reshape(value, -1)[0]) for name, value in (logs or {}).items()}
        epoch, before = self.position.epoch, self.position.within
        within = self._before(epoch) + batch + 1
        step = self._step(epoch, within)
        self.position = Position(epoch, step, within)
        if not np.isfinite(row["loss"]):
            raise UserError(
                f"the loss is {row['loss']} at step {step} (epoch {epoch + 1}); lower --train.learning_rate, "
                "set --train.clip_norm, or raise --loss.temperature"
            )
        self._count += 1
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in row.items()}
        # Several steps may have passed in one execution.
        due = within // self.log_steps > before // self.log_steps or within == self.steps_per_epoch
        if self.board and due:
            done, then = self._since
            now = time.perf_counter()
            speed = (within - done) * self.batch_size / max(now - then, 1e-9)
            self._since = (within, now)
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            scalars = {f"train/{name}": value for name, value in row.items()}
            self.board.scalars({**scalars, "train/learning_rate": rate, "train/pairs_per_second": speed}, step)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update({name: value / self._count for name, value in self._sums.items()})

    def _before(self, epoch: int) -> int:
        """Steps of an epoch that were done before this process began."""
        return self.start.within if epoch == self.start.epoch else 0

    def _step(self, epoch: int, within: int) -> int:
        return self.start.step - self.start.within + (epoch - self.start.epoch) * self.steps_per_epoch + within


class Validation(keras.callbacks.Callback):
    """Measures after each epoch, keeps metrics and results, and stops early.

    Args:
        embedder: the model in training.
        split: the validation split.
        bad: what to do with images that cannot be read.
        run: the run folder, or None on workers that do not write.
        watch: knows where the run stands.
        interruption: a signal need not wait for the end of the measurement.
        patience: epochs without a better rsum before the run stops; 0 never stops.
        provenance: goes into results.json.

    Attributes:
        encoded: the split's embeddings of the last epoch.
        stopped: why the run stopped early, if it did.
        rows: the lines of metrics.jsonl.
    """

    def __init__(
        self,
        embedder: Embedder,
        split: Split,
        bad: BadImages,
        run: RunFolder | None,
        watch: StepWatch,
        interruption: Interruption,
        patience: int,
        provenance: dict[str, Any],
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.split = split
        self.bad = bad
        self.run = run
        self.watch = watch
        self.interruption = interruption
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
        with self.interruption.at_once():
            self.encoded = self.embedder.encode_split(self.split, self.bad)
            metrics = measure(self.encoded)
        measured = time.perf_counter()
        pairs = self.watch.steps_here * self.watch.batch_size
        row = {
            "epoch": epoch + 1,
            "step": self.watch.position.step,
            "metrics": metrics,
            "train": {name: value for name, value in (logs or {}).items() if np.ndim(value) == 0},
            "timing": {
                "time": time.time(),
                "train_seconds": trained - self._began,
                "validation_seconds": measured - trained,
                "pairs_per_second": pairs / max(trained - self._began, 1e-9),
            },
        }
        self.rows.append(row)
        if logs is not None:
            logs.update({f"val_{name}": value for name, value in metrics.items()})
        assert self.best is not None
        if self.patience and epoch + 1 - self.best["epoch"] >= self.patience:
            self.stopped = f"no better validation rsum for {self.patience} epochs"
            self.model.stop_training = True

    def record(self) -> None:
        """Write the last measurement into the run folder."""
        if self.run:
            self.run.append_metrics(self.rows[-1])
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
        thumbnails: uint8 `(images, h, w, 3)` of the validation split; None shows no examples and plain points.
        examples: images and captions shown with their neighbours.
        projector: images in the embedding projector, each with its first caption.
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
        thumbnails = None if self.thumbnails is None else self.thumbnails[encoded.rows]
        if thumbnails is not None and self.examples:
            count = min(self.examples, len(encoded.rows))
            shown = np.linspace(0, len(encoded.rows) - 1, count).astype(int).tolist()
            self.board.neighbours(split, thumbnails, shown, encoded, row["step"])
        if self.projector:
            labels = [split.records[r].captions[0] for r in encoded.rows[: self.projector]]
            first = np.unique(encoded.image_id, return_index=True)[1][: self.projector]
            small = None if thumbnails is None else thumbnails[: self.projector]
            self.board.projector(small, labels, encoded.image[: self.projector], encoded.text[first])
        self.board.flush()


class Progress(keras.callbacks.Callback):
    """One bar over the whole run, with rate and ETA, and a line an epoch.

    Args:
        epochs: epochs of the run.
        watch: knows where the run stands.
    """

    def __init__(self, epochs: int, watch: StepWatch) -> None:
        super().__init__()
        self.epochs = epochs
        self.watch = watch
        start = watch.position
        # A log file gets a line now and then instead of a moving bar.
        live = sys.stderr.isatty()
        self._bar = tqdm(
            total=start.step - start.within + (epochs - start.epoch) * watch.steps_per_epoch,
            initial=start.step,
            desc="training",
            unit="step",
            mininterval=0.5 if live else 20,
            dynamic_ncols=live,
        )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._bar.update(self.watch.position.step - self._bar.n)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        logs = logs or {}
        line = (
            f"epoch {epoch + 1}/{self.epochs}  loss {logs['loss']:.4f}  "
            f"i2t R@1 {logs['val_i2t_r1']:.1f}  t2i R@1 {logs['val_t2i_r1']:.1f}  rsum {logs['val_rsum']:.1f}"
        )
        tqdm.write(line)

    def close(self) -> None:
        """End the bar."""
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
