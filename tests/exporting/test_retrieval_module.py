"""Search in the graph against a full sort in NumPy, block sizes odd on purpose."""

import numpy as np
import pytest
import tensorflow as tf

from vse_tf.artifacts.storage import store
from vse_tf.exporting import retrieval_module
from vse_tf.exporting.retrieval_module import RetrievalModule
from vse_tf.models.folding import EXTRA, fold, search_queries
from vse_tf.models.mixing import Part, mix
from vse_tf.preprocessing.view import ImageView

DIM = 6


class Tower(tf.Module):
    """Reads a vector from a string of numbers: both queries' towers."""

    view = ImageView((2, 2))

    def of_text(self, text):
        numbers = tf.strings.split(text, " ").to_tensor(shape=[None, DIM])
        return tf.reshape(tf.strings.to_number(tf.where(numbers == "", "0", numbers)), [-1, DIM])

    of_bytes = of_text


def unit(rows, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def text_of(queries):
    return tf.constant([" ".join(repr(float(x)) for x in query) for query in queries], tf.string, [len(queries)])


def module_of(vectors, k, storage="float32"):
    ids = [f"ä/{row}.jpg" for row in range(len(vectors))]
    return RetrievalModule(Tower(), Tower(), store(vectors, storage), ids, [f"caption {i}" for i in ids], k)


def oracle(queries, vectors, k):
    """Rows and scores by a full, stable sort."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    rows = np.argsort(-scores.astype(np.float32), axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("storage", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("rows", "width", "k"), [(50, 7, 10), (50, 49, 50), (5, 1, 5), (9, 3, 1), (30, 1000, 4)])
def test_it_finds_what_a_full_sort_finds(monkeypatch, storage, rows, width, k):
    monkeypatch.setattr(retrieval_module, "BLOCK", width * DIM + 2)
    vectors, queries = unit(rows), unit(8, seed=1)
    module = module_of(vectors, k, storage)
    expected, scores = oracle(queries, store(vectors, storage).restored(), k)
    for name, argument in (("serving_default", "text"), ("search_text", "text"), ("search_image", "image_bytes")):
        answer = module.signatures()[name](**{argument: text_of(queries)})
        assert {key: value.dtype for key, value in answer.items()} == {
            "ids": tf.string,
            "scores": tf.float32,
            "captions": tf.string,
        }
        np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
        ids = [[name.decode() for name in line] for line in answer["ids"].numpy()]
        assert ids == [[f"ä/{row}.jpg" for row in line] for line in expected]
        assert answer["captions"].numpy()[0, 0].decode() == f"caption {ids[0][0]}"


@pytest.mark.parametrize("width", [1, 2, 3, 5, 100])
def test_equal_scores_come_in_the_gallerys_order(monkeypatch, width):
    monkeypatch.setattr(retrieval_module, "BLOCK", width * DIM)
    # Few distinct vectors, so that most scores are equal and exact in float32.
    vectors = np.eye(DIM, dtype=np.float32)[np.random.default_rng(0).integers(0, 3, 40)]
    queries = np.float32([[1, 0.5, 0.25, 0, 0, 0], [0, 0, 0, 0, 0, 1], [-1, 0, 0, 0, 0, 0]])
    rows, _ = oracle(queries, vectors, 12)
    answer = module_of(vectors, 12).search(tf.constant(queries))
    assert [[int(name.decode()[2:-4]) for name in line] for line in answer["ids"].numpy()] == rows.tolist()


class Files(Tower):
    """Images as files of numbers; the pixel that stands for no image is none."""

    def of_bytes(self, image_bytes):
        return self.of_text(tf.where(image_bytes == retrieval_module.NO_IMAGE, "7 7 7 7 7 7", image_bytes))


def mixed(module, rows):
    """Answers to `(text, image, without)`, each a vector or None."""
    columns = [
        tf.constant(["" if each is None else text_of([each])[0].numpy() for each in rows_of], tf.string)
        for rows_of in zip(*rows, strict=True)
    ]
    return module.signatures()["search_mixed"](**dict(zip(("text", "image_bytes", "without"), columns, strict=True)))


# Which of text, image and what is left out a query has.
USES = ((1, 1, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0), (0, 1, 0))


def with_uses(use, *columns):
    """Rows of `(text, image, without)`, None for what is not used."""
    return [
        [value if used else None for value, used in zip(row, use, strict=True)] for row in zip(*columns, strict=True)
    ]


def query_of(row, kind, dim):
    """The query of a row by the definition."""
    given = zip(row, ("captions", "images", "captions"), (1, 1, -1), strict=True)
    return mix([Part(vector, of, weight) for vector, of, weight in given if vector is not None], kind, dim)


@pytest.mark.parametrize("kind", ["images", "captions"])
@pytest.mark.parametrize("corrected", [False, True])
def test_mixed_queries_are_those_of_the_definition(kind, corrected):
    dim = DIM - EXTRA if corrected else DIM
    hubness = np.random.default_rng(4).uniform(0, 0.5, 40).astype(np.float32)

    def vectors(rows, seed, modality):
        values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        return fold(values, hubness[:rows], modality) if corrected else values

    gallery = vectors(40, 0, kind[:-1])
    texts, photos, excluded = vectors(9, 1, "caption"), vectors(9, 2, "image"), vectors(9, 3, "caption")
    ids = [str(row) for row in range(40)]
    plain_of = (kind, dim) if corrected else None
    module = RetrievalModule(Files(), Files(), store(gallery, "float32"), ids, ids, 40, plain_of)
    for use in USES:
        rows = with_uses(use, texts, photos, excluded)
        answer = mixed(module, rows)
        for number, row in enumerate(rows):
            query = search_queries(query_of(row, kind, dim).vector[None], kind, dim)
            expected, scores = oracle(query, gallery, 40)
            np.testing.assert_allclose(answer["scores"][number], scores[0], atol=1e-5)
            assert answer["ids"].numpy()[number, 0].decode() == ids[expected[0, 0]]


def test_mixed_queries_that_are_none_are_refused():
    vector = unit(1)[0]
    module = RetrievalModule(Files(), Files(), store(unit(5), "float32"), list("abcde"), list("abcde"), 5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="neither text nor image_bytes"):
        mixed(module, [(vector, None, None), (None, None, vector)])
    with pytest.raises(tf.errors.InvalidArgumentError, match="nothing is left of a query"):
        mixed(module, [(vector, None, vector)])
    search = module.signatures()["search_mixed"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="different lengths: 2, 1, 1"):
        search(text=tf.constant(["a", "b"]), image_bytes=tf.constant([""]), without=tf.constant([""]))


def test_no_queries_have_no_answers():
    answer = module_of(unit(5), 3).signatures()["search_text"](text=tf.zeros([0], tf.string))
    assert {key: value.shape for key, value in answer.items()} == dict.fromkeys(("ids", "scores", "captions"), (0, 3))


def test_k_is_within_the_gallery():
    with pytest.raises(ValueError, match="k is 6; the gallery has 5"):
        module_of(unit(5), 6)


def test_gallery_and_names_are_in_the_variables_not_in_the_graph(tmp_path):
    vectors = unit(20_000)
    module = module_of(vectors, 3, "float16")
    tf.saved_model.save(module, str(tmp_path), signatures=module.signatures())
    assert (tmp_path / "saved_model.pb").stat().st_size < vectors.nbytes / 2
    run = tf.saved_model.load(str(tmp_path)).signatures["search_text"]
    queries = unit(4, seed=1)
    expected, _ = oracle(queries, store(vectors, "float16").restored(), 3)
    ids = run(text=text_of(queries))["ids"].numpy()
    assert [[int(name.decode()[2:-4]) for name in line] for line in ids] == expected.tolist()


def test_many_queries_run_in_slices_and_too_many_are_refused(monkeypatch):
    monkeypatch.setattr(retrieval_module, "MAX_ITEMS", 605)
    vectors, queries = unit(20), unit(201, seed=1)
    search = module_of(vectors, 3).signatures()["search_text"]
    rows, scores = oracle(queries, vectors, 3)
    answer = search(text=text_of(queries))
    np.testing.assert_allclose(answer["scores"], scores, atol=1e-5)
    assert answer["ids"].numpy()[200].tolist() == [f"ä/{row}.jpg".encode() for row in rows[200]]
    with pytest.raises(tf.errors.InvalidArgumentError, match="queries of 3 items each: 202, at most 201 at a time"):
        search(text=text_of(unit(202)))
