"""The page in headless Chromium, as a person uses it; a stand-in answers TensorFlow Serving's calls."""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
from pathlib import Path

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
COUNT = 60
SHOWN = 48
EVIL = "<img src=x onerror=document.title='owned'>.png"


# What the server answers to these.
REFUSED = {
    b"nonsense": "the model <b>refused</b>",
    b"broken": "assertion failed: [image_bytes[0]: truncated or broken image header]\n\t [[{{node Assert/Assert}}]]",
    b"too large": "assertion failed: [image_bytes[0]: the header announces more pixels than data.max_pixels allows; …",
}


def vector_of(contents):
    seed = int.from_bytes(hashlib.sha256(contents).digest()[:4], "big")
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


def predict(request):
    """What the towers would answer, by the bytes they are given."""
    if request.method != "POST" or not request.path.endswith(":predict"):
        return None
    (instance,) = json.loads(request.get_data())["instances"]
    image = "image_tower" in request.path
    contents = base64.b64decode(instance["b64"]) if image else instance.encode()
    if contents in REFUSED:
        return Response(json.dumps({"error": REFUSED[contents]}), 400, content_type="application/json")
    return Response(json.dumps({"predictions": [vector_of(contents).tolist()]}), content_type="application/json")


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


@contextlib.contextmanager
def serving(index):
    """The page of an index, and its address."""
    routes = [predict, page_route, GalleryRoute(index, full_paths=True)]

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


def ranked(images, query, count=SHOWN):
    folder, names = images
    # The file that is no longer an image is still in the index, but its bytes give another vector now.
    vectors = np.stack([vector_of((folder / name).read_bytes()) for name in names])
    return [names[i] for i in np.argsort(-(vectors @ query))][:count]


def search(page, text):
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.get_by_text(f"{SHOWN} of {COUNT} images for “{text}”").wait_for()


def status_of(page):
    return page.locator("#status").inner_text()


def failed(page, text):
    """A search failed: one sentence, and no result of the search before."""
    page.locator("#status.error").get_by_text(text).wait_for()
    assert page.locator("#results li").count() == 0
    assert page.locator("#more").is_hidden()
    assert re.fullmatch(r"[A-Z“][^\[\]{}<>\n]*[.?]( [A-Z][^.\n]*[.?])?", status_of(page))


def upload(page, contents, name="photo.png", kind="image/png"):
    page.set_input_files("#image", [{"name": name, "mimeType": kind, "buffer": contents}])


