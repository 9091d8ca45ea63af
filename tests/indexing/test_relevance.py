"""The relevance of hits against its definition, item by item in float64."""

import numpy as np
import pytest

from vse_tf.artifacts.calibration import STEPS
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.relevance import calibrate, relevance
from vse_tf.indexing.search import ExactSearch
from vse_tf.models.folding import fold
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


def second_scores(vectors, background):
    """The scores of the background queries with their second-best items."""
    return np.array([np.sort(vectors.astype(float) @ one)[-2] for one in background.astype(float)])


@pytest.mark.parametrize("of", ["captions", "images", "texts", "mixed"])
def test_relevance_is_the_share_of_queries_that_find_worse(tmp_path, of):
    vectors, texts = unit(60, 0), unit(50, 1)
    index = index_of(tmp_path, vectors, texts)
    background = {
        "captions": texts,
        "images": vectors,
        "texts": [wanted - other for wanted, other in zip(texts, np.roll(texts, 25, axis=0), strict=True)],
        "mixed": [text + image for text, image in zip(texts, vectors[:50], strict=True)],
    }[of]
    second = second_scores(vectors, np.stack([each / np.linalg.norm(each) for each in background]))
    for query in unit(5, 2):
        _, scores = ExactSearch(index)(query[None], 60)
        found = relevance(index.calibration, Query(query, of), scores[0])
        share = (second[None] < scores[0][:, None]).mean(axis=1)
        # Levels are interpolated between 101 quantiles.
        np.testing.assert_allclose(found, share, atol=1 / len(second) + 1 / STEPS)
        assert found.dtype == np.float32 and (np.diff(found) <= 0).all()


def test_queries_of_several_texts_have_levels_of_their_own(tmp_path):
    """A difference of two texts is not as near to images as a text; corrected, it has no hubness and is nearer."""
    images, texts = (
        fold(unit(60, seed), np.full(60, 0.4, np.float32), of) for seed, of in ((0, "image"), (1, "caption"))
    )
    calibration = calibrate(lambda: [images], 60, "images", DIM, texts)
    fresh = fold(unit(60, 2), np.full(60, 0.4, np.float32), "caption")
    parts = [
        [Part(one, "captions"), Part(other, "captions", -1)] for one, other in zip(fresh, fresh[::-1], strict=True)
    ]
    queries = [mix(each, "images", DIM) for each in parts]
    best = [relevance(calibration, query, (images @ query.vector).max(keepdims=True))[0] for query in queries]
    assert {query.of for query in queries} == {"texts"}
    # Ordinary queries have all relevances alike; their best item is above the second-best of others.
    assert 0.4 < np.median(best) < 0.95
    assert min(calibration.levels["texts"]) > max(calibration.levels["captions"]) - 0.1


def test_a_query_that_resembles_nothing_has_no_relevance(tmp_path):
    centre = np.eye(DIM, dtype=np.float32)[0]
    near = unit(60, 0) * 0.3 + centre
    vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    index = index_of(tmp_path, vectors, vectors[:50])
    for query, expected in ((-centre, 0), (vectors[3], 1)):
        _, scores = ExactSearch(index)(query[None], 1)
        assert relevance(index.calibration, Query(query, "captions"), scores[0])[0] == pytest.approx(expected, abs=0.15)


def test_a_query_without_a_known_word_is_not_relevant(tmp_path):
    index = index_of(tmp_path, unit(60, 0), unit(50, 1))
    text, image = unit(2, 2)
    unknown, photo = Part(text, "captions", known=False), Part(image, "images")
    without = Part(text, "captions", -0.5)
    for parts, zero in (([unknown], True), ([unknown, without], True), ([unknown, photo], False), ([photo], False)):
        query = mix(parts, "images", DIM)
        _, scores = ExactSearch(index)(query.vector[None], 3)
        assert (relevance(index.calibration, query, scores[0]) == 0).all() == zero


def test_what_was_not_measured_has_none(tmp_path):
    index = index_of(tmp_path / "captions", unit(20, 0), None, "captions")
    _, scores = ExactSearch(index)(unit(1, 1), 3)
    assert relevance(index.calibration, Query(unit(1, 1)[0], "images"), scores[0]) is None
    assert relevance(index.calibration, Query(unit(1, 1)[0], "captions"), scores[0]).shape == (3,)
    writer = IndexWriter(tmp_path / "old", "images", DIM)
    old = writer.commit([writer.write(unit(1, 0))], [Item("a", path="a")], {})
    assert relevance(old.calibration, Query(unit(1, 1)[0], "captions"), np.float32([0.5])) is None


def test_an_index_of_the_earlier_definition_has_none(tmp_path):
    """Its levels were those of scores less the items' hubness."""
    index_of(tmp_path, unit(20, 0), unit(10, 1))
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"calibration"', '"relevance"'))
    index = Index.open(tmp_path)
    assert index.calibration is None and index.background is None and len(index) == 20


def test_one_item_can_be_calibrated(tmp_path):
    calibration = calibrate(lambda: [unit(1, 0)], 1, "images", DIM, unit(3, 1))
    assert set(calibration.levels) == {"images", "captions", "texts", "mixed"}


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
