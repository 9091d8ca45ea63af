"""The retrieval model of a run and a gallery, with what its answers should be."""

from __future__ import annotations

import numpy as np

from vse_tf.embedder import Embedder
from vse_tf.exporting import probes
from vse_tf.exporting.gallery import Gallery
from vse_tf.exporting.retrieval_module import RetrievalModule
from vse_tf.exporting.served_model import Arrays, Probe, ServedModel
from vse_tf.exporting.storage import Storage, recall_loss, store
from vse_tf.exporting.towers import encoded, image_facts, image_module, strings, text_facts, text_module

RETRIEVAL = "retrieval"


def retrieval_model(
    embedder: Embedder, gallery: Gallery, top_k: int, storage: Storage, queries: np.ndarray | None = None
) -> ServedModel:
    """Towers and gallery as one model.

    Args:
        embedder: the run.
        gallery: the gallery.
        top_k: how many items are answered, or all where the gallery has fewer.
        storage: how the gallery's vectors are stored.
        queries: vectors to measure the storage's recall loss with (default: the gallery's own).
    """
    k = min(top_k, len(gallery))
    stored = store(gallery.vectors, storage)
    module = RetrievalModule(image_module(embedder), text_module(embedder), stored, gallery.ids, gallery.captions, k)
    restored = stored.restored()
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(gallery.ids):
        rows.setdefault(name, []).append(row)

    def probe(signature: str, inputs: Arrays, query: np.ndarray) -> Probe:
        exact = query @ restored.T

        def difference(answer: Arrays) -> float:
            # The scores are the largest there are, and each is that of its item; equal ones may stand in any order.
            apart = [np.abs(answer["scores"] + np.sort(-exact, axis=1)[:, :k]).max()]
            for line, names, scores in zip(exact, answer["ids"], answer["scores"], strict=True):
                apart += [np.abs(line[rows[n.decode()]] - score).min() for n, score in zip(names, scores, strict=True)]
            return float(np.max(apart))

        return Probe(signature, inputs, difference)

    text = embedder.encode_texts(probes.SENTENCES)
    tests = [probe(name, {"text": strings(probes.SENTENCES)}, text) for name in ("serving_default", "search_text")]
    if embedder.view.size is not None:
        files = probes.pictures(embedder.view.max_pixels)
        tests.append(probe("search_image", {"image_bytes": strings(files)}, encoded(embedder, files)))
    else:
        features = probes.vectors(3, *(side or 4 for side in embedder.image_tower.input_shape[1:]))
        tests.append(probe("search_features", {"features": features}, embedder.encode_images(list(features))))
    facts = {
        "image": image_facts(embedder.view),
        "text": text_facts(embedder),
        "gallery": {**gallery.facts, "top_k": k, "storage": storage, "bytes": stored.size},
    }
    if storage != "float32":
        facts["gallery"]["recall_loss"] = recall_loss(gallery.vectors, stored, k, queries)
    return ServedModel(RETRIEVAL, module, module.signatures(), tuple(tests), facts)