def test_a_text_shows_images_with_scores_best_first(page, images):
    search(page, "two dogs")
    assert names_of(page) == ranked(images, vector_of(b"two dogs"))
    scores = [float(text.split("·")[1]) for text in page.locator("#results .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    loaded = "Array.from(document.querySelectorAll('#results img')).filter(image => image.naturalWidth > 0).length"
    page.wait_for_function(f"{loaded} >= 6")


def test_more_results_follow_those_shown(page, images):
    search(page, "two dogs")
    page.click("#more")
    page.get_by_text(f"{COUNT} of {COUNT} images for “two dogs”").wait_for()
    assert names_of(page) == ranked(images, vector_of(b"two dogs"), COUNT)
    assert page.locator("#results .score").last.inner_text().startswith(f"{COUNT} ·")
    assert page.locator("#more").is_hidden()
    focused = page.evaluate("[...document.querySelectorAll('#results button')].indexOf(document.activeElement)")
    assert focused == SHOWN
    page.locator("#results button", has_text=images[1][7]).scroll_into_view_if_needed()
    page.get_by_text("no picture").wait_for()


def test_foreign_text_is_shown_but_not_interpreted(page, images):
    search(page, "<b>bold</b><script>document.title='owned'</script>")
    page.click("#more")
    page.locator("#results button", has_text=EVIL).click()
    assert page.locator("#path").input_value() == str(images[0] / EVIL)
    assert "owned" not in page.title().replace("document.title='owned'", "")
    assert page.locator("#results b, #status b, #large b, #results img[src=x]").count() == 0


def test_a_result_opens_large(page, images):
    folder, names = images
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    search(page, "two dogs")
    first = [name for name in names_of(page) if name != names[7]]
    page.locator("#results button", has_text=first[1]).click()
    page.wait_for_selector(f"#large-picture[src$='/images/{names.index(first[1])}']")
    size = page.evaluate("document.getElementById('large-picture').naturalHeight")
    assert size == Image.open(folder / first[1]).height
    page.click("#copy")
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == str(folder / first[1])
    page.keyboard.press("ArrowRight")
    place = names_of(page).index(first[1]) + 1
    assert page.locator("#path").input_value() == str(folder / names_of(page)[place])
    page.keyboard.press("Escape")
    assert page.locator("#large").is_hidden()
    assert page.evaluate("document.activeElement.querySelector('.name').textContent") == names_of(page)[place]


def test_a_caption_opens_large_too(browser, tmp_path):
    texts = [f"a dog and {count} cats" for count in range(5)]
    vectors = np.stack([vector_of(text.encode()) for text in texts])
    writer = IndexWriter(tmp_path / "index", "captions", DIM)
    items = [Item(str(row + 1), caption=text) for row, text in enumerate(texts)]
    with serving(writer.commit([writer.write(vectors)], items, {"id": "a"})) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("5 captions").wait_for()
        page.fill("#text", texts[3])
        page.keyboard.press("Enter")
        page.locator("#results button", has_text=texts[3]).first.click()
        assert page.locator("#large-name").inner_text() == texts[3]
        assert page.locator("#path").input_value() == texts[3]
        assert page.locator("#stage").is_hidden()
        page.click("#similar")
        page.get_by_text("5 of 5 captions like this one").wait_for()
        assert page.locator("#query-caption").inner_text() == names_of(page)[0] == texts[3]
        page.close()


def test_a_picture_that_is_gone_says_so(page, images):
    search(page, "two dogs")
    page.click("#more")
    page.locator("#results button", has_text=images[1][7]).click()
    page.get_by_text("The image cannot be displayed.").wait_for()


def test_search_from_a_result_and_back(page, images):
    folder = images[0]
    search(page, "two dogs")
    first = names_of(page)
    page.locator("#results button").nth(3).click()
    page.click("#similar")
    page.get_by_text(f"images like {first[3]}").wait_for()
    similar = names_of(page)
    assert similar == ranked(images, vector_of((folder / first[3]).read_bytes()))
    page.reload()
    page.get_by_text(f"images like {first[3]}").wait_for()
    assert names_of(page) == similar
    page.go_back()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first
    page.reload()
    page.get_by_text("for “two dogs”").wait_for()
    assert names_of(page) == first
    # Another gallery has other images in the same rows.
    page.goto(page.url.partition("#")[0] + "#row=3&item=gone.png")
    failed(page, "“gone.png” is no longer in its place")


def test_a_chosen_and_a_dropped_image_find_themselves(page, images):
    folder, names = images
    page.set_input_files("#image", folder / names[4])
    page.get_by_text(f"images like {names[4]}").wait_for()
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
    page.get_by_text(f"images like {names[11]}").wait_for()
    assert names_of(page)[0] == names[11]
    assert page.locator("#drop").is_hidden()
    page.go_back()
    page.get_by_text(f"images like {names[4]}").wait_for()
    page.go_forward()
    page.get_by_text(f"images like {names[11]}").wait_for()
    page.reload()
    page.get_by_text(f"images like {names[11]}").wait_for()
    assert names_of(page)[0] == names[11]


def test_an_image_too_large_to_keep_is_asked_for_again(page, images):
    upload(page, (images[0] / images[1][4]).read_bytes() + bytes(5_000_000))
    page.get_by_text("images like photo.png").wait_for()
    page.reload()
    failed(page, "choose it again")


def test_results_go_with_their_query(page):
    search(page, "two dogs")
    page.fill("#text", "nonsense")
    page.keyboard.press("Enter")
    failed(page, "The server could not answer this search.")
    for contents, told in ((b"broken", "truncated or broken image header."), (b"too large", "too many pixels.")):
        search(page, "two dogs")
        upload(page, contents)
        failed(page, told)
        assert page.locator("#query-picture").is_hidden()
    search(page, "two dogs")
    upload(page, b"text", "notes.txt", "text/plain")
    failed(page, "“notes.txt” is not an image.")
    search(page, "two dogs")
    page.fill("#text", " ")
    page.keyboard.press("Enter")
    page.get_by_text("Type what to look for.").wait_for()
    assert page.locator("#results li").count() == 0
    assert page.locator("#hint").is_visible()
    assert "#" not in page.url


def test_a_server_that_is_gone_is_told(page):
    search(page, "two dogs")
    page.route("**/gallery/nearest", lambda route: route.abort())
    page.click("#more")
    page.get_by_text("The server does not answer.").wait_for()
    assert page.locator("#results li").count() == SHOWN  # they are still those of the query
    page.fill("#text", "three dogs")
    page.keyboard.press("Enter")
    failed(page, "The server does not answer.")


def test_a_model_that_is_loading_is_waited_for(page, images):
    states = ["LOADING", "LOADING"]

    def status(route):
        state = states.pop() if states else "AVAILABLE"
        route.fulfill(json={"model_version_status": [{"version": "1", "state": state}]})

    def answer(route):
        if states:
            route.fulfill(status=404, json={"error": "Servable not found for request: Latest(image_tower)"})
        else:
            route.fallback()

    page.route("**/v1/models/image_tower", status)
    page.route("**/v1/models/image_tower:predict", answer)
    page.set_input_files("#image", images[0] / images[1][4])
    page.get_by_text("The model is being loaded").wait_for()
    page.get_by_text(f"images like {images[1][4]}").wait_for()


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
    assert page.locator("#large").is_visible()
    page.keyboard.press("Enter")
    assert page.locator("#large").is_hidden()
    assert page.evaluate(focused) == first[1 + columns]
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "text"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"


def test_each_device_has_its_own_hint(page, browser, address):
    assert page.get_by_text("drop, paste or choose an image").is_visible()
    assert page.locator("#hint kbd").first.is_visible()
    phone = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    touched = phone.new_page()
    touched.goto(address)
    touched.get_by_text("Tap a result").wait_for()
    assert touched.get_by_text("drop, paste").is_hidden()
    assert touched.locator("#hint kbd").first.is_hidden()
    phone.close()


def axe():
    """axe-core as npm installs it: a script to run in a page. None where there is none."""
    named = os.environ.get("VSE_TF_AXE")
    if named:
        return Path(named).read_text()
    folders = [folder / "node_modules" for folder in (Path.cwd(), *Path.cwd().parents)]
    if npm := shutil.which("npm"):
        folders.append(Path(subprocess.check_output([npm, "root", "--global"], text=True).strip()))
    found = (folder / "axe-core" / "axe.min.js" for folder in folders)
    return next((path.read_text() for path in found if path.is_file()), None)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_no_fault(browser, address, images, width, scheme):
    script = axe()
    if script is None:
        pytest.skip("needs axe-core: npm install axe-core, or VSE_TF_AXE with the path of axe.min.js")
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(address)
    page.get_by_text(f"{COUNT} images").wait_for()
    page.evaluate(script)

    def check():
        faults = page.evaluate("axe.run(document)")["violations"]
        assert not [(each["id"], each["help"], each["nodes"][0]["html"]) for each in faults]

    check()
    search(page, "two dogs")
    check()
    page.locator("#results button").nth(1).click()
    check()
    page.click("#similar")
    page.get_by_text("images like").wait_for()
    check()
    upload(page, b"broken")
    failed(page, "cannot be read")
    check()
    context.close()


def test_it_fits_a_phone(page, tmp_path):
    folder = os.environ.get("VSE_TF_SCREENSHOTS", str(tmp_path))
    search(page, "two dogs")
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/desktop.png")
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_timeout(300)
    page.screenshot(path=f"{folder}/phone.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    boxes = [button.bounding_box() for button in page.locator("header button, header .button, li button").all()[:6]]
    assert all(box["height"] >= 40 for box in boxes)
    assert page.evaluate("getComputedStyle(document.getElementById('text')).fontSize") == "16px"
    page.locator("#results button").first.click()
    buttons = page.locator("#large button, #large input").all()
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 360 for box in (each.bounding_box() for each in buttons))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.screenshot(path=f"{folder}/phone-large.png")
