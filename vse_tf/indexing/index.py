"""The index as Python callers have it: opened, and searched with the model that made it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vse_tf.addresses import allow, is_address
from vse_tf.artifacts import index as files
from vse_tf.indexing.compact_search import default_search
from vse_tf.indexing.embedding_models import UNKNOWN, RunModel, model_of_index, unknown_texts
from vse_tf.indexing.relevance import relevance
from vse_tf.indexing.search import Hit, Search, check_model, hits
from vse_tf.models.mixing import Part, mix

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
            print(hit.relevance, hit.path)  # 0.97 /home/ann/photos/beach/0001.jpg
        similar = index.search(image="beach.jpg", k=1)[0].path
        mixed = index.search("at night", image="beach.jpg", without="people", weights={"image": 0.5})
    """

    @classmethod
    def open(cls, folder: str | Path, root: str | Path | None = None) -> Index:
        """Open an index; see `vse_tf.artifacts.index.Index`.

        Args:
            folder: the folder, or its address in a bucket.
            root: see the class.

        Raises:
            UserError: there is no index, or a file is missing, truncated or another one.
        """
        opened = super().open(allow(folder) if is_address(folder) else folder, root)
        assert isinstance(opened, Index)
        return opened

    def search(
        self,
        text: str | None = None,
        *,
        image: ImageInput | None = None,
        without: str | None = None,
        weights: Mapping[str, float] | None = None,
        k: int = 10,
        run: str | Path | None = None,
        models: str | Path | None = None,
    ) -> list[Hit]:
        """Find the items that are most similar to a text, an image, or both together; see `vse_tf.models.mixing`.

        Args:
            text: the text.
            image: the image: a path, the bytes of an image file, a PIL image or a uint8 array `(h, w, 3)`; of a
                model that `models` names, a path.
            without: a text for what is not looked for.
            weights: of `text`, `image` and `without`, each above 0 (default: 1).
            k: maximum number of hits.
            run: run folder of the model (default: the run that made the index).
            models: folder of exported models, instead of a run.

        Returns:
            Hits, the best first, each with `score`, `relevance`, and `path` (of an image) or `caption`. A relevance
            below `vse_tf.indexing.relevance.MIN_RELEVANCE` (0.15) means that the item is not a relevant result.

        Raises:
            TypeError: neither a text nor an image.
            ValueError: `k` below 1, a wrong weight, an image that cannot be decoded, or `without` leaves nothing.
            UserError: there is no such model, or it is not the one that made the index.
        """
        if text is None and image is None:
            raise TypeError("give a text, an image or both to search for")
        for name, value in (("text", text), ("without", without)):
            if not isinstance(value, str | None):
                raise TypeError(f"{name} is of the type {type(value).__name__}; an image is given as image=…")
        given = _checked_weights(weights)
        if k < 1:
            raise ValueError(f"k is {k}; give 1 or more")
        model = self._model(None if run is None else str(run), None if models is None else str(models))
        texts = {name: value for name, value in (("text", text), ("without", without)) if value is not None}
        vectors = model.encode_texts(list(texts.values())) if texts else np.zeros([0, self.model_dim], np.float32)
        unknown = unknown_texts(model, list(texts.values()), vectors) if texts else []
        for each in unknown:
            warnings.warn(UNKNOWN.format(each), stacklevel=2)
        parts = [
            Part(vector, "captions", given[name], texts[name] not in unknown)
            for name, vector in zip(texts, self.fitted(vectors), strict=True)
        ]
        if image is not None:
            parts.append(Part(self.fitted(_encode_image(model, image))[0], "images", given["image"]))
        query = mix(parts, self.kind, self.plain_dim)
        rows, scores = self._search(query.vector[np.newaxis], k)
        return hits(self, rows[0], scores[0], relevance(self.calibration, query, scores[0]))

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
    def _search(self) -> Search:
        return default_search(self)


def _checked_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """The weight of each part, that of what is excluded below 0."""
    given = {"text": 1.0, "image": 1.0, "without": 1.0}
    for name, weight in (weights or {}).items():
        if name not in given:
            raise ValueError(f"weights has the key {name!r}; it takes {', '.join(given)}")
        if not 0 < weight < np.inf:
            raise ValueError(f"the weight of {name} is {weight}; give a number above 0")
        given[name] = float(weight)
    return {**given, "without": -given["without"]}


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
