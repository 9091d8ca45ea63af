"""What TensorBoard shows of a run: scalars, sheets of nearest neighbours, the embedding projector, the settings."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.projector import ProjectorConfig

from vse_tf.artifacts.run_folder import ADVICE, RunFolder
from vse_tf.atomic import atomic_file, write_text
from vse_tf.data.bad_images import BadImages
from vse_tf.data.features import CachedFeatures
from vse_tf.data.image_reader import ImageReader
from vse_tf.data.records import EncodedImages, Split
from vse_tf.display import part
from vse_tf.errors import UserError
from vse_tf.evaluation.neighbours import nearest
from vse_tf.files import file_errors
from vse_tf.pages import pictures
from vse_tf.plain_embedder import EncodedSplit
from vse_tf.preprocessing.view import ImageView
from vse_tf.settings_parser import flat
from vse_tf.training.builder import RunParts
from vse_tf.training.callbacks import StepTracker, Validation
from vse_tf.training.optimizer import loss_scaling
from vse_tf.training.progress import Logs, RunProgress

THUMBNAIL, TILE = 150, 64
PICTURES = 10
"""Pictures and projector are written after every tenth epoch and after the last one."""
HPARAMS = ("loss.name", "image.encoder", "text.encoder", "train.batch_size", "train.learning_rate")
"""The first columns of the HPARAMS tab, which shows five; the other settings can be ticked."""
HPARAM_METRICS = {"val/rsum": "rsum", "val/i2t_r1": "image to text R@1", "val/t2i_r1": "text to image R@1"}


class TensorBoard(keras.callbacks.Callback):
    """Writes the settings, the steps' logs, each epoch's metrics, and sometimes nearest neighbours and the projector.

    Args:
        parts: what the run is made of.
        progress: where the run stands.
        tracker: fetches the values of the steps; comes before.
        validation: measures the epochs; comes before.
    """

    def __init__(self, parts: RunParts, progress: RunProgress, tracker: StepTracker, validation: Validation) -> None:
        super().__init__()
        self.parts = parts
        self.progress = progress
        self.tracker = tracker
        self.validation = validation
        self.folder = parts.run.events
        self._writer = tf.summary.create_file_writer(str(self.folder))
        settings = flat(parts.settings).items()
        with self._writing(0):
            plain = {key: value if isinstance(value, (bool, int, float)) else str(value) for key, value in settings}
            tf.summary.experimental.write_raw_pb(_columns(plain), 0)
            hparams.hparams(plain, trial_id=self.folder.name)
        max_pixels = parts.settings.data.max_pixels
        self._thumbnails = Thumbnails(parts.validation, THUMBNAIL, max_pixels)
        self._tiles = Thumbnails(parts.validation, TILE, max_pixels)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._last_step, self._last_time = self.progress.position.step_in_epoch, time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # After a step the optimizer has the rate of the next one.
        if self.tracker.is_logged(self.progress.position.step_in_epoch + 1):
            self._rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        position, step = self.progress.position, self.progress.position.step_in_epoch
        if not self.tracker.is_logged(step):
            return
        now = time.perf_counter()
        pairs = (step - self._last_step) * self.parts.settings.train.batch_size
        values = {f"train/{name}": value for name, value in self.tracker.values.items()}
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
        if (epoch + 1) % PICTURES == 0 or epoch + 1 == train.epochs or self.model.stop_training:
            with part("TensorBoard's pictures"):
                if train.examples:
                    self._write_neighbours(row["step"], min(train.examples, len(encoded.rows)))
                if train.projector:
                    self._write_projector(train.projector)

    def _write_neighbours(self, step: int, count: int) -> None:
        encoded = self.validation.encoded
        images = np.linspace(0, len(encoded.rows) - 1, count).astype(int).tolist()
        cards = _neighbours(self.parts.validation, self._thumbnails, images, encoded)
        with self._writing(step):
            for name, card in cards.items():
                tf.summary.image(name, card[None])

    def _write_projector(self, count: int) -> None:
        encoded, split = self.validation.encoded, self.parts.validation
        rows = encoded.rows[:count]
        labels = [split.records[row].captions[0] for row in rows]
        first = np.unique(encoded.image_id, return_index=True)[1][: len(rows)]
        thumbnails = self._tiles.of(rows)
        write_projector(self.folder, thumbnails, labels, encoded.image[: len(rows)], encoded.text[first])

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

    An image is drawn as its thumbnail, a caption as a tile with its first words; the column `modality` colours them.

    Args:
        logs: the folder of the run's events.
        thumbnails: uint8 `(n, h, w, 3)`; None draws plain points.
        labels: one line for each image and its caption.
        images: float32 `(n, dim)`.
        captions: float32 `(n, dim)`.
    """
    folder = logs / "projector"
    vectors = np.concatenate([images, captions]).astype(np.float32)
    with file_errors(folder, "written", ADVICE):
        with atomic_file(folder / "vectors.bytes") as file:
            # Text takes seconds to write. TensorBoard takes for numbers in binary what is no UTF-8: no text has this
            # first byte, the last bits of the first value.
            file.write(b"\xff" + vectors.tobytes()[1:])
        clean = [" ".join(label.split()) for label in labels]
        lines = ["label\tmodality", *(f"{label}\t{kind}" for kind in ("image", "caption") for label in clean)]
        write_text(folder / "metadata.tsv", "\n".join(lines) + "\n")
        config = ProjectorConfig()
        embedding = config.embeddings.add()
        embedding.tensor_name = "images and captions"
        embedding.tensor_path = "projector/vectors.bytes"
        embedding.tensor_shape.extend(vectors.shape)
        embedding.metadata_path = "projector/metadata.tsv"
        if thumbnails is not None:
            tiles = [pictures.caption_tile(label, TILE) for label in clean]
            sprite = pictures.sprite([*thumbnails, *tiles], TILE)
            with atomic_file(folder / "sprite.png") as file:
                file.write(tf.io.encode_png(sprite, compression=1).numpy())
            embedding.sprite.image_path = "projector/sprite.png"
            embedding.sprite.single_image_dim.extend([TILE, TILE])
        write_text(logs / "projector_config.pbtxt", str(config))


