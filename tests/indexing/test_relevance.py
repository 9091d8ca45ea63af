"""The relevance of hits against its definition, item by item in float64."""

import numpy as np
import pytest

from vse_tf.artifacts.calibration import STEPS
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing import relevance
from vse_tf.indexing.relevance import NEAREST, Relevance, calibrate
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.mixing import Part, Query, mix

DIM = 12


def unit(rows, seed):
    values = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def index_of(folder, vectors, texts, kind="images"):
    writer = IndexWriter(folder, kind, DIM)
    parts = [vectors[:7], vectors[7:]]
    calibration = calibrate(lambda: parts, len(vectors), kind, DIM, texts)
    items = [Item(str(row), **{"path" if kind == "images" else "caption": str(row)}) for row in range(len(vectors))]
    return writer.commit([writer.write(part) for part in parts], items, {}, root=folder, calibration=calibration)


def oracle(vectors, background, query, rows):
    """Normalised scores of the background queries with their second-best items, and of the query's hits."""

    def normalised(one, row):
        nearest = sorted(float(vectors[row].astype(float) @ each) for each in background.astype(float))[-NEAREST:]
        return float(vectors[row].astype(float) @ one) - sum(nearest) / len(nearest)

    second = [normalised(one, np.argsort(-(vectors @ one))[1]) for one in background]
    return np.array(second), np.array([normalised(query, row) for row in rows])


@pytest.mark.parametrize("of", ["captions", "images"])
def test_relevance_is_the_share_of_queries_that_find_worse(tmp_path, of):
    vectors, texts = unit(60, 0), unit(50, 1)
    index = index_of(tmp_path, vectors, texts)
    for query in unit(5, 2):
        rows, scores = ExactSearch(index)(query[None], 60)
        found = Relevance(index)(Query(query, of), rows[0], scores[0])
        second, hits = oracle(vectors, texts if of == "captions" else vectors, query, rows[0])
        share = (second[None] < hits[:, None]).mean(axis=1)
        # Levels are interpolated between 101 quantiles.
        np.testing.assert_allclose(found, share, atol=1 / len(second) + 1 / STEPS)
        assert found.dtype == np.float32


def test_a_query_that_resembles_nothing_has_no_relevance(tmp_path):
    centre = np.eye(DIM, dtype=np.float32)[0]
    near = unit(60, 0) * 0.3 + centre
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    index = index_of(tmp_path, vectors, vectors[:50])
    for query, expected in ((-centre, 0), (vectors[3], 1)):
        rows, scores = ExactSearch(index)(query[None], 1)
        assert Relevance(index)(Query(query, "captions"), rows[0], scores[0])[0] == pytest.approx(expected, abs=0.15)


def test_a_query_without_a_known_word_is_not_relevant(tmp_path):
    index = index_of(tmp_path, unit(60, 0), unit(50, 1))
    text, image = unit(2, 2)
    unknown, photo = Part(text, "captions", known=False), Part(image, "images")
    without = Part(text, "captions", -0.5)
    for parts, zero in (([unknown], True), ([unknown, without], True), ([unknown, photo], False), ([photo], False)):
        query = mix(parts, "images", DIM)
        rows, scores = ExactSearch(index)(query.vector[None], 3)
        assert (Relevance(index)(query, rows[0], scores[0]) == 0).all() == zero


def test_many_queries_have_each_what_it_has_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(relevance, "BATCH", 4)
    index = index_of(tmp_path, unit(60, 0), unit(50, 1))
    kinds = ("captions", "images", "mixed")
    queries = [Query(each, kinds[n % 3], known=n != 5) for n, each in enumerate(unit(11, 2))]
    rows, scores = ExactSearch(index)(np.stack([query.vector for query in queries]), 7)
    found = Relevance(index).of_all(queries, rows, scores)
    for query, *each, together in zip(queries, rows, scores, found, strict=True):
        np.testing.assert_allclose(together, Relevance(index)(query, *each), atol=1e-4)
    assert (found[5] == 0).all() and found[4].any()


def test_what_was_not_measured_has_none(tmp_path):
    index = index_of(tmp_path / "captions", unit(20, 0), None, "captions")
    rows, scores = ExactSearch(index)(unit(1, 1), 3)
    assert Relevance(index)(Query(unit(1, 1)[0], "images"), rows[0], scores[0]) is None
    assert Relevance(index)(Query(unit(1, 1)[0], "captions"), rows[0], scores[0]).shape == (3,)
    writer = IndexWriter(tmp_path / "old", "images", DIM)
    old = writer.commit([writer.write(unit(1, 0))], [Item("a", path="a")], {})
    assert Relevance(old)(Query(unit(1, 1)[0], "captions"), np.array([0]), np.float32([0.5])) is None


def test_one_item_can_be_calibrated(tmp_path):
    calibration = calibrate(lambda: [unit(1, 0)], 1, "images", DIM, unit(3, 1))
    assert set(calibration.levels) == {"images", "captions", "mixed"}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"levels": {', '"levels": {"other": [],', 1),
        lambda text: text.replace('"background-', '"../background-', 1),
        lambda text: text.replace('"levels"', '"steps"', 1),
    ],
)
def test_a_damaged_calibration_is_refused(tmp_path, change):
    index_of(tmp_path, unit(20, 0), unit(10, 1))
    manifest = tmp_path / "manifest.json"
    before = manifest.read_text()
    manifest.write_text(change(before))
    assert manifest.read_text() != before
    with pytest.raises(UserError, match=r"manifest.json"):
        Index.open(tmp_path)


def test_a_changed_background_is_noticed(tmp_path):
    index = index_of(tmp_path, unit(20, 0), unit(10, 1))
    path = tmp_path / index.background.name
    contents = bytearray(path.read_bytes())
    contents[-1] ^= 1
    path.write_bytes(contents)
    with pytest.raises(UserError, match="damaged"):
        Index.open(tmp_path).verify()
