"""A real export behind the local server, asked by the kit's client: the vectors are those of the run."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import vse_tf
from export import client as kit
from tests.serving.contract.test_images import bomb
from tests.serving.pictures import every_kind
from tests.serving.runs import CAPTIONS, write_run
from tests.serving.servers import local, until
from tests.serving_kit.proxies import KIT
from vse_tf import export
from vse_tf.serving.model_config import models_below


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, contents in enumerate(every_kind()):
        (folder / f"{number}.jpg").write_bytes(contents)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def models(run, photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("served") / "models"
    gallery = ["--gallery", str(photos[0].parent), "--top-k", "3"]
    batching = ["--batching", str(KIT / "batching_params.pbtxt")]
    export.main(["--run", str(run), "--output", str(root), *gallery, *batching])
    return root


@pytest.fixture(scope="module")
def live(run):
    return vse_tf.load(run)


@pytest.fixture(scope="module")
def client(models):
    with local(models_below(models)) as server:
        yield kit.Client(server.url, retries=0)


def test_texts(client, live):
    texts = [*CAPTIONS, "", "   ", "unknown words öß 你好", "dog " * 500]
    np.testing.assert_allclose(client.embed_texts(texts), live.encode_texts(texts), atol=1e-5)
    assert client.predict("text_tower", {"text": []}) == []


def test_images(client, live, photos):
    np.testing.assert_allclose(client.embed_images(photos), live.encode_images(photos), atol=1e-5)
    assert client.predict("image_tower", {"image_bytes": []}) == []


def test_pixels(client, live):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), np.uint8)
    got = client.predict("image_tower", {"pixels": pixels.tolist()}, "pixels")
    np.testing.assert_allclose(got, live.encode_images(list(pixels)), atol=1e-5)


@pytest.mark.parametrize("contents", [b"no photo", b"", bomb(60_000, 60_000)], ids=["text", "empty", "bomb"])
def test_what_cannot_be_decoded_is_named(client, photos, contents):
    with pytest.raises(kit.BadRequestError, match="item 1: ") as caught:
        client.embed_images([photos[0], contents, photos[0]])
    assert caught.value.item == 1
    assert [row is None for row in client.embed_images([photos[0], contents], skip_bad=True)] == [False, True]


def test_search(client, live, photos):
    gallery = live.encode_images(photos)
    for hits, vector in (
        (client.search_text(CAPTIONS[0]), live.encode_texts(CAPTIONS[:1])[0]),
        (client.search_image(photos[1]), gallery[1]),
    ):
        scores = np.sort(gallery @ vector)[::-1][:3]
        np.testing.assert_allclose([hit.score for hit in hits], scores, atol=1e-5)
        assert {hit.id for hit in hits} <= {path.name for path in photos}


def test_a_new_version_takes_over_and_a_damaged_one_does_not(models, tmp_path):
    first = tmp_path / "text_tower" / "1"
    shutil.copytree(models / "text_tower" / "1", first)
    with local(models_below(tmp_path)) as server:
        client = kit.Client(server.url)
        assert client.status("text_tower") == {1: "AVAILABLE"}
        shutil.copytree(first, tmp_path / "beside")
        (tmp_path / "beside").rename(first.with_name("2"))
        until(lambda: client.status("text_tower") == {1: "END", 2: "AVAILABLE"})
        shutil.copytree(first, tmp_path / "beside")
        weights = next((tmp_path / "beside").glob("variables/variables.data*"))
        changed = bytearray(weights.read_bytes())
        changed[-100] ^= 1
        weights.write_bytes(changed)
        (tmp_path / "beside").rename(first.with_name("3"))
        until(lambda: client.status("text_tower") == {1: "END", 2: "AVAILABLE", 3: "END"})
        assert client.embed_texts(["a dog"])
