"""The validation split of a run, encoded: what several benchmarks begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vse_tf.data.records import Split
    from vse_tf.embedder import Embedder, EncodedSplit


def encoded_validation(run: str) -> tuple[Embedder, Split, EncodedSplit]:
    """A run's model, its validation split, and the split's vectors in the plain space.

    Args:
        run: the run folder.
    """
    import vse_tf  # noqa: PLC0415
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.data.sources import read  # noqa: PLC0415
    from vse_tf.data.training_splits import training_splits  # noqa: PLC0415
    from vse_tf.models.feature_cache import with_features  # noqa: PLC0415

    embedder = vse_tf.load(run)
    data = embedder.settings.data
    split = training_splits(read(data), data).split("val")
    bad = BadImages(data.on_bad, data.max_pixels)
    split = with_features(split, data, embedder.image_tower, embedder.view, bad)
    return embedder, split, embedder.encode_split(split, bad)
