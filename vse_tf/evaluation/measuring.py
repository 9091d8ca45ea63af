"""From a split's embeddings to its recalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import evaluate
from vse_tf.evaluation.similarity import NonFiniteError

if TYPE_CHECKING:
    from vse_tf.embedder import EncodedSplit


def measure(encoded: EncodedSplit, folds: int = 1) -> dict[str, float]:
    """Recalls of an encoded split.

    Args:
        encoded: the embeddings.
        folds: the mean over so many equal parts of the gallery (5 for COCO 1K).

    Raises:
        UserError: an embedding is not finite; the message names the first bad row.
    """
    try:
        return evaluate(encoded.image, encoded.text, encoded.text_rows, folds)
    except NonFiniteError as error:
        raise UserError(f"{error}; the model has diverged: train with a lower --train.learning_rate") from None
