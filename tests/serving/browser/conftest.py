"""A gallery, its page, and headless Chromium, which are skipped where they are not installed."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.serving.browser.search_page import COUNT, DIM, EVIL, serving, vector_of
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    names = [f"image {i:02d}.png" for i in range(COUNT - 1)] + [EVIL]
    for i, name in enumerate(names):
        Image.new("RGB", (300, 200 + 10 * i), (4 * i, 255 - 4 * i, 120)).save(folder / name)
    (folder / names[7]).unlink()
    (folder / names[7]).write_text("not an image any more")
    return folder, names


@pytest.fixture(scope="module")
def address(tmp_path_factory, images):
    folder, names = images
    vectors = np.stack([vector_of((folder / name).read_bytes()) for name in names])
    writer = IndexWriter(tmp_path_factory.mktemp("index"), "images", DIM)
    items = [Item(name, path=name) for name in names]
    with serving(writer.commit([writer.write(vectors)], items, {"id": "a"}, root=folder)) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install 'vse_tf[browser]'")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a chromium on the path")
    sandbox = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=[*sandbox, "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    problems, urls = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(address)
    page.get_by_text(f"{COUNT} images").wait_for()
    yield page
    assert not problems
    assert all(url.startswith((address, "blob:", "data:")) for url in urls)
    page.close()
