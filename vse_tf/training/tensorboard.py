"""TensorBoard: scalars, pictures of nearest neighbours, the embedding projector, hyper-parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.projector import ProjectorConfig

from vse_tf.atomic import replacing, write_text, writing
from vse_tf.data.records import Split
from vse_tf.embedder import EncodedSplit
from vse_tf.errors import UserError
from vse_tf.retrieval.neighbours import nearest
from vse_tf.settings_parser import flat
from vse_tf.training import pictures
from vse_tf.training.run_folder import ADVICE


class Board:
    """Writes a run's TensorBoard.

    Args:
        folder: the run's `logs/`.

    Example:
        >>> board = Board(run.logs)
        >>> board.scalars({"train/loss": 1.3}, step=10)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = tf.summary.create_file_writer(str(folder))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Write scalars of one step."""
        with self._told(), self._writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)

    def hyper_parameters(self, settings: Any) -> None:
        """Write the settings for the HPARAMS tab; metrics appear beside them by their names."""
        plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in flat(settings).items()}
        with self._writer.as_default(0):
            hparams.hparams(plain, trial_id=self.folder.parent.name or "run")

    def neighbours(
        self, split: Split, thumbnails: np.ndarray, rows: list[int], encoded: EncodedSplit, step: int
    ) -> None:
        """Show, for some images, the nearest captions, and for one caption of each the nearest images.

        Args:
            split: the split.
            thumbnails: uint8 `(images, h, w, 3)` of the split's encoded images.
            rows: positions in `encoded.image` of the images to show.
            encoded: the split's embeddings.
            step: the step they belong to.
        """
        captions = [split.records[row].captions for row in encoded.rows]
        flat_captions = [caption for group in captions for caption in group]
        found, scores = nearest(encoded.image[rows], encoded.text, 5)
        by_image = [
            [(flat_captions[i], float(s), encoded.text_rows[i] == row) for i, s in zip(f, sc, strict=True)]
            for row, f, sc in zip(rows, found, scores, strict=True)
        ]
        queries = [int(np.flatnonzero(encoded.text_rows == row)[0]) for row in rows]
        found, scores = nearest(encoded.text[queries], encoded.image, 5)
        by_caption = [
            (
                flat_captions[query],
                [(thumbnails[i], float(s), i == encoded.text_rows[query]) for i, s in zip(f, sc, strict=True)],
            )
            for query, f, sc in zip(queries, found, scores, strict=True)
        ]
        sheets = {
            "image_to_captions": pictures.image_to_captions([thumbnails[row] for row in rows], by_image),
            "caption_to_images": pictures.captions_to_images(by_caption),
        }
        with self._writer.as_default(step):
            for name, sheet in sheets.items():
                tf.summary.image(name, sheet[None])

    def projector(
        self, thumbnails: np.ndarray | None, labels: list[str], images: np.ndarray, captions: np.ndarray
    ) -> None:
        """Write images and captions as points of one space for the PROJECTOR tab.

        An image is drawn as its picture, a caption as a plain tile; the column `modality` colours them.

        Args:
            thumbnails: uint8 `(n, h, w, 3)`; None draws plain points.
            labels: one line an image and its caption.
            images: float32 `(n, dim)`.
            captions: float32 `(n, dim)`.
        """
        size = 48
        folder = self.folder / "projector"
        with writing(folder, "the projector's points", ADVICE):
            with replacing(folder / "vectors.tsv") as file:
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
                sprite = pictures.sprite([*thumbnails, *([tile] * len(captions))], size)
                with replacing(folder / "sprite.png") as file:
                    file.write(tf.io.encode_png(sprite).numpy())
                embedding.sprite.image_path = "projector/sprite.png"
                embedding.sprite.single_image_dim.extend([size, size])
            write_text(self.folder / "projector_config.pbtxt", str(config))

    def flush(self) -> None:
        """Hand everything to the file system."""
        with self._told():
            self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            raise UserError(f"{self.folder}: cannot write TensorBoard's events ({error.message}); {ADVICE}") from None


def purge(folder: Path, step: int) -> int:
    """Drop all event records past a step, so that a continued run shows every step once.

    TensorBoard's own purge works on restarts it notices, not on overlapping steps. The settings of the HPARAMS tab go
    too: a continued run writes them again.

    Args:
        folder: the run's `logs/`.
        step: the last step to keep.

    Returns:
        How many records were dropped.
    """
    dropped = 0
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept, here = [], 0
        try:
            for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
                event = Event.FromString(record)
                if event.step <= step and not any(v.tag.startswith("_hparams_/") for v in event.summary.value):
                    kept.append(record)
                else:
                    here += 1
        except (tf.errors.DataLossError, DecodeError):
            # The process was killed in the middle of a record: what stands before it is whole.
            here += 1
        if here:
            beside = path.with_name(f"writing.{path.name}.tmp")
            with tf.io.TFRecordWriter(str(beside)) as writer:
                for record in kept:
                    writer.write(record)
            beside.replace(path)
        if not kept:
            path.unlink()
        dropped += here
    return dropped
