"""The relevance in the graph against that of an index."""

import numpy as np
import pytest
import tensorflow as tf

from tests.exporting.test_retrieval_module import USES, Files, mixed, query_of, with_uses
from vse_tf.artifacts.calibration import STEPS
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.artifacts.storage import store
from vse_tf.exporting.retrieval_module import RetrievalModule
from vse_tf.exporting.served_relevance import ServedRelevance
from vse_tf.indexing.relevance import calibrate, relevance
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import EXTRA, fold

COUNT = 60


class Texts(Files):
    """Texts that begin with a 9 have no known word."""

    def known(self, text):
        return ~tf.strings.regex_full_match(text, "9.*")


def vectors(rows, seed, modality, corrected):
    dim = 6 - EXTRA if corrected else 6
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, dim)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    return fold(values, rng.uniform(0, 0.5, rows).astype(np.float32), modality) if corrected else values


def make(folder, kind, corrected):
    """An index, and the retrieval model of its gallery and its calibration."""
    gallery = vectors(COUNT, 0, kind[:-1], corrected)
    dim = 2 if corrected else 6
    texts = vectors(50, 1, "caption", corrected) if kind == "images" else None
    calibration = calibrate(lambda: [gallery], COUNT, kind, dim, texts)
    writer = IndexWriter(folder, kind, 6, dim)
    ids = [str(row) for row in range(COUNT)]
    items = [Item(name, **({"path": name} if kind == "images" else {"caption": name})) for name in ids]
    index = writer.commit([writer.write(gallery)], items, {}, root=folder, calibration=calibration)
    served = ServedRelevance(calibration.levels)
    plain_of = (kind, dim) if corrected else None
    return index, RetrievalModule(Files(), Texts(), store(gallery, "float32"), ids, ids, 10, plain_of, served)


@pytest.mark.parametrize("corrected", [False, True])
def test_it_is_the_relevance_of_the_index(tmp_path, corrected):
    index, module = make(tmp_path, "images", corrected)
    texts, photos, excluded = (
        vectors(4, seed, of, corrected) for seed, of in ((2, "caption"), (3, "image"), (4, "caption"))
    )
    rows = [row for use in USES for row in with_uses(use, texts, photos, excluded)]
    answer = mixed(module, rows)
    for number, row in enumerate(rows):
        query = query_of(row, "images", index.plain_dim)
        found, scores = ExactSearch(index)(query.vector[None], 10)
        expected = relevance(index.calibration, query, scores[0])
        assert [int(name) for name in answer["ids"][number].numpy()] == found[0].tolist()
        np.testing.assert_allclose(answer["relevance"][number], expected, atol=1e-3)
    assert np.ptp(answer["relevance"]) > 0.5


def test_a_text_of_unknown_words_is_not_relevant(tmp_path):
    _, module = make(tmp_path, "images", corrected=False)
    unknown, known, photo = (
        np.float32([9, 0, 0, 0, 0, 0]),
        np.float32([1, 0, 0, 0, 0, 0]),
        vectors(1, 3, "image", False)[0],
    )
    rows = [(unknown, None, None), (unknown, None, known), (unknown, photo, None), (None, photo, None)]
    answer = mixed(module, rows)["relevance"].numpy()
    assert (answer == 0).all(axis=1).tolist() == [True, True, False, False]
    texts = tf.constant(["9 0 0 0 0 0", "1 0 0 0 0 0"])
    assert (module.signatures()["search_text"](text=texts)["relevance"].numpy() == 0).all(axis=1).tolist() == [
        True,
        False,
    ]


def test_what_was_not_measured_has_none(tmp_path):
    _, module = make(tmp_path, "captions", corrected=False)
    outputs = {name: set(function.structured_outputs) for name, function in module.signatures().items()}
    known = {name for name, keys in outputs.items() if "relevance" in keys}
    assert known == {"serving_default", "search_text"}
    answer = module.signatures()["search_text"](text=tf.constant(["1 0 0 0 0 0"]))
    assert answer["relevance"].shape == (1, 10)


@pytest.mark.parametrize("levels", [np.linspace(0, 1, STEPS) ** 2, np.repeat([0.1, 0.4, 0.9], [1, 90, 10])])
def test_shares_are_those_of_numpy(levels):
    module = ServedRelevance({"images": list(map(float, levels))})
    values = np.float32([[-1, 0, 0.1, 0.25, 0.4, 0.41, 0.89, 0.9, 1, 2]])
    found = module(tf.constant(values), {"images": np.ones([1, 1], bool)}, None)
    expected = np.interp(values.astype(np.float64), levels, np.linspace(0, 1, STEPS))
    np.testing.assert_allclose(found, expected, atol=1e-6)
