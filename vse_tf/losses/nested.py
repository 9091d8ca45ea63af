"""An objective on the first dimensions too, so that vectors may be truncated (Matryoshka, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from vse_tf.losses.base import PairLoss


@keras.saving.register_keras_serializable(package="vse_tf")
class Nested(PairLoss):
    """Mean of an objective over the full embeddings and over their first dimensions, which then are embeddings too.

    With x[:d] the first d coordinates of x, and their length normalised again:

        L = 1/(n + 1) ( loss(x, y) + Σ_d loss(x[:d] / |x[:d]|, y[:d] / |y[:d]|) )

    It is a mean, not the paper's sum, so that the value of a collapsed model and the learning rate stay those of the
    objective.

    Source: Matryoshka Representation Learning, arXiv 2205.13147.

    Inputs:
        Those of the objective.

    Relations:
        - An index keeps the first dimensions alone with `vse_tf.embed --storage int8:256`.

    Args:
        loss: the objective.
        dims: numbers of first dimensions, each below that of the embeddings.
        reduction: as in Keras (default: that of the objective).
        name: name of the loss (default: that of the objective).

    Raises:
        ValueError: the dimensions are not different numbers above 0.

    Example:
        >>> model.compile(optimizer="adam", loss=Nested(ConVSE(temperature=0.1), dims=[128, 256]))
    """

    def __init__(
        self, loss: PairLoss, dims: Sequence[int], reduction: str | None = None, name: str | None = None
    ) -> None:
        if not dims or len(set(dims)) != len(dims) or min(dims) < 1:
            raise ValueError(f"dims must be different numbers above 0; got dims={list(dims)}")
        super().__init__(loss.mask_same_image, reduction or loss.reduction, name or loss.name)
        self.loss = loss
        self.dims = list(dims)

    def pair_losses(self, image: tf.Tensor, text: tf.Tensor, image_id: tf.Tensor | None) -> tf.Tensor:
        losses = [self.loss.pair_losses(image, text, image_id)]
        for dim in self.dims:
            if image.shape[-1] is not None and dim >= image.shape[-1]:
                raise ValueError(f"dims must be below the {image.shape[-1]} dimensions of the embeddings; got {dim}")
            first, second = (tf.math.l2_normalize(each[:, :dim], axis=1) for each in (image, text))
            losses.append(self.loss.pair_losses(first, second, image_id))
        return tf.add_n(losses) / len(losses)

    def collapsed_pair(self, batch_size: int) -> float:
        return self.loss.collapsed_pair(batch_size)

    def scalars(self) -> dict[str, tf.Tensor]:
        """Those of the objective."""
        return self.loss.scalars()

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        loss = keras.saving.serialize_keras_object(self.loss)
        return {"loss": loss, "dims": self.dims, "reduction": self.reduction, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Nested:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})
