"""A split as a second model embeds it: a run or exported models, to compare with another run."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.artifacts import manifest
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.artifacts.versions import versions
from vse_tf.config import DataSettings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.records import EncodedImages, Split
from vse_tf.display import Phase
from vse_tf.embedder import load
from vse_tf.errors import UserError
from vse_tf.indexing.embedding_models import ExportedModel
from vse_tf.models.feature_cache import with_features
from vse_tf.plain_embedder import EncodedSplit


@dataclass(frozen=True)
class OtherModel:
    """A split's vectors by a second model.

    Args:
        name: the model's name, for tables.
        encoded: the vectors, with the hubness correction where the model has one.
        data_sha256: fingerprint of the data that it was trained on, where it is known.
    """

    name: str
    encoded: EncodedSplit
    data_sha256: str | None


def embed_by(place: str, split: Split, data: DataSettings, bad: BadImages) -> OtherModel:
    """Embed a split by the model that a folder holds.

    Args:
        place: a run folder, or the folder of exported models.
        split: the split, as it was read.
        data: how its images are read.
        bad: what to do with images that cannot be read.

    Raises:
        UserError: the folder holds no model, or the model takes other images.
    """
    run = RunFolder(place)
    if run.exists:
        with Phase("loading the other model"):
            embedder = load(place)
        embedder.check_images(split.images)
        seen = with_features(split, data, embedder.image_tower, embedder.view, bad)
        encoded = embedder.corrected(embedder.encode_split(seen, bad, progress=True))
        trained = (run.read_results() or {}).get("provenance", {})
        return OtherModel(place, encoded, trained.get("data_sha256"))
    number = versions(Path(place) / "image_tower")
    if not number:
        raise UserError(f"--compare: {place}: no run and no exported models here; name the folder of either")
    facts = manifest.read(Path(place) / "image_tower" / str(number[-1]))
    return OtherModel(place, encode_exported(ExportedModel(place), split, bad), facts["trained"].get("data_sha256"))


def encode_exported(model: ExportedModel, split: Split, bad: BadImages) -> EncodedSplit:
    """Embed a split by exported models, with their hubness correction where they have one.

    Args:
        model: the exported models.
        split: the split, with images that are files or pixels.
        bad: what to do with images that cannot be read.

    Raises:
        UserError: an image cannot be read, or the split has features in place of images.
    """
    if split.images.kind == "features":
        raise UserError(f"{model.models}: exported models take images, the data hold precomputed features")
    with Phase("images", len(split), "images") as bar:
        if isinstance(split.images, EncodedImages):
            image, rows, _ = model.encode_files(split.images, bad.on_bad, bar.update)
        else:
            parts = []
            for start in range(0, len(split), model.batch_size):
                some = np.arange(start, min(start + model.batch_size, len(split)))
                parts.append(model.encode_contents([_png(pixels) for pixels in split.images.load(some)]))
                bar.update(len(some))
            image, rows = np.concatenate(parts), np.arange(len(split))
    place = np.full(len(split), -1, np.int64)
    place[rows] = np.arange(len(rows))
    image_id = place[np.array(split.caption_rows, np.int64)]
    seen = np.flatnonzero(image_id >= 0)
    captions = split.captions
    with Phase("captions"):
        text = model.encode_texts([captions[number] for number in seen])
    return EncodedSplit(image, text, image_id[seen], rows)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
