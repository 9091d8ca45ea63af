"""The page in headless Chromium, as a person uses it; a stand-in answers TensorFlow Serving's calls."""

import base64
import hashlib
import json
import os
import shutil
import threading

import numpy as np
import pytest
from PIL import Image
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.serving.pages import GalleryRoute, page_route

playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs pip install 'vse_tf[browser]'")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="the browser test needs a chromium on the path")

DIM = 8
COUNT = 30
EVIL = "<img src=x onerror=document.title='owned'>.png"


def vector_of(contents):
    seed = int.from_bytes(hashlib.sha256(contents).digest()[:4], "big")
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


def predict(request):
    """What the towers would answer, by the bytes they are given."""
    if request.method != "POST" or not request.path.endswith(":predict"):
        return None
    (instance,) = json.loads(request.get_data())["instances"]
    if instance == "nonsense":
        return Response(json.dumps({"error": "the model <b>refused</b>"}), 400, content_type="application/json")
    image = "image_tower" in request.path
    contents = base64.b64decode(instance["b64"]) if image else instance.encode()
    return Response(json.dumps({"predictions": [vector_of(contents).tolist()]}), content_type="application/json")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    names = [f"image {i:02d}.png" for i in range(COUNT - 1)] + [EVIL]
    for i, name in enumerate(names):
        Image.new("RGB", (300, 200 + 10 * i), (8 * i, 255 - 8 * i, 120)).save(folder / name)
    (folder / names[7]).unlink()
    (folder / names[7]).write_text("not an image any more")
    return folder, names


@pytest.fixture(scope="module")
def address(tmp_path_factory, images):
    folder, names = images
    vectors = np.stack([vector_of((folder / name).read_bytes()) for name in names])
    writer = IndexWriter(tmp_path_factory.mktemp("index"), "images", DIM)
    items = [Item(name, path=name) for name in names]
    index = writer.commit([writer.write(vectors)], items, {"id": "a"}, root=folder)
    routes = [predict, page_route, GalleryRoute(index)]

    @Request.application
    def app(request):
        return next(filter(None, (route(request) for route in routes)), Response("not found", 404))

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    sandbox = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=[*sandbox, "--disable-gpu"])
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


def names_of(page):
    page.wait_for_selector("#results[aria-busy=false] button")
    return page.locator("#results .name").all_inner_texts()


def ranked(images, query):
    folder, names = images
    # The file that is no longer an image is still in the index, but its bytes give another vector now.
    vectors = np.stack([vector_of((folder / name).read_bytes()) for name in names])
    return [names[i] for i in np.argsort(-(vectors @ query))]


def search(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.get_by_text(f"for “{text}”").wait_for()


def test_a_text_shows_images_with_scores_best_first(page, images):
    search(page, "two dogs")
    assert names_of(page) == ranked(images, vector_of(b"two dogs"))
    scores = [float(text.split("·")[1]) for text in page.locator("#results .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    loaded = "Array.from(document.querySelectorAll('#results img')).filter(image => image.naturalWidth > 0).length"
    page.wait_for_function(f"{loaded} >= 6")
    page.locator("#results li").last.scroll_into_view_if_needed()
    page.get_by_text("no picture").wait_for()


def test_foreign_text_is_shown_but_not_interpreted(page, images):
    search(page, "<b>bold</b><script>document.title='owned'</script>")
    assert EVIL in names_of(page)
    assert page.title() != "owned"
    assert page.locator("#results b, #status b, #results img[src=x]").count() == 0
    search_box = page.locator("#text")
    search_box.fill("nonsense")
    search_box.press("Enter")
    page.get_by_text("the model <b>refused</b>").wait_for()
    assert page.locator("#status.error b").count() == 0


def test_search_from_a_result_and_back(page, images):
    folder, names = images
    search(page, "two dogs")
    first = names_of(page)
    page.locator("#results button").nth(3).click()
    page.get_by_text(f"for item {names.index(first[3])}").wait_for()
    assert names_of(page) == ranked(images, vector_of((folder / first[3]).read_bytes()))
    assert page.locator("#query-name").inner_text() == first[3]
    page.go_back()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first
    page.reload()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first


def test_a_chosen_and_a_dropped_image_find_themselves(page, images):
    folder, names = images
    page.set_input_files("#image", folder / names[4])
    page.get_by_text(f"for {names[4]}").wait_for()
    assert names_of(page)[0] == names[4]
    page.wait_for_function("document.getElementById('query-picture').naturalWidth === 300")
    data = base64.b64encode((folder / names[11]).read_bytes()).decode()
    page.evaluate(
        """([data, name]) => {
          const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/png" }));
          for (const kind of ["dragenter", "drop"])
            document.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, cancelable: true }));
        }""",
        [data, names[11]],
    )
    page.get_by_text(f"for {names[11]}").wait_for()
    assert names_of(page)[0] == names[11]
    assert page.locator("#drop").is_hidden()


def test_the_keyboard_is_enough(page, images):
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.type("two dogs")
    page.keyboard.press("Enter")
    page.get_by_text("for “two dogs”").wait_for()
    first = names_of(page)
    focused = "document.activeElement.querySelector('.name')?.textContent"
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused) == first[0]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == first[1]
    page.keyboard.press("ArrowDown")
    columns = page.evaluate(
        "getComputedStyle(document.getElementById('results')).gridTemplateColumns.split(' ').length"
    )
    assert page.evaluate(focused) == first[1 + columns]
    page.keyboard.press("Enter")
    page.get_by_text(f"for item {images[1].index(first[1 + columns])}").wait_for()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"


def test_it_fits_a_phone(page, tmp_path):
    folder = os.environ.get("VSE_TF_SCREENSHOTS", str(tmp_path))
    search(page, "two dogs")
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/desktop.png")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [button.bounding_box() for button in page.locator("button, .button").all()[:6]]
    assert all(box["height"] >= 40 for box in boxes)
    assert page.evaluate("getComputedStyle(document.getElementById('text')).fontSize") == "16px"
