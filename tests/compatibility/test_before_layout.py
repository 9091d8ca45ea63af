"""Run folders, an index, exported towers and cached features of the version before the package's new layout still load.

`data/before_layout.tar.xz` was made once by that version: three tiny runs (generated shapes with a GRU; a transformer
with a learned temperature; frozen KerasHub backbones on cached features), an index of the third, the exported towers of
the first, the presets, 24 drawn photos, and what the version computed (`expected.npz`, `*.json`). `@HERE@` stands for
the folder that it lay in.
"""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import vse_tf
from tests.tiny import arguments
from vse_tf import embed, evaluate, search, train
from vse_tf.artifacts.index import Index
from vse_tf.data.sources import read
from vse_tf.models.feature_cache import CaptionInputs, FeatureCache

RUNS = ["shapes_run", "sigmoid_run", "hub_run"]
TEXTS = ["a red photo of number small", "the left blue circle"]


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(Path(__file__).parent / "data" / "before_layout.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace("@HERE@", str(folder)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VSE_TF_CACHE", str(folder / "cache"))
        yield folder


def photos(before: Path) -> list[Path]:
    return sorted((before / "photos").glob("*.jpg"))[:4]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_vectors_that_it_gave(before, name):
    model = vse_tf.load(before / name)
    expected = np.load(before / "expected.npz")
    np.testing.assert_allclose(model.encode_images(photos(before)), expected[f"{name}_images"], atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(TEXTS), expected[f"{name}_texts"], atol=1e-5)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_measured_as_it_was(before, tmp_path, name):
    evaluate.main(["--run", str(before / name), "--split", "val", "--output", str(tmp_path / "found.json")])
    found, then = (json.loads(path.read_text()) for path in (tmp_path / "found.json", before / f"{name}.json"))
    # Another processor rounds otherwise, and recalls of so few images move by whole ranks.
    assert found["metrics"]["rsum"] == pytest.approx(then["metrics"]["rsum"], abs=30)


def test_a_run_is_continued(before, tmp_path):
    run = before / "shapes_run"
    # A run folder without a format number has format 1.
    assert not (run / "run.json").exists()
    train.main(arguments(run, train__epochs=2, train__keep_checkpoints=1))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert json.loads((run / "run.json").read_text()) == {"format": 1}


def test_an_index_answers(before, capsys):
    search.main(["--index", str(before / "photos.index"), "--json", "a red photo"])
    answers = json.loads(capsys.readouterr().out)
    assert len(answers) == 10
    assert {answer["item"] for answer in answers} <= {f"{number}.jpg" for number in range(24)}


def test_an_index_is_brought_up_to_date(before, capsys):
    index = before / "photos.index"
    then = Index.open(index)
    ids, vectors = [item.id for item in then.all_items()], np.array(then.matrix())
    embed.main(["--run", str(before / "hub_run"), "--images", str(before / "photos"), "--output", str(index)])
    assert "24" in capsys.readouterr().out
    now = Index.open(index)
    assert [item.id for item in now.all_items()] == ids
    np.testing.assert_allclose(now.matrix(), vectors, atol=1e-5)


def test_exported_towers_give_the_vectors_of_their_run(before):
    import tensorflow as tf  # noqa: PLC0415

    expected = np.load(before / "expected.npz")
    images = tf.saved_model.load(str(before / "models" / "image_tower" / "1")).signatures["serving_default"]
    contents = tf.constant([path.read_bytes() for path in photos(before)])
    np.testing.assert_allclose(images(image_bytes=contents)["embedding"], expected["shapes_run_images"], atol=1e-5)
    texts = tf.saved_model.load(str(before / "models" / "text_tower" / "1")).signatures["serving_default"]
    np.testing.assert_allclose(texts(text=tf.constant(TEXTS))["embedding"], expected["shapes_run_texts"], atol=1e-5)


def test_feature_caches_keep_their_keys(before, tmp_path):
    """The same backbone, weights and preparation: the folders that were there, and no new ones."""

    def folders() -> set[str]:
        return {str(path.relative_to(before / "cache")) for path in (before / "cache").glob("*features/*")}

    there = folders()
    assert {path.split("/")[0] for path in there} == {"features", "text_features"}
    evaluate.main(["--run", str(before / "hub_run"), "--split", "val"])

    model = vse_tf.load(before / "hub_run")
    captions = CaptionInputs(model.tokenizer, model.settings.text)
    cache = FeatureCache(model.text_tower, captions, before / "cache")
    files = set((before / "cache" / "text_features").rglob("*.npy"))
    cache.split(read(model.settings.data).split("val"))
    assert set((before / "cache" / "text_features").rglob("*.npy")) == files
    assert folders() == there
