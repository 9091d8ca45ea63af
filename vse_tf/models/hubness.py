"""The hubness of an item, and the layer that corrects a tower's vectors for it.

Hubs are items that are near to everything. The hubness of an image is the mean similarity to its `NEAREST` nearest
*training captions*, that of a caption the mean similarity to its nearest *training images*: the bank. Half of it is
subtracted from every score of the item, folded into its vector (`vse_tf.models.folding`). The bank itself is part of
the model: a small network that predicts the hubness from the vector reached less than half of the gain.

Corrected scores are no cosines: they compare items with each other, but one of 0 does not mean "unrelated", and their
largest value is not 1.

Sources: nearest neighbour normalization (NNN, Chowdhury et al., EMNLP 2024, arXiv 2410.24114) and QB-Norm (Bogolin et
al., CVPR 2022, arXiv 2112.12777). NNN subtracts a bias from the gallery's items alone; here both items of a pair have
theirs, so that one vector serves both directions.
"""

from __future__ import annotations

from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from vse_tf.models.folding import EXTRA, Modality, fold
from vse_tf.models.layer_types import LayerOptions, Shape

NEAREST = 20
"""Neighbours in the bank whose mean similarity is the hubness; between 10 and 20 the recalls hardly differ."""


@keras.saving.register_keras_serializable(package="vse_tf")
class HubnessCorrection(keras.layers.Layer):
    """Appends the hubness correction to unit vectors.

    Args:
        modality: `image` or `caption`, what the vectors are of.
        rows: number of vectors in the bank.

    Call arguments:
        inputs: float32 `(batch, dim)`, unit rows.

    Call returns:
        float32 `(batch, dim + 4)`, unit rows. The dot product of an image's and a caption's is 4/9 of the corrected
        score.

    Example:
        >>> corrections(of_images=caption_vectors, of_captions=image_vectors)["image"](vectors).shape
        (32, 132)
    """

    def __init__(self, modality: Modality, rows: int, **kwargs: Unpack[LayerOptions]) -> None:
        super().__init__(**{"trainable": False, **kwargs, "dtype": "float32"})
        self.modality = modality
        self.rows = rows

    def build(self, input_shape: Shape) -> None:
        # Vectors as columns: transposed in the product, they take five times as long for eight inputs.
        self.bank = self.add_weight(shape=(input_shape[-1], self.rows), initializer="zeros", name="bank")
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return fold(inputs, self.hubness(inputs), self.modality, keras.ops)

    def hubness(self, vectors: tf.Tensor) -> tf.Tensor:
        """Mean similarity of each vector `(batch, dim)` to its nearest ones of the bank, `(batch,)`."""
        similarities = keras.ops.matmul(vectors, self.bank)
        return keras.ops.mean(keras.ops.top_k(similarities, min(NEAREST, self.rows))[0], axis=1)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (*input_shape[:-1], self.bank.shape[0] + EXTRA)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "modality": self.modality, "rows": self.rows}


def corrections(of_images: np.ndarray, of_captions: np.ndarray) -> dict[Modality, HubnessCorrection]:
    """The layers that correct both modalities.

    Args:
        of_images: the bank of images, float32 `(m, dim)`: training captions.
        of_captions: the bank of captions, float32 `(n, dim)`: training images.
    """
    banks: dict[Modality, np.ndarray] = {"image": of_images, "caption": of_captions}
    layers: dict[Modality, HubnessCorrection] = {}
    for modality, vectors in banks.items():
        layers[modality] = HubnessCorrection(modality, len(vectors), name=f"{modality}_hubness")
        layers[modality].build((None, vectors.shape[1]))
        layers[modality].bank.assign(vectors.T)
    return layers
