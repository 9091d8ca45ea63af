"""Compact vectors of an index, against a slow conversion row by row."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.artifacts import index_manifest
from vse_tf.artifacts.calibration import STEPS, Calibration
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_manifest import MANIFEST
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import UserError
from vse_tf.indexing.compacting import compacted
from vse_tf.models.folding import EXTRA, fold, plain, truncated

DIM = 10


def unit(rows, seed=0, dim=DIM):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def folded(rows, seed=0):
    return fold(unit(rows, seed), np.random.default_rng(seed).uniform(0, 0.6, rows).astype(np.float32), "image")


def make(folder, storage="int8:4", sizes=(3, 5), corrected=False):
    vectors = folded(sum(sizes)) if corrected else unit(sum(sizes))
    writer = IndexWriter(folder, "images", vectors.shape[1], DIM)
    shards = [writer.write(part) for part in np.split(vectors, np.cumsum(sizes)[:-1])]
    texts = folded(6, 1) if corrected else unit(6, 1)
    levels = {of: list(np.linspace(-0.5, 0.5, STEPS)) for of in ("images", "captions", "mixed")}
    calibration = Calibration(texts, levels)
    form = Form.of(storage, vectors.shape[1], DIM)
    items = [Item(str(row), path=str(row)) for row in range(len(vectors))]
    compact = compacted(writer, shards, form, calibration)
    return writer.commit(shards, items, {}, root=folder, calibration=calibration, compact=compact), vectors


def expected(vectors, storage, dims):
    """The decoded vectors, row by row."""
    found = []
    for vector in vectors.astype(np.float64):
        scale = 2 / 3 if len(vector) > DIM else 1
        first = vector[:dims] / np.linalg.norm(vector[:dims]) * scale
        if storage == "float16":
            first = first.astype(np.float16).astype(np.float64)
        else:
            step = np.abs(first).max() / 127
            first = np.array([round(value / step) * step for value in first])
        found.append([*first, *vector[DIM:]])
    return np.array(found)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("storage", ["float16", "int8"])
@pytest.mark.parametrize("dims", [1, 4, DIM])
def test_they_are_the_shards_vectors_row_by_row(tmp_path, storage, dims, corrected):
    index, vectors = make(tmp_path, f"{storage}:{dims}", corrected=corrected)
    form = index.compact.form
    assert form == Form(storage, dims, corrected) and index.complete
    right = expected(vectors, storage, dims)
    np.testing.assert_allclose(np.concatenate([part for _, part in index.compact.vectors()]), right, atol=2e-3)
    step = np.abs(right[:, :dims]).max(axis=1, keepdims=True) * (1 / 127 if storage == "int8" else 2**-10)
    assert (np.abs(index.compact.gather(np.array([7, 0, 3])) - right[[7, 0, 3]])[:, :dims] <= step[[7, 0, 3]]).all()
    if corrected:
        np.testing.assert_array_equal(index.compact.gather(np.arange(8))[:, dims:], vectors[:, DIM:])
    files = sum(path.stat().st_size for path in tmp_path.glob("compact-*.npy"))
    assert files < 8 * form.row_bytes + 2 * 256
    assert form.row_bytes == dims * (1 if storage == "int8" else 2) + 4 * (storage == "int8") + 16 * corrected
    np.testing.assert_array_equal(index.matrix(), vectors)
    index.verify()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, DIM), st.booleans(), st.integers(0, 2**16))
def test_truncated_vectors_have_the_plain_directions(dims, corrected, seed):
    vectors = folded(5, seed) if corrected else unit(5, seed)
    found = truncated(vectors, dims, DIM)
    first = plain(vectors, DIM)[:, :dims]
    cosines = (first @ first.T) / np.outer(*[np.linalg.norm(first, axis=1)] * 2)
    np.testing.assert_allclose(plain(found, dims) @ plain(found, dims).T, cosines, atol=1e-4)
    np.testing.assert_array_equal(found[:, dims:], vectors[:, DIM:])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found.dtype == np.float32 and found.shape[1] == dims + EXTRA * corrected


def test_a_vector_without_its_first_dimensions_stays_zero():
    assert truncated(np.float32([[0, 0, 1]]), 2, 3).tolist() == [[0, 0]]


@pytest.mark.parametrize("text", ["int9", "int8:", "int8:x", "float32:4", "int8:-4", "int8:²", ""])
def test_what_is_no_form_is_refused(text):
    with pytest.raises(UserError, match=r"--storage: .* is not float32, float16 or int8.*such as int8:256"):
        Form.of(text, DIM, DIM)


def test_dimensions_are_at_most_those_of_the_model():
    for text in ("int8:11", "float16:0"):
        with pytest.raises(UserError, match="from 1 to the model's 10"):
            Form.of(text, DIM + EXTRA, DIM)
    assert Form.of("float32", DIM, DIM) is None
    assert Form.of("int8", DIM + EXTRA, DIM) == Form("int8", DIM, corrected=True)


def test_the_manifests_format_tells_older_versions(tmp_path, monkeypatch):
    make(tmp_path / "compact")
    make(tmp_path / "plain", "float32")
    assert json.loads((tmp_path / "compact" / MANIFEST).read_text())["format"] == 3
    assert json.loads((tmp_path / "plain" / MANIFEST).read_text())["format"] == 1
    monkeypatch.setattr(index_manifest, "FORMAT", 2)
    assert Index.open(tmp_path / "plain").compact is None
    with pytest.raises(UserError, match=r"written by a newer version of vse_tf \(format 3.*upgrade vse_tf$"):
        Index.open(tmp_path / "compact")


@pytest.mark.parametrize("corrected", [False, True])
def test_without_float32_vectors_the_compact_ones_are_the_index(tmp_path, corrected):
    before, vectors = make(tmp_path, corrected=corrected)
    for shard in before.shards:
        (tmp_path / shard.name).unlink()
    index = Index.open(tmp_path)
    assert (index.complete, index.dim, index.plain_dim) == (False, 4 + EXTRA * corrected, 4)
    assert index.model_dim == before.dim
    right = np.concatenate([part for _, part in before.compact.vectors()])
    np.testing.assert_array_equal(index.matrix(), right)
    np.testing.assert_array_equal(index.gather([7, 0, 7]), right[[7, 0, 7]])
    np.testing.assert_allclose(index.fitted(vectors), right, atol=0.02)
    assert index.calibration.texts.shape == (6, index.dim)
    assert index.calibration.levels == before.compact.levels != before.calibration.levels
    index.verify()


def test_a_missing_or_damaged_file_is_named(tmp_path):
    index, _ = make(tmp_path)
    (tmp_path / index.shards[1].name).rename(tmp_path / "away")
    with pytest.raises(UserError, match=f"{index.shards[1].name}: unreadable vectors"):
        Index.open(tmp_path)
    (tmp_path / "away").rename(tmp_path / index.shards[1].name)
    path = tmp_path / index.compact.shards[0].name
    contents = path.read_bytes()
    path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
    with pytest.raises(UserError, match=f"{path.name}: damaged"):
        Index.open(tmp_path).verify()
    path.write_bytes(contents[:-1])
    with pytest.raises(UserError, match=f"{path.name}: unreadable vectors"):
        Index.open(tmp_path)
    np.save(path, unit(3))
    with pytest.raises(UserError, match=f"{path.name}: not the compact"):
        Index.open(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda compact: compact.update(storage="object"),
        lambda compact: compact.update(dims=11),
        lambda compact: compact.update(dims=True),
        lambda compact: compact.update(shards=compact["shards"][:1]),
        lambda compact: compact["shards"][0].update(name="../a.npy"),
        lambda compact: compact["shards"][0].update(rows=4),
        lambda compact: compact.update(score_levels={"images": [0.0]}),
        lambda compact: compact.clear(),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path, change):
    make(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    change(manifest["compact"])
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest\.json: "):
        Index.open(tmp_path)


def test_another_form_replaces_the_files(tmp_path):
    index, _ = make(tmp_path)
    old = {shard.name for shard in index.compact.shards}
    index, _ = make(tmp_path, "float16")
    assert not old & {path.name for path in tmp_path.iterdir()}
    make(tmp_path, "float32")
    assert not list(tmp_path.glob("compact-*"))
