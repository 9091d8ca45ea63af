"""Towers and gallery as a module for export: from a text or an image to the nearest items."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts.storage import Stored
from vse_tf.exporting.image_module import BYTES, ImageModule
from vse_tf.exporting.served_relevance import ServedRelevance
from vse_tf.exporting.signature import Signatures, checked, signature
from vse_tf.exporting.slices import SLICE_SIZE, in_slices
from vse_tf.exporting.text_module import TextModule
from vse_tf.models.folding import SCALE, Modality, own_modality_queries
from vse_tf.models.mixing import LEAST, Of, without_hubness

# Components of the gallery that are compared at a time: 32 MiB as float32.
BLOCK = 2**23
# Limit for the items in the answer to all queries of a request; each has its name and its caption.
MAX_ITEMS = 2**20
# All queries are of a kind.
ALL = np.ones([1, 1], bool)
# Decoded where a query has no image: one pixel.
NO_IMAGE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
)


class RetrievalModule(tf.Module):
    """Exact search in a gallery of vectors by dot products, with the towers that embed the query.

    The gallery is compared block by block, so neither a float16 or int8 gallery as float32 nor the scores of all items
    have to fit into memory. Items of equal score are in the gallery's order. Vectors, names and captions are variables,
    because constants of a graph are limited to 2 GB.

    Args:
        image: the image tower.
        text: the text tower.
        stored: the gallery's vectors.
        ids: the name of each item.
        captions: the caption or path of each item.
        k: number of items in an answer; at most the gallery's size.
        plain_of: where vectors have a hubness correction, the gallery's kind (`images` or `captions`) and the
            dimensions of the plain space; queries of that kind are compared in it.
        relevance: gives the relevance of hits; None: answers have none.

    Example:
        >>> module = RetrievalModule(image, text, store(vectors, "float32"), ids, captions, k=10)
        >>> module.signatures()["search_text"](text=tf.constant(["a dog"]))["ids"].shape
        TensorShape([1, 10])
    """

    def __init__(
        self,
        image: ImageModule,
        text: TextModule,
        stored: Stored,
        ids: Sequence[str],
        captions: Sequence[str],
        k: int,
        plain_of: tuple[str, int] | None = None,
        relevance: ServedRelevance | None = None,
    ) -> None:
        super().__init__(name="retrieval_module")
        if not 1 <= k <= len(ids):
            raise ValueError(f"k is {k}; the gallery has {len(ids)} items")
        self.image = image
        self.text = text
        self.k = k
        self.relevance = relevance
        self._plain_kind, self._plain_dim = plain_of or ("", 0)
        self.candidates = tf.Variable(stored.values, trainable=False, name="candidates")
        self.scales = None if stored.scales is None else tf.Variable(stored.scales, trainable=False, name="scales")
        self.exact = None if stored.exact is None else tf.Variable(stored.exact, trainable=False, name="exact")
        self.ids = tf.Variable(_strings(ids), trainable=False, name="ids")
        self.captions = tf.Variable(_strings(captions), trainable=False, name="captions")

    def signatures(self) -> Signatures:
        """The functions to export: `search_text`, also as `serving_default`, and one for images or features."""
        by_text = signature(self.search_text, text=tf.TensorSpec([None], tf.string))
        found = {"serving_default": by_text, "search_text": by_text}
        if self.image.view.size is not None:
            found["search_image"] = signature(self.search_image, image_bytes=BYTES)
            strings = tf.TensorSpec([None], tf.string)
            found["search_mixed"] = signature(self.search_mixed, text=strings, image_bytes=BYTES, without=strings)
        else:
            spec = self.image.signatures()["features"].structured_input_signature[1]["features"]
            found["search_features"] = signature(self.search_features, features=spec)
        return found

    def search_text(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to texts `(n,)`."""
        known = None if self.relevance is None else self.text.known(text)
        return self.search(self._query(self.text.of_text(text), "captions"), {"captions": ALL}, known)

    def search_image(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to the images in image files `(n,)`."""
        return self.search(self._query(self.image.of_bytes(image_bytes), "images"), {"images": ALL})

    def search_features(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to images given by their features."""
        return self.search(self._query(self.image.of_features(features), "images"), {"images": ALL})

    def search_mixed(self, text: tf.Tensor, image_bytes: tf.Tensor, without: tf.Tensor) -> dict[str, tf.Tensor]:
        """The items nearest to texts and images together, less what is excluded; see `vse_tf.models.mixing`.

        Args:
            text: texts `(n,)`; empty: none.
            image_bytes: image files `(n,)`; empty: none.
            without: texts `(n,)` for what is not looked for; empty: none.
        """
        counts = [tf.shape(each)[0] for each in (text, image_bytes, without)]
        problem = ["text, image_bytes and without have different lengths: ", *_joined(counts)]
        text = checked(text, (counts[0] == counts[1]) & (counts[0] == counts[2]), *problem)
        of_text, of_image, of_without = text != "", image_bytes != "", without != ""
        text = checked(text, tf.reduce_all(of_text | of_image), "a query has neither text nor image_bytes")
        files = tf.where(of_image, image_bytes, tf.constant(NO_IMAGE))
        words, pictures, excluded = self.text.of_text(text), self.image.of_bytes(files), self.text.of_text(without)
        parts = tf.stack([words, pictures, excluded], 1)
        signs = tf.stack(
            [tf.cast(of_text, tf.float32), tf.cast(of_image, tf.float32), -tf.cast(of_without, tf.float32)], 1
        )
        total = tf.einsum("np,npd->nd", signs, parts)
        dim = self._plain_dim
        width = parts.shape[-1]
        unit = total if not dim else total[:, :dim] / SCALE
        length = tf.linalg.norm(unit, axis=1, keepdims=True)
        number = tf.reduce_sum(tf.abs(signs), 1, keepdims=True)
        unit = checked(
            unit, tf.reduce_all(length > LEAST * number), "nothing is left of a query: without excludes it all"
        )
        unit /= length
        if dim:
            own = tf.expand_dims(~of_image if self._plain_kind == "captions" else of_image & ~of_text & ~of_without, 1)
            other: Modality = "caption" if self._plain_kind == "images" else "image"
            as_own = own_modality_queries(tf.concat([SCALE * unit, tf.zeros_like(total[:, dim:])], 1), dim, keras.ops)
            mixed = tf.where(own, as_own, without_hubness(unit, other, keras.ops))
            # A single part is that part, with its hubness.
            alone = tf.where(own, as_own, total)
            unit = tf.where(number == 1, alone, mixed)
        of: dict[Of, tf.Tensor] = {
            "images": of_image & ~of_text & ~of_without,
            "captions": ~of_image & ~of_without,
            "texts": ~of_image & of_without,
            "mixed": of_image & (of_text | of_without),
        }
        of = {kind: is_kind[:, None] for kind, is_kind in of.items()}
        known = None if self.relevance is None else of_image | self.text.known(text)
        return self.search(tf.ensure_shape(unit, [None, width]), of, known)

    def _query(self, vectors: tf.Tensor, kind: str) -> tf.Tensor:
        return own_modality_queries(vectors, self._plain_dim, keras.ops) if kind == self._plain_kind else vectors

    def search(
        self, query: tf.Tensor, of: Mapping[Of, tf.Tensor] | None = None, known: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """The items nearest to query vectors.

        Args:
            query: float32 `(n, dim)`; more than `MAX_ITEMS` items in all are an error.
            of: what each query may be of, and whether it is, see `ServedRelevance`.
            known: whether it has a word of the vocabulary, bool `(n,)`.

        Returns:
            ids, scores, captions and, where the gallery is calibrated for such queries, relevance, each `(n, k)`, best
            first.
        """
        count = tf.shape(query)[0]
        most = max(1, MAX_ITEMS // self.k)
        problem = [f"queries of {self.k} items each: ", tf.strings.as_string(count), f", at most {most} at a time"]
        query = checked(query, count <= most, *problem)
        scores, rows = in_slices(
            count,
            SLICE_SIZE,
            lambda start, end: self._nearest(query[start:end]),
            [tf.TensorSpec([self.k], tf.float32), tf.TensorSpec([self.k], tf.int32)],
        )
        answer = {"ids": tf.gather(self.ids, rows), "scores": scores, "captions": tf.gather(self.captions, rows)}
        relevance = None if self.relevance is None or of is None else self.relevance(scores, of, known)
        return answer if relevance is None else {**answer, "relevance": relevance}

    def _nearest(self, query: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size, dim = self.candidates.shape
        further = query[:, dim:]
        query = query[:, :dim]
        width = max(1, BLOCK // dim)
        count = tf.shape(query)[0]

        def step(start: tf.Tensor, scores: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            end = tf.minimum(start + width, size)
            block = tf.cast(self.candidates[start:end], tf.float32)
            part = tf.matmul(query, block, transpose_b=True)
            if self.scales is not None:
                part *= self.scales[start:end]
            if self.exact is not None:
                part += tf.matmul(further, self.exact[start:end], transpose_b=True)
            best = tf.math.top_k(part, tf.minimum(self.k, end - start))
            # Earlier items come first, and top_k prefers the first of equal scores.
            scores = tf.concat([scores, best.values], 1)
            rows = tf.concat([rows, best.indices + start], 1)
            best = tf.math.top_k(scores, tf.minimum(self.k, tf.shape(scores)[1]))
            return end, best.values, tf.gather(rows, best.indices, batch_dims=1)

        _, scores, rows = tf.while_loop(
            lambda start, *_: start < size,
            step,
            (tf.constant(0), tf.zeros([count, 0]), tf.zeros([count, 0], tf.int32)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])),
            parallel_iterations=1,
        )
        return tf.ensure_shape(scores, [None, self.k]), tf.ensure_shape(rows, [None, self.k])


def _joined(counts: Sequence[tf.Tensor]) -> list[str | tf.Tensor]:
    first, *others = (tf.strings.as_string(count) for count in counts)
    return [first, *(part for other in others for part in (", ", other))]


def _strings(values: Sequence[str]) -> tf.Tensor:
    return tf.constant(np.array([value.encode("utf-8", "replace") for value in values], object), tf.string)
