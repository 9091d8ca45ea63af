"""vse_tf: visual-semantic embeddings on Keras 3 and TensorFlow.

Importing this package loads no TensorFlow; `load` does when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from vse_tf.embedder import Embedder

__version__ = "0.1.0"


def load(run: str | Path, checkpoint: str = "best") -> Embedder:
    """Load a trained run for use.

    Args:
        run: the run folder.
        checkpoint: `best` (by validation rsum) or `last`.

    Returns:
        The model with `encode_images`, `encode_texts`, `image_tower` and `text_tower`.

    Raises:
        UserError: the folder holds no run, or no checkpoint yet.

    Example:
        >>> model = vse_tf.load("runs/shapes-convse-0")
        >>> scores = model.encode_texts(["a red circle left of a blue star"]) @ model.encode_images(["photo.jpg"]).T
    """
    from vse_tf.embedder import load as load_embedder  # noqa: PLC0415

    return load_embedder(run, checkpoint)
