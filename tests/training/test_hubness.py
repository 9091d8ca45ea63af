"""A run with the hubness correction: what it measures, what it loads to, and what it makes."""

import json
import shutil

import numpy as np
import pytest

import vse_tf
from tests.tiny import arguments, rows_of
from vse_tf import embed, evaluate, train
from vse_tf.artifacts import hubness_bank
from vse_tf.artifacts.hubness_bank import Bank, chosen_rows, read_bank, write_bank
from vse_tf.artifacts.index import Index as IndexFiles
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.config import Settings
from vse_tf.data.bad_images import BadImages
from vse_tf.data.sources import read
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import recalls
from vse_tf.indexing.merging import merge

TEXTS = ["a red circle left of a blue star", "a star", "above", "a green square", "a circle"]


@pytest.fixture(scope="module")
def model(corrected_run):
    return vse_tf.load(corrected_run)


@pytest.fixture(scope="module")
def before(tiny_run):
    return vse_tf.load(tiny_run)


@pytest.fixture(scope="module")
def index(corrected_run, noise_images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "noise_images.index"
    embed.main(["--run", str(corrected_run), "--images", str(noise_images), "--output", str(folder)])
    return vse_tf.Index.open(folder)


def hubness(vectors, bank):
    """Mean similarity to the twenty nearest, by a full sort."""
    return np.sort(np.float64(vectors) @ np.float64(bank).T, axis=1)[:, -20:].mean(axis=1)


def test_the_figures_are_those_of_the_definition(corrected_run, before):
    run = RunFolder(corrected_run)
    bank, results = read_bank(run), run.read_results()
    for name, split in read(before.settings.data).splits.items():
        encoded = before.encode_split(split, BadImages("fail", 10**8))
        if name == "train":
            # Both banks are all there is: 64 scenes with their captions.
            np.testing.assert_allclose(bank.images, encoded.image, atol=1e-3)
            np.testing.assert_allclose(bank.captions, encoded.text, atol=1e-3)
            continue
        plain = recalls(encoded.image, encoded.text, encoded.image_id)
        assert results["galleries"][name] == pytest.approx(plain)
        of_images, of_captions = hubness(encoded.image, bank.captions), hubness(encoded.text, bank.images)
        # Scores as dot products, in the plainest form that has no unit length.
        image = np.column_stack([encoded.image, -of_images / 2, np.ones(len(of_images))])
        text = np.column_stack([encoded.text, np.ones(len(of_captions)), -of_captions / 2])
        corrected = recalls(np.float32(image), np.float32(text), encoded.image_id)
        # Two scores that are equal but for rounding may change places.
        assert results["galleries_corrected"][name] == pytest.approx(corrected, abs=6)
    assert results["best"]["metrics_corrected"] == results["galleries_corrected"]["val"]


def test_it_changes_nothing_of_the_training(tiny_run, corrected_run, model, before):
    assert rows_of(corrected_run) == rows_of(tiny_run)
    assert RunFolder(tiny_run).hubness_of() is None
    assert not (tiny_run / "hubness").exists()
    assert "metrics_corrected" not in RunFolder(tiny_run).read_results()["best"]
    assert model.metrics == before.metrics
    assert (before.dim, before.plain_dim, model.dim, model.plain_dim) == (8, 8, 12, 8)
    assert RunFolder(tiny_run).identity() != RunFolder(corrected_run).identity()


def test_the_correction_comes_after_the_plain_coordinates(model, before, noise_images):
    paths = sorted(noise_images.glob("*.png"))
    images, texts = model.encode_images(paths), model.encode_texts(TEXTS)
    for found, plain in ((images, before.encode_images(paths)), (texts, before.encode_texts(TEXTS))):
        np.testing.assert_allclose(found[:, :8] * 1.5, plain, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    bank = read_bank(RunFolder(model.run))
    of_images, of_texts = hubness(images[:, :8] * 1.5, bank.captions), hubness(texts[:, :8] * 1.5, bank.images)
    corrected = images[:, :8] @ texts[:, :8].T * 2.25 - (of_images[:, None] + of_texts) / 2
    np.testing.assert_allclose(images @ texts.T, corrected * 4 / 9, atol=1e-5)
    # Whatever else is encoded, in whatever order.
    np.testing.assert_allclose(model.encode_images(paths[3]), images[3], atol=1e-6)
    np.testing.assert_allclose(
        model.encode_files([str(paths[3])], BadImages("fail", 10**8))[0][0], images[3], atol=1e-6
    )
    np.testing.assert_allclose(model.encode_texts(TEXTS[::-1], batch_size=2)[::-1], texts, atol=1e-6)
    assert model.encode_texts([]).shape == model.encode_images([]).shape == (0, 12)


def test_evaluate_prints_both_rows_the_plain_one_first(corrected_run, tmp_path, capsys):
    evaluate.main(["--run", str(corrected_run), "--output", str(tmp_path / "found.json")])
    rows = [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert rows.index("test") < rows.index("test, corrected")
    found, results = json.loads((tmp_path / "found.json").read_text()), RunFolder(corrected_run).read_results()
    assert found["metrics"] == results["galleries"]["test"]
    assert found["metrics_corrected"] == results["galleries_corrected"]["test"]


def test_an_index_states_both_widths_and_ranks_by_them(index, model, before, noise_images, tmp_path):
    manifest = json.loads((index.folder / "manifest.json").read_text())
    assert [manifest[key] for key in ("format", "dim", "plain_dim")] == [2, 12, 8]
    paths = sorted(noise_images.glob("*.png"))
    scores = model.encode_images(paths) @ model.encode_texts(TEXTS[0])
    assert [hit.row for hit in index.search(TEXTS[0], k=12)] == np.argsort(-scores, kind="stable").tolist()
    # From image to image as without the correction, with the cosine as the score.
    cosines = before.encode_images(paths) @ before.encode_images(paths[5])
    hits = index.search(image=paths[5], k=12)
    assert [hit.row for hit in hits] == np.argsort(-cosines, kind="stable").tolist()
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(cosines)[::-1], atol=1e-6)
    merged = merge([index.folder, index.folder], tmp_path / "merged")
    assert (merged.dim, merged.plain_dim, merged.count) == (12, 8, 24)


def test_an_index_without_correction_is_as_it_was(tiny_run, noise_images, tmp_path):
    embed.main(["--run", str(tiny_run), "--images", str(noise_images), "--output", str(tmp_path / "index")])
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert (manifest["format"], "plain_dim" in manifest) == (1, False)
    opened = IndexFiles.open(tmp_path / "index")
    assert opened.dim == opened.plain_dim == 8


def test_switched_off_it_is_gone(corrected_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(corrected_run, run)
    train.main(arguments(run, train__epochs=1, model__hubness_correction="true"))
    assert "already finished" in capsys.readouterr().out
    train.main(arguments(run, train__epochs=1))
    assert "corrected" not in capsys.readouterr().out
    assert not (run / "hubness").exists()
    assert vse_tf.load(run).dim == 8
    assert not Settings().model.hubness_correction


def test_a_bank_belongs_to_one_model_and_is_refused_if_damaged(corrected_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(corrected_run, folder)
    run = RunFolder(folder)
    bank = read_bank(run)
    path = folder / "hubness" / "images.npy"
    contents = path.read_bytes()
    path.write_bytes(contents[:-2] + b"ab")
    with pytest.raises(UserError, match=r"images\.npy: damaged: its contents have changed"):
        vse_tf.load(folder)
    write_bank(run, Bank(bank.images * 2, bank.captions))
    with pytest.raises(UserError, match="not unit vectors of 8 dimensions"):
        vse_tf.load(folder)
    described = json.loads(run.hubness.read_text())
    run.hubness.write_text(json.dumps({**described, "checkpoint": "another"}))
    assert vse_tf.load(folder).dim == 8


def test_a_large_split_gives_a_seeded_part(monkeypatch):
    monkeypatch.setattr(hubness_bank, "BANK", 5)
    assert chosen_rows(3, seed=0).tolist() == [0, 1, 2]
    chosen = chosen_rows(100, seed=0)
    assert len(set(chosen.tolist())) == 5
    np.testing.assert_array_equal(chosen, chosen_rows(100, seed=0))
    assert chosen.tolist() != chosen_rows(100, seed=1).tolist()
