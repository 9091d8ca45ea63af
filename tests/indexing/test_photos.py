"""Photos of phones in a collection: embedded with the extra `photos`, listed with a command without it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import vse_tf
from tests.preprocessing.test_photo_formats import encoded, image
from vse_tf import embed, search, train
from vse_tf.artifacts.index import Index
from vse_tf.errors import UserError
from vse_tf.indexing.embedding_models import ExportedModel, RunModel
from vse_tf.preprocessing import photo_formats

pytestmark = [pytest.mark.extras, pytest.mark.usefixtures("loaded_once")]
KINDS = {"IMG_1.HEIC": "HEIC", "b.avif": "AVIF", "scan.tif": "TIFF"}


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif", reason="needs pip install 'vse_tf[photos]'")


@pytest.fixture
def folders(tmp_path, heif):
    """Photos, and the same pixels as PNG files."""
    heif.register_heif_opener()
    photos, twins = tmp_path / "photos", tmp_path / "twins"
    for folder in (photos, twins):
        folder.mkdir()
    for number, (name, kind) in enumerate(KINDS.items()):
        contents = encoded(kind, image().rotate(10 * number), orientation=6)
        (photos / name).write_bytes(contents)
        ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB").save(twins / f"{name}.png")
    return photos, twins


def test_vectors_are_those_of_the_pixels_that_pillow_shows(folders, tiny_run, tiny_models):
    paths, twins = (sorted(map(str, folder.iterdir())) for folder in folders)
    for model in (RunModel(tiny_run), ExportedModel(tiny_models)):
        found, positions, problems = model.encode_files(paths, "fail")
        np.testing.assert_array_equal(found, model.encode_files(twins, "fail")[0])
        assert (positions.tolist(), problems) == ([0, 1, 2], [])
    model = vse_tf.load(tiny_run)
    expected = model.encode_images(twins)
    np.testing.assert_array_equal(model.encode_images(paths), expected)
    np.testing.assert_array_equal(model.encode_images([Path(path).read_bytes() for path in paths]), expected)


def test_a_folder_is_embedded_and_searched(folders, tiny_run, tmp_path, capsys):
    index, page = tmp_path / "photos.index", tmp_path / "found.html"
    embed.main(["--run", str(tiny_run), "--images", str(folders[0]), "--output", str(index)])
    assert [item.id for item in Index.open(index).all_items()] == sorted(KINDS)
    photo = folders[0] / "scan.tif"
    capsys.readouterr()
    search.main(["--index", str(index), "--image", str(photo), "--json", "--html", str(page)])
    assert json.loads(capsys.readouterr().out)[0]["item"] == "scan.tif"
    assert page.read_text().count("data:image/jpeg;base64,") == 4


def test_broken_ones_are_listed(folders, tiny_run, tiny_models, tmp_path):
    path = folders[0] / "IMG_1.HEIC"
    path.write_bytes(path.read_bytes()[:200])
    for model in (RunModel(tiny_run), ExportedModel(tiny_models)):
        _, positions, (problem,) = model.encode_files(sorted(map(str, folders[0].iterdir())), "skip")
        assert positions.tolist() == [1, 2]
        assert problem.where == str(path)
        assert problem.what.startswith("undecodable: HEIC: ")


def test_without_the_extra_they_are_listed_with_a_command(tiny_run, tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(photo_formats, "find_spec", lambda name: None)
    photos = tmp_path / "photos"
    photos.mkdir()
    image().save(photos / "a.png")
    (photos / "scan.tif").write_bytes(encoded("TIFF", image()))
    embed.main(["--run", str(tiny_run), "--images", str(photos), "--output", str(tmp_path / "index")])
    listed = (tmp_path / "index" / "skipped.jsonl").read_text()
    assert "pip install 'vse_tf[photos]'" in listed
    assert "magick " in listed
    for model in (RunModel(tiny_run), ExportedModel(tiny_models)):
        _, _, (problem,) = model.encode_files([str(photos / "scan.tif")], "skip")
        assert "convert it with magick" in problem.what
    with pytest.raises(ValueError, match="convert it with magick"):
        vse_tf.load(tiny_run).encode_images(str(photos / "scan.tif"))


def test_training_refuses_them_with_the_command(tmp_path):
    (tmp_path / "scan.tif").write_bytes(encoded("TIFF", image()))
    (tmp_path / "captions.csv").write_text("image,caption\nscan.tif,a red circle\n")
    argv = ["--data.annotations", str(tmp_path / "captions.csv"), "--data.images", str(tmp_path)]
    argv += ["--train.run_dir", str(tmp_path / "run")]
    with pytest.raises(UserError, match=r"a HEIC, AVIF or TIFF image: convert it with magick photo\.heic"):
        train.main(argv)
