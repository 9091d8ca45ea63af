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
QUERY = "a big red star to the left of a small blue star"


def run(*command: str) -> None:
    """Run a Python command to its end."""
    subprocess.run([sys.executable, *command], check=True)


@contextmanager
def server(*command: str) -> Iterator[str]:
    """Run a server; yields the address that it prints."""
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            said = ""
            for line in process.stdout or []:
                said += line
                if found := re.search(r"http://[\w.]+:\d+(?=/? )", line):
                    break
            else:
                raise SystemExit(f"{' '.join(command)} did not start:\n{said}")
            yield found[0]
        finally:
            process.terminate()


def search_page(page: Page, trained: str) -> None:
    """The page of `serve`, with the answer to a query."""
    run(str(HERE / "example_images.py"), "--count", "300")
    images = ["--images", "photos", "--index", "photos.index"]
    with server("-m", "vse_tf.serve", "--run", trained, *images, "--port", "0") as address:
        page.goto(address)
        page.fill("input[type=search]", QUERY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#results[aria-busy=false] img")
        page.wait_for_load_state("networkidle")
        page.screenshot(path="search_page.jpg", quality=88)


def error_page(page: Page, trained: str) -> None:
    """The page of `evaluate --errors`."""
    run("-m", "vse_tf.evaluate", "--run", trained, "--split", "hard", "--errors", "errors.html")
    page.goto(Path("errors.html").absolute().as_uri())
    page.screenshot(path="error_page.png")


def tensorboard(page: Page, trained: str) -> None:
    """Its curves, and its pictures of nearest neighbours."""
    folder = str(Path(trained).parent)
    with server("-m", "tensorboard.main", "--logdir", folder, "--port", "0", "--load_fast", "false") as address:
        for tab, tags in (("scalars", "rsum|epoch/loss|negative_gap|val/t2i_r1$"), ("images", "")):
            page.goto(f"{address}/#{tab}&tagFilter={tags}")
            page.reload()
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(3000)
            page.screenshot(path=f"tensorboard_{tab}.png")


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder of the built-in set")
    parser.add_argument("--output", type=Path, default=HERE / "pictures", help="folder to write the pictures to")
    args = parser.parse_args(argv)
    output = args.output.absolute()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as started:
        # The pages name the run as the command does: by a path that is the same on every machine.
        trained = str(Path("runs") / Path(args.run).resolve().name)
        shutil.copytree(args.run, Path(temporary) / trained)
        os.chdir(temporary)
        browser = started.chromium.launch(executable_path=chromium, args=[*sandbox, "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 760}, color_scheme="light")
        for take in (search_page, error_page, tensorboard):
            take(page, trained)
        browser.close()
        output.mkdir(parents=True, exist_ok=True)
        for picture in sorted([*Path().glob("*.png"), *Path().glob("*.jpg")]):
            shutil.copy(picture, output)
            print(f"written to {output / picture.name}")


if __name__ == "__main__":
    main()
