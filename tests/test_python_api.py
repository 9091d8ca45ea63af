"""Use from Python: what the encoders take, what a model says of itself, training and searching in one call each."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vse_tf
from tests.tiny import TINY
from vse_tf import embed


@pytest.fixture(scope="module")
def model(tiny_run):
    return vse_tf.load(tiny_run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def index(tiny_run, photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("index") / "photos.index"
    embed.main(["--run", str(tiny_run), "--images", str(photos), "--output", str(folder)])
    return folder


def test_every_kind_of_image_has_the_same_vector(model, photos):
    path = photos / "a.png"
    wanted = model.encode_images(path)
    assert wanted.shape == (8,)
    assert np.linalg.norm(wanted) == pytest.approx(1, abs=1e-5)
    picture = Image.open(path)
    kinds = [str(path), path.read_bytes(), picture, np.asarray(picture)]
    for kind in kinds:
        np.testing.assert_allclose(model.encode_images(kind), wanted, atol=1e-6)
    mixed = [path, *kinds, photos / "b.png"]
    for images in (mixed, tuple(mixed), (each for each in mixed)):
        found = model.encode_images(images, batch_size=2)
        assert found.shape == (6, 8)
        np.testing.assert_allclose(found[:5], np.tile(wanted, [5, 1]), atol=1e-6)
        assert not np.allclose(found[5], wanted)


def test_an_array_of_images_is_several(model, photos):
    one = np.asarray(Image.open(photos / "a.png"))
    assert model.encode_images(np.stack([one, one])).shape == (2, 8)
    assert model.encode_images(np.array([str(photos / "a.png"), str(photos / "b.png")])).shape == (2, 8)


def test_pil_images_are_prepared_as_their_files_are(model, tmp_path):
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (20, 30, 4), np.uint8)).save(tmp_path / "clear.png")
    Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "turned.png", exif=exif)
    for path in tmp_path.iterdir():
        np.testing.assert_allclose(model.encode_images(Image.open(path)), model.encode_images(path), atol=1e-6)
    cmyk = Image.open(tmp_path / "turned.png").convert("CMYK")
    assert model.encode_images(cmyk).shape == (8,)


def test_wrong_images_are_pythons_errors(model, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    for wrong, error, words in [
        (tmp_path / "missing.jpg", FileNotFoundError, r"missing\.jpg"),
        (tmp_path / "text.jpg", ValueError, r"text\.jpg: undecodable"),
        (tmp_path, OSError, "cannot be read"),
        (b"no image", ValueError, "images cannot be decoded"),
        ([b"no image"], ValueError, r"images\[0\] cannot be decoded"),
        (None, TypeError, "images is None; give a path, the bytes"),
        (5, TypeError, "images is an int"),
        ([None], TypeError, r"images\[0\] is None"),
        (np.zeros([8, 8, 3]), TypeError, "float64; give RGB values in 0..255 as uint8"),
        (np.zeros([8, 8], np.uint8), ValueError, r"shape \(8, 8\)"),
        (np.zeros([8, 8, 4], np.uint8), ValueError, r"\(8, 8, 4\); give \(h, w, 3\)"),
    ]:
        with pytest.raises(error, match=words) as caught:
            model.encode_images(wrong)
        assert "--" not in str(caught.value)


def test_texts_are_one_string_or_many(model):
    one = model.encode_texts("a red circle")
    assert one.shape == (8,)
    many = model.encode_texts(text for text in ("a red circle", "two dogs"))
    assert many.shape == (2, 8)
    np.testing.assert_allclose(many[0], one, atol=1e-6)
    for wrong, words in [(5, "type int"), (b"a", "type bytes"), (["a", None], r"texts\[1\] is of the type NoneType")]:
        with pytest.raises(TypeError, match=words):
            model.encode_texts(wrong)


@pytest.mark.parametrize("nothing", [[], (), iter(())])
def test_nothing_has_no_rows(model, nothing):
    assert model.encode_texts(nothing).shape == (0, 8)
    assert model.encode_images(nothing).shape == (0, 8)


def test_a_model_says_what_it_is(model, tiny_run):
    rsum = model.metrics["val"]["rsum"]
    assert repr(model) == (
        f"Embedder(run='{tiny_run}', image='cnn', text='gru', dim=8, loss='convse', epoch=1, val_rsum={rsum:.1f})"
    )
    assert set(model.metrics) == {"val", "test", "hard"}
    last = vse_tf.load(tiny_run, "last")
    assert (last.epoch, set(last.metrics)) == (1, {"val"})


@pytest.mark.parametrize("results", ["{", "[]", '{"best": 5, "last": 5, "finished": 1, "stopped": 0, "provenance": 0}'])
def test_damaged_results_do_not_keep_a_model_from_loading(tiny_run, tmp_path, results):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "results.json").write_text(results)
    found = vse_tf.load(tmp_path / "run")
    assert (found.epoch, found.metrics) == (None, {})
    assert "epoch" not in repr(found)


def test_fit_is_one_call(tiny_run, tmp_path, model):
    """The run is finished, so that nothing is trained here; the settings have to be the same."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    values = {key: eval(value) for key, value in TINY.items()} | {"train.epochs": 1, "train.run_dir": run}
    found = vse_tf.fit(values)
    assert (found.run, found.metrics) == (run, model.metrics)
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 1, learning_rate: 0.5}")
    with pytest.raises(vse_tf.UserError, match=r"other settings: train\.batch_size"):
        vse_tf.fit(values | {"train.batch_size": 8}, config=tmp_path / "recipe.yaml")


