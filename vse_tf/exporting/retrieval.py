"""The retrieval model of a run and a gallery, with its golden requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vse_tf.artifacts.background import background_texts
from vse_tf.artifacts.storage import Storage, store
from vse_tf.embedder import Embedder
from vse_tf.exporting import golden_inputs
from vse_tf.exporting.exported_model import Arrays, ExportedModel, GoldenRequest
from vse_tf.exporting.gallery import Gallery
from vse_tf.exporting.image_module import ImageModule
from vse_tf.exporting.retrieval_module import RetrievalModule
from vse_tf.exporting.served_relevance import ServedRelevance
from vse_tf.exporting.storage import recall_loss
from vse_tf.exporting.text_module import TextModule
from vse_tf.exporting.towers import encoded, image_facts, strings, text_facts
from vse_tf.indexing.relevance import calibrate
from vse_tf.models.folding import search_queries
from vse_tf.models.mixing import Of, Part, mix

RETRIEVAL = "retrieval"


def retrieval_model(
    embedder: Embedder,
    image: ImageModule,
    text: TextModule,
    gallery: Gallery,
    top_k: int,
    storage: Storage,
    queries: np.ndarray | None = None,
) -> ExportedModel:
    """Towers and gallery as one model.

    Args:
        embedder: the run.
        image: its image tower.
        text: its text tower.
        gallery: the gallery.
        top_k: number of items in an answer; a smaller gallery answers with all.
        storage: how the gallery's vectors are stored.
        queries: vectors to measure the storage's recall loss with (default: the gallery's own).
    """
    k = min(top_k, len(gallery))
    kind, dim = gallery.facts["kind"], embedder.plain_dim
    stored = store(gallery.vectors, storage, dim)
    calibration = gallery.calibration
    if calibration is None:
        source = {} if embedder.run is None else {"kind": "run", "path": str(embedder.run)}
        texts = embedder.encode_texts(background_texts(source)) if kind == "images" else None
        calibration = calibrate(lambda: [gallery.vectors], len(gallery), kind, dim, texts)
    module = RetrievalModule(
        image,
        text,
        stored,
        gallery.ids,
        gallery.captions,
        k,
        (kind, dim) if embedder.corrections else None,
        ServedRelevance(calibration.levels),
    )
    restored = stored.restored()
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(gallery.ids):
        rows.setdefault(name, []).append(row)

    def golden(signature: str, inputs: Arrays, query: np.ndarray) -> GoldenRequest:
        exact = search_queries(query, kind, dim) @ restored.T

        def difference(answer: Arrays) -> float:
            # The scores are the largest ones, and each is that of its item; items of equal score may be in any order.
            differences = [np.abs(answer["scores"] + np.sort(-exact, axis=1)[:, :k]).max()]
            for line, names, scores in zip(exact, answer["ids"], answer["scores"], strict=True):
                differences += [
                    np.abs(line[rows[n.decode()]] - score).min() for n, score in zip(names, scores, strict=True)
                ]
            if "relevance" in answer:
                differences.append(float(not ((answer["relevance"] >= 0) & (answer["relevance"] <= 1)).all()))
            return float(np.max(differences))

        return GoldenRequest(signature, inputs, difference)

    texts = embedder.encode_texts(golden_inputs.TEXTS)
    requests = [
        golden(name, {"text": strings(golden_inputs.TEXTS)}, texts) for name in ("serving_default", "search_text")
    ]
    if embedder.view.size is not None:
        files = golden_inputs.image_files(embedder.view.max_pixels)
        pictures = encoded(embedder, files)
        requests.append(golden("search_image", {"image_bytes": strings(files)}, pictures))
        inputs, query = _mixed(list(golden_inputs.TEXTS), texts, files, pictures, kind, dim)
        requests.append(golden("search_mixed", inputs, query))
    else:
        features = golden_inputs.features(3, *embedder.image_tower.input_shape[1:])
        requests.append(golden("search_features", {"features": features}, embedder.encode_images(list(features))))
    facts = {
        "image": image_facts(embedder.view),
        "text": text_facts(embedder),
        "gallery": {**gallery.facts, "top_k": k, "storage": storage, "bytes": stored.size},
    }
    if storage != "float32":
        queries = None if queries is None else search_queries(queries, kind, dim)
        facts["gallery"]["recall_loss"] = recall_loss(gallery.vectors, stored, k, queries)
    return ExportedModel(RETRIEVAL, module, module.signatures(), tuple(requests), facts)


def _mixed(
    texts: Sequence[str], of_texts: np.ndarray, files: Sequence[bytes], of_files: np.ndarray, kind: str, dim: int
) -> tuple[Arrays, np.ndarray]:
    """Inputs of `search_mixed` of every combination of parts, and the queries that they make."""
    columns: dict[str, list[str | bytes]] = {"text": [], "image_bytes": [], "without": []}
    queries = []
    for has_text, has_image, has_without in ((1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0)):
        parts = []
        of: Of
        for name, given, of, weight, (value, vector) in (
            ("text", has_text, "captions", 1, (texts[0], of_texts[0])),
            ("image_bytes", has_image, "images", 1, (files[0], of_files[0])),
            ("without", has_without, "captions", -1, (texts[3], of_texts[3])),
        ):
            columns[name].append(value if given else "")
            if given:
                parts.append(Part(vector, of, weight))
        queries.append(mix(parts, kind, dim).vector)
    return {name: strings(values) for name, values in columns.items()}, np.stack(queries)