def purge(logs: Path, step: int) -> None:
    """Drop all event records past a step, so that a resumed run shows every step once.

    TensorBoard's own purge works on restarts that it notices, not on overlapping steps. The settings of the HPARAMS tab
    are dropped too: a resumed run writes them again.

    Args:
        logs: the folder of the run's events.
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


def _columns(names: Iterable[str]) -> bytes:
    """The settings and metrics of the HPARAMS tab."""
    metrics = [hparams.Metric(tag, display_name=name) for tag, name in HPARAM_METRICS.items()]
    summary = hparams.hparams_config_pb([hparams.HParam(name) for name in names], metrics)
    plugin = summary.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(plugin.content)
    for info in content.experiment.hparam_infos:
        # TensorBoard sorts by this, then by name.
        info.differs = info.name in HPARAMS
    plugin.content = content.SerializeToString()
    return summary.SerializeToString()


def gather_events(run: RunFolder) -> None:
    """Move the events of an earlier version, or of the time when the run folder had another name, to their place.

    Args:
        run: the run folder.
    """
    for path in sorted(run.logs.rglob("events.out.tfevents.*")):
        if path.parent != run.events:
            run.events.mkdir(parents=True, exist_ok=True)
            path.replace(run.events / path.name)


class Thumbnails:
    """Thumbnails of a split's images, each read when it is first asked for. Images that cannot be read are white.

    Args:
        split: the split.
        size: side in pixels.
        max_pixels: larger images are not read.
    """

    def __init__(self, split: Split, size: int, max_pixels: int) -> None:
        images = split.images.images if isinstance(split.images, CachedFeatures) else split.images
        self._images = None if images is None or images.kind == "features" else images
        self._reader = ImageReader(ImageView((size, size), resize=size, max_pixels=max_pixels))
        self._bad = BadImages("skip", max_pixels)
        self._white = np.full([size, size, 3], 255, np.uint8)
        self._read: dict[int, np.ndarray] = {}

    def of(self, rows: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """The thumbnails of some rows, uint8 `(rows, h, w, 3)`; None if the data hold features and no images."""
        if self._images is None:
            return None
        if not isinstance(self._images, EncodedImages):
            # They are small, and those who draw them scale them.
            return self._images.load(np.asarray(rows, np.int64))
        missing = [int(row) for row in dict.fromkeys(rows) if row not in self._read]
        self._read |= dict.fromkeys(missing, self._white)
        for batch, positions in self._reader.batches(self._images.chosen(missing), 64, self._bad):
            pixels = tf.cast(tf.round(batch), tf.uint8).numpy()
            self._read |= {missing[position]: each for position, each in zip(positions, pixels, strict=True)}
        return np.stack([self._read[int(row)] for row in rows])


def _neighbours(
    split: Split, thumbnails: Thumbnails, images: list[int], encoded: EncodedSplit
) -> dict[str, pictures.Picture]:
    """Cards of the nearest captions of some images, and of the nearest images of each one's first caption."""
    captions = [caption for row in encoded.rows for caption in split.records[row].captions]
    own = encoded.image_id
    cards: dict[str, pictures.Picture] = {}
    queries = [int(np.flatnonzero(own == image)[0]) for image in images]
    to_captions = nearest(encoded.image[images], encoded.text, 5)
    to_images = nearest(encoded.text[queries], encoded.image, 5)
    # All at once: a pipeline takes longer to build than to run.
    thumbnails.of(encoded.rows[np.concatenate([images, to_images[0].ravel()])])
    for number, (image, near, scores) in enumerate(zip(images, *to_captions, strict=True), start=1):
        seen = thumbnails.of(encoded.rows[[image]])
        if seen is None:
            return {}
        found = [(captions[i], float(score), bool(own[i] == image)) for i, score in zip(near, scores, strict=True)]
        cards[f"image_to_captions/{number}"] = pictures.image_to_captions(list(seen), [found])
    for number, (query, near, scores) in enumerate(zip(queries, *to_images, strict=True), start=1):
        pixels = thumbnails.of(encoded.rows[near])
        assert pixels is not None
        of_query = list(zip(pixels, map(float, scores), (near == own[query]).tolist(), strict=True))
        card = pictures.captions_to_images([(captions[query], of_query)], small=True)
        cards[f"caption_to_images/{number}"] = card
    return cards
