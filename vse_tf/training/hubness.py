"""Gives the best model of a run its hubness correction."""

from __future__ import annotations

import shutil

from vse_tf.artifacts.hubness_bank import Bank, chosen_rows, read_bank, write_bank
from vse_tf.data.training_splits import chosen_images
from vse_tf.display import Phase
from vse_tf.models.hubness import corrections
from vse_tf.training.builder import RunParts


def correct(parts: RunParts) -> None:
    """Write the bank of the best model into the run folder and correct the run's embedder with it.

    Without `model.hubness_correction` a bank of earlier is removed.

    Args:
        parts: what the run is made of; its model is the best one.

    Raises:
        UserError: an image cannot be read, or the run folder cannot be written.
    """
    if not parts.settings.model.hubness_correction:
        shutil.rmtree(parts.run.hubness.parent, ignore_errors=True)
        return
    with Phase("measuring hubness"):
        write_bank(parts.run, make_bank(parts))
    bank = read_bank(parts.run)
    assert bank is not None
    parts.embedder.corrections = corrections(bank.captions, bank.images)


def make_bank(parts: RunParts) -> Bank:
    """Vectors of the training split's images and captions, as evaluation encodes them; of many, a seeded choice.

    Args:
        parts: what the run is made of; its model is the best one.
    """
    seed, embedder, split = parts.settings.train.seed, parts.embedder, parts.training
    # Training reads crops and mirror images of cached features too.
    images = parts.with_image_features(parts.collection.split("train")).images
    chosen = chosen_images(images, chosen_rows(len(images), seed))
    vectors, _ = embedder.encode_rows(chosen, parts.bad, progress=True)
    return Bank(vectors, embedder.encode_captions(split, chosen_rows(len(split.captions), seed), progress=True))
