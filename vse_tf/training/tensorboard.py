"""What TensorBoard shows of a run: scalars, sheets of nearest neighbours, the embedding projector, the settings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.projector import ProjectorConfig

from vse_tf.artifacts.run_folder import ADVICE
from vse_tf.atomic import atomic_file, write_text
from vse_tf.data.bad_images import BadImages
from vse_tf.data.features import CachedFeatures
from vse_tf.data.pipeline import image_batches
from vse_tf.data.records import FileImages, Images, Split
from vse_tf.embedder import EncodedSplit
from vse_tf.errors import UserError
from vse_tf.evaluation.neighbours import nearest
from vse_tf.files import file_errors
from vse_tf.pages import pictures
from vse_tf.preprocessing.view import ImageView
from vse_tf.settings_parser import flat
from vse_tf.training.builder import RunParts
from vse_tf.training.callbacks import Validation
from vse_tf.training.optimizer import loss_scaling
from vse_tf.training.progress import Logs, RunProgress, scalars

THUMBNAIL, TILE = 96, 48


class TensorBoard(keras.callbacks.Callback):
    """Writes the settings, the steps' logs, and each epoch's metrics, nearest neighbours and embedding projector.

    Args:
        parts: what the run is made of.
        progress: where the run stands.
        validation: measures the epochs; comes before.
    """

    def __init__(self, parts: RunParts, progress: RunProgress, validation: Validation) -> None:
        super().__init__()
        self.parts = parts
        self.progress = progress
        self.validation = validation
        self.folder = parts.run.logs
        self._writer = tf.summary.create_file_writer(str(self.folder))
        settings = flat(parts.settings).items()
        with self._writing(0):
            plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings}
            hparams.hparams(plain, trial_id=self.folder.parent.name or "run")
        self.thumbnails = None
        if parts.settings.train.examples or parts.settings.train.projector:
            self.thumbnails = _thumbnails(parts.validation, THUMBNAIL, parts.settings.data.max_pixels)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._last_step, self._last_time = self.progress.position.step_in_epoch, time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # After a step the optimizer has the rate of the next one.
        if self._is_logged(self.progress.position.step_in_epoch + 1):
            self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        position, step = self.progress.position, self.progress.position.step_in_epoch
        if not self._is_logged(step):
            return
        now = time.perf_counter()
        pairs = (step - self._last_step) * self.parts.settings.train.batch_size
        values = {f"train/{name}": value for name, value in scalars(logs).items()}
        values |= {f"train/{name}": value for name, value in loss_scaling(self.model.optimizer).items()}
        values["train/learning_rate"] = self._rate
        values["train/pairs_per_second"] = pairs / max(now - self._last_time, 1e-9)
        self._scalars(values, position.step)
        self._last_step, self._last_time = step, now

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        row, encoded, train = self.progress.rows[-1], self.validation.encoded, self.parts.settings.train
        values = {f"val/{name}": value for name, value in row["metrics"].items()}
        values |= {f"epoch/{name}": value for name, value in row["train"].items()}
        values["epoch/pairs_per_second"] = row["timing"]["pairs_per_second"]
        self._scalars(values, row["step"])
        split = self.parts.validation
        thumbnails = None if self.thumbnails is None else self.thumbnails[encoded.rows]
        if train.examples and thumbnails is not None:
            count = min(train.examples, len(encoded.rows))
            images = np.linspace(0, len(encoded.rows) - 1, count).astype(int).tolist()
            with self._writing(row["step"]):
                for name, sheet in _neighbours(split, thumbnails, images, encoded).items():
                    tf.summary.image(name, sheet[None])
        if train.projector:
            rows = encoded.rows[: train.projector]
            labels = [split.records[row].captions[0] for row in rows]
            first = np.unique(encoded.image_id, return_index=True)[1][: len(rows)]
            thumbnails = None if thumbnails is None else thumbnails[: len(rows)]
            write_projector(self.folder, thumbnails, labels, encoded.image[: len(rows)], encoded.text[first])

    def _is_logged(self, step_in_epoch: int) -> bool:
        last = self.parts.order.steps_per_epoch
        return step_in_epoch % self.parts.settings.train.log_steps == 0 or step_in_epoch == last

    def flush(self) -> None:
        """Write all events to disk."""
        with self._writing(0):
            self._writer.flush()

    def _scalars(self, values: dict[str, float], step: int) -> None:
        with self._writing(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            with self._writer.as_default(step):
                yield
        except tf.errors.OpError as error:
            raise UserError(f"{self.folder}: cannot write TensorBoard's events ({error.message}); {ADVICE}") from None


def write_projector(
    logs: Path, thumbnails: np.ndarray | None, labels: list[str], images: np.ndarray, captions: np.ndarray
) -> None:
    """Write images and captions as points of one space for the PROJECTOR tab.

    An image is drawn as its thumbnail, a caption as a plain tile; the column `modality` colours them.

    Args:
        logs: the run's `logs/`.
        thumbnails: uint8 `(n, h, w, 3)`; None draws plain points.
        labels: one line for each image and its caption.
        images: float32 `(n, dim)`.
        captions: float32 `(n, dim)`.
    """
    folder = logs / "projector"
    with file_errors(folder, "written", ADVICE):
        with atomic_file(folder / "vectors.tsv") as file:
            np.savetxt(file, np.concatenate([images, captions]), delimiter="\t", fmt="%.6g")
        clean = [" ".join(label.split()) for label in labels]
        lines = ["label\tmodality", *(f"{label}\t{kind}" for kind in ("image", "caption") for label in clean)]
        write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
        config = ProjectorConfig()
        embedding = config.embeddings.add()
        embedding.tensor_name = "images and captions"
        embedding.tensor_path = "projector/vectors.tsv"
        embedding.metadata_path = "projector/metadata.tsv"
        if thumbnails is not None:
            tile = np.full([1, 1, 3], pictures.TILE, np.uint8)
            sprite = pictures.sprite([*thumbnails, *([tile] * len(captions))], TILE)
            with atomic_file(folder / "sprite.png") as file:
                file.write(tf.io.encode_png(sprite).numpy())
            embedding.sprite.image_path = "projector/sprite.png"
            embedding.sprite.single_image_dim.extend([TILE, TILE])
        write_text(logs / "projector_config.pbtxt", str(config))


def purge(logs: Path, step: int) -> None:
    """Drop all event records past a step, so that a resumed run shows every step once.

    TensorBoard's own purge works on restarts that it notices, not on overlapping steps. The settings of the HPARAMS tab
    are dropped too: a resumed run writes them again.

    Args:
        logs: the run's `logs/`.
        step: the last step whose records stay.
    """
    for path in sorted(logs.glob("events.out.tfevents.*")):
        remaining, changed = [], False
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = Event.FromString(record)
                if event.step <= step and not any(v.tag.startswith("_hparams_/") for v in event.summary.value):
                    remaining.append(record)
                else:
                    changed = True
        except (tf.errors.DataLossError, DecodeError):
            # The process was killed while it wrote a record; the records before it are intact.
            changed = True
        if not remaining:
            path.unlink()
        elif changed:
            temporary = path.with_name(f"writing.{path.name}.tmp")
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in remaining:
                    writer.write(record)
            temporary.replace(path)


def _neighbours(
    split: Split, thumbnails: np.ndarray, images: list[int], encoded: EncodedSplit
) -> dict[str, pictures.Picture]:
    """Sheets of the nearest captions of some images, and of the nearest images of each one's first caption."""
    captions = [caption for row in encoded.rows for caption in split.records[row].captions]
    own = encoded.image_id
    by_image = [
        [(captions[i], float(score), own[i] == image) for i, score in zip(near, scores, strict=True)]
        for image, near, scores in zip(images, *nearest(encoded.image[images], encoded.text, 5), strict=True)
    ]
    queries = [int(np.flatnonzero(own == image)[0]) for image in images]
    by_caption = [
        (
            captions[query],
            [(thumbnails[i], float(score), i == own[query]) for i, score in zip(near, scores, strict=True)],
        )
        for query, near, scores in zip(queries, *nearest(encoded.text[queries], encoded.image, 5), strict=True)
    ]
    return {
        "image_to_captions": pictures.image_to_captions([thumbnails[image] for image in images], by_image),
        "caption_to_images": pictures.captions_to_images(by_caption),
    }


def _thumbnails(split: Split, size: int, max_pixels: int) -> np.ndarray | None:
    """Thumbnails of a split's images, uint8 `(images, size, size, 3)`; None for precomputed features.

    Images that cannot be read stay white.
    """
    images: Images = split.images
    if isinstance(images, CachedFeatures):
        images = FileImages(tuple(record.image for record in split.records))
    if images.kind == "features":
        return None
    view = ImageView((size, size), resize=size, max_pixels=max_pixels)
    thumbnails = np.full([len(split), size, size, 3], 255, np.uint8)
    for batch, rows in image_batches(images, view, 64, BadImages("skip", max_pixels)):
        read = rows.numpy() >= 0
        thumbnails[rows.numpy()[read]] = tf.cast(tf.round(batch), tf.uint8).numpy()[read]
    return thumbnails
