"""The index as Python callers have it: opened, and searched with the model that made it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vse_tf.artifacts import index as files
from vse_tf.indexing.embedding_models import RunModel, model_of_index
from vse_tf.indexing.search import ExactSearch, Hit, check_model, hits

if TYPE_CHECKING:
    from vse_tf.indexing.embedding import EmbeddingModel
    from vse_tf.preprocessing.image_inputs import ImageInput


class Index(files.Index):
    """An index of images or captions that can be searched.

    Args:
        folder: the folder.
        manifest: the contents of its manifest.json.
        root: the image folder, if the user names it (default: the one that the manifest names).

    Example:
        index = vse_tf.Index.open("photos.index")
        for hit in index.search("two dogs in the snow", k=2):
            print(hit.score, hit.path)  # 0.412 /home/ann/photos/beach/0001.jpg
        similar = index.search(image="beach.jpg", k=1)[0].path
    """

    def search(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
        k: int = 10,
        run: str | Path | None = None,
        models: str | Path | None = None,
    ) -> list[Hit]:
        """Find the items that are most similar to a text or an image.

        Args:
            text: the text, or
            image: the image: a path, the bytes of an image file, a PIL image or a uint8 array `(h, w, 3)`; of a
                model that `models` names, a path.
            k: maximum number of hits.
            run: run folder of the model (default: the run that made the index).
            models: folder of exported models, instead of a run.

        Returns:
            Hits, the best first, each with `score`, and `path` (of an image) or `caption`.

        Raises:
            TypeError: neither a text nor an image, or both.
            ValueError: `k` below 1, or an image that cannot be decoded.
            UserError: there is no such model, or it is not the one that made the index.
        """
        if (text is None) == (image is None):
            raise TypeError("give either a text or an image to search for")
        if text is not None and not isinstance(text, str):
            raise TypeError(f"the text is of the type {type(text).__name__}; an image is given as image=…")
        if k < 1:
            raise ValueError(f"k is {k}; give 1 or more")
        model = self._model(None if run is None else str(run), None if models is None else str(models))
        query = model.encode_texts([text]) if text is not None else _encode_image(model, image)
        rows, scores = self._exact(query, k)
        return hits(self, rows[0], scores[0])

    def _model(self, run: str | None, models: str | None) -> EmbeddingModel:
        """The model, loaded once."""
        if (run, models) not in self._models:
            model = model_of_index(self, run, models)
            check_model(self, model.identity)
            self._models[run, models] = model
        return self._models[run, models]

    @cached_property
    def _models(self) -> dict[tuple[str | None, str | None], EmbeddingModel]:
        return {}

    @cached_property
    def _exact(self) -> ExactSearch:
        return ExactSearch(self)


def _encode_image(model: EmbeddingModel, image: Any) -> np.ndarray:
    from vse_tf.preprocessing.image_inputs import is_path, raise_unreadable  # noqa: PLC0415

    if isinstance(model, RunModel):
        vectors = model.embedder.encode_images(image)
        if vectors.ndim != 1:
            raise TypeError("give one image to search for, not several")
        return vectors[np.newaxis]
    if not is_path(image):
        raise TypeError(f"the image is of the type {type(image).__name__}; exported models take the path of a file")
    vectors, _, problems = model.encode_files([str(image)], "skip")
    for problem in problems:
        raise_unreadable(problem.where, problem.what)
    return vectors
