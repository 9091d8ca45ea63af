"""Takes the pictures of the guides: the search page, the error page and TensorBoard, on drawn scenes.

    python -m vse_tf.train
    python docs/screenshots.py --run runs/shapes-convse-0 [--output docs/pictures]

Needs a Chromium on the path and `pip install -e '.[browser]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
QUERY = "a red circle left of a blue star"


@contextmanager
def server(*command: str) -> Iterator[str]:
    """Run a server; yields the address that it prints."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            lines = iter(process.stdout or [])
            yield next(found[0] for line in lines if (found := re.search(r"http://(?:[\d.]+|localhost):\d+/(?!v1)", line)))
        finally:
            process.terminate()


def search_page(page: Page, run: str, folder: Path) -> None:
    """The page of `serve`, with the answer to a query."""
    subprocess.run([sys.executable, HERE / "example_images.py", "--count", "300"], cwd=folder, check=True)
    for command in (
        ["embed", "--run", run, "--images", "photos", "--output", "photos.index"],
        ["export", "--run", run, "--output", "models"],
    ):
        subprocess.run([sys.executable, "-m", f"vse_tf.{command[0]}", *command[1:]], cwd=folder, check=True)
    models, index = str(folder / "models"), str(folder / "photos.index")
    with server("-m", "vse_tf.serve", "--models", models, "--gallery", index, "--port", "0") as address:
        page.goto(address)
        page.fill("input[type=search]", QUERY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#results[aria-busy=false] img")
        page.wait_for_load_state("networkidle")
        page.screenshot(path=folder / "search_page.png")


def error_page(page: Page, run: str, folder: Path) -> None:
    """The page of `evaluate --errors`."""
    errors = folder / "errors.html"
    command = ["-m", "vse_tf.evaluate", "--run", run, "--split", "hard", "--errors", str(errors)]
    subprocess.run([sys.executable, *command], check=True)
    page.goto(errors.as_uri())
    page.screenshot(path=folder / "error_page.png")


def tensorboard(page: Page, run: str, folder: Path) -> None:
    """Its curves, and its pictures of nearest neighbours."""
    logs = str(Path(run) / "logs")
    with server("-m", "tensorboard.main", "--logdir", logs, "--port", "0", "--load_fast", "false") as address:
        page.goto(f"{address}#scalars")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / "tensorboard_scalars.png")
        page.goto(f"{address}#images")
        page.reload()
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(3000)
        page.screenshot(path=folder / "tensorboard_images.png")


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder of the built-in set")
    parser.add_argument("--output", type=Path, default=HERE / "pictures", help="folder to write the pictures to")
    args = parser.parse_args(argv)
    run = str(Path(args.run).resolve())
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as started:
        folder = Path(temporary)
        browser = started.chromium.launch(executable_path=chromium, args=[*sandbox, "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
        for take in (search_page, error_page, tensorboard):
            take(page, run, folder)
        browser.close()
        args.output.mkdir(parents=True, exist_ok=True)
        for picture in sorted(folder.glob("*.png")):
            shutil.copy(picture, args.output)
            print(f"written to {args.output / picture.name}")


if __name__ == "__main__":
    main()
