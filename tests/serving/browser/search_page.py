"""The search page of a gallery whose towers are a stand-in, and what a person does on it."""

import base64
import contextlib
import hashlib
import json
import re
import threading

import numpy as np
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

from vse_tf.preprocessing.image_headers import photo_kind
from vse_tf.preprocessing.image_limits import PHOTO, REASONS
from vse_tf.serving.pages import GalleryRoute, page_route
from vse_tf.serving.photos import PhotoRoute
from vse_tf.serving.rest import RestApi

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
    if photo_kind(contents):
        return Response(json.dumps({"error": f"image_bytes[0]: {REASONS[PHOTO]}"}), 400)
    if contents in REFUSED:
        return Response(json.dumps({"error": REFUSED[contents]}), 400, content_type="application/json")
    return Response(json.dumps({"predictions": [vector_of(contents).tolist()]}), content_type="application/json")


class Registry:
    """One model, whose vectors are those of `predict`."""

    def find(self, name):
        assert name == "image_tower"
        return self

    def run(self, signature, arrays):
        (contents,) = arrays["image_bytes"]
        return {"embedding": vector_of(contents)[None]}


@contextlib.contextmanager
def serving(index):
    """The page of an index, and its address."""
    routes = [
        predict,
        page_route,
        PhotoRoute(RestApi(Registry()), "image_tower", 10**7),
        GalleryRoute(index, full_paths=True),
    ]

    @Request.application
    def app(request):
        return next(filter(None, (route(request) for route in routes)), Response("not found", 404))

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


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
