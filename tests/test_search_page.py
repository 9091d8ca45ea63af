"""From a run to the search page: train, export, embed, serve, and search in a browser."""

import shutil

import numpy as np
import pytest
from PIL import Image

import vse_tf
from tests.serving.servers import until
from tests.test_serve import address, running
from tests.tiny import arguments
from vse_tf import embed, export, train

playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs pip install 'vse_tf[browser]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.evidence
@pytest.mark.skipif(BROWSER is None, reason="the browser test needs a chromium on the path")
def test_the_page_finds_what_the_model_finds(tmp_path):
    train.main(arguments(tmp_path / "run", train__epochs=1))
    export.main(["--run", str(tmp_path / "run"), "--output", str(tmp_path / "models")])
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(tmp_path / "images" / f"{i:02d}.png")
    models, index = str(tmp_path / "models"), str(tmp_path / "index")
    embed.main(["--models", models, "--images", str(tmp_path / "images"), "--output", index])
    model, paths = vse_tf.load(tmp_path / "run"), sorted((tmp_path / "images").iterdir())
    scores = model.encode_images(paths) @ model.encode_texts(["a red circle"])[0]

    with running("--models", models, "--gallery", index) as (process, lines, errors):
        until(lambda: address(lines) or process.poll() is not None, 300)
        assert address(lines), errors
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(address(lines))
            page.fill("#text", "a red circle")
            page.keyboard.press("Enter")
            page.get_by_text("12 of 12 for “a red circle”").wait_for(timeout=60_000)
            names = page.locator("#results .name").all_inner_texts()
            assert names == [paths[i].name for i in np.argsort(-scores)]
            page.set_input_files("#image", paths[5])
            page.get_by_text(f"for {paths[5].name}").wait_for(timeout=60_000)
            assert page.locator("#results .name").first.inner_text() == paths[5].name
            assert page.locator("#results .score").first.inner_text() == "1 · 1.000"
            browser.close()