@pytest.mark.parametrize("wrong", [{"epochs": 5}, {"train.epochs": "many"}, {"help": True}, {"train": 5}])
def test_settings_of_fit_are_checked(wrong):
    with pytest.raises(vse_tf.UserError, match=r"train|help"):
        vse_tf.fit(wrong)


def test_an_index_is_searched_with_the_model_that_made_it(index, photos, model):
    opened = vse_tf.Index.open(index)
    found = opened.search("two dogs", k=2)
    scores = model.encode_images(sorted(photos.iterdir())) @ model.encode_texts("two dogs")
    assert [hit.score for hit in found] == pytest.approx(sorted(scores, reverse=True)[:2], abs=1e-5)
    assert found[0].path.name == "abc"[int(scores.argmax())] + ".png"
    assert found[0].caption is None
    for image in (photos / "b.png", str(photos / "b.png"), Image.open(photos / "b.png")):
        best = opened.search(image=image, k=1)
        assert [hit.path.name for hit in best] == ["b.png"]
        assert best[0].score == pytest.approx(1, abs=1e-5)


def test_words_and_images_are_added_and_subtracted(index, photos, model):
    opened = vse_tf.Index.open(index)
    found = opened.search("a star", image=photos / "b.png", without="red", weights={"image": 2, "without": 0.5}, k=3)
    query = model.encode_texts("a star") + 2 * model.encode_images(photos / "b.png") - 0.5 * model.encode_texts("red")
    scores = dict(
        zip("abc", model.encode_images(sorted(photos.iterdir())) @ (query / np.linalg.norm(query)), strict=True)
    )
    assert [hit.path.stem for hit in found] == sorted("abc", key=lambda name: -scores[name])
    assert [hit.score for hit in found] == pytest.approx(sorted(scores.values(), reverse=True), abs=1e-5)


def test_wrong_searches_are_pythons_errors(index, photos, tmp_path):
    opened = vse_tf.Index.open(index)
    for arguments, error in [({}, TypeError), ({"without": "a"}, TypeError), ({"text": 5}, TypeError)]:
        with pytest.raises(error):
            opened.search(**arguments)
    for weights in ({"text": 0}, {"image": -1}, {"without": float("nan")}, {"words": 1}):
        with pytest.raises(ValueError, match="weight"):
            opened.search("dogs", weights=weights)
    with pytest.raises(ValueError, match="nothing is left"):
        opened.search("dogs", without="dogs")
    with pytest.raises(ValueError, match="k is 0"):
        opened.search("dogs", k=0)
    with pytest.raises(FileNotFoundError):
        opened.search(image=tmp_path / "missing.png")
    with pytest.raises(TypeError, match="one image"):
        opened.search(image=[photos / "a.png", photos / "b.png"])
    with pytest.raises(vse_tf.UserError, match="no run here"):
        opened.search("dogs", run=tmp_path)


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onednn_is_on_unless_the_environment_says_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment |= {"TF_ENABLE_ONEDNN_OPTS": given} if given else {}
    code = "import os, sys, vse_tf; print(os.environ['TF_ENABLE_ONEDNN_OPTS'], 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
