"""Photos that are searched for on the page and that the served models do not read: HEIC, AVIF and TIFF."""

from __future__ import annotations

import base64
import binascii
import json
import threading

import numpy as np
from werkzeug.wrappers import Request, Response

from vse_tf.pages.thumbnails import thumbnail_of_contents
from vse_tf.preprocessing.image_headers import photo_kind
from vse_tf.preprocessing.image_limits import PHOTO, REASONS, SERVED_PIXELS
from vse_tf.preprocessing.photo_formats import as_decodable, photos_are_read
from vse_tf.serving.cost import work_cost
from vse_tf.serving.request_error import RequestError
from vse_tf.serving.rest import RestApi, error_answer

SIDE = 320


class PhotoRoute:
    """`POST /gallery/photo` takes `{"b64": "…"}`, an image file, and gives its vector and a small JPEG of it.

    It converts what the extra `photos` reads (`as_decodable`) and has the served image tower embed it, under the same
    limits as its own requests.

    Args:
        api: answers the requests for the models.
        image_model: name of the served model that embeds images.
        max_body_bytes: larger bodies are refused.

    Example:
        make_app(api, limit, routes=[page_route, PhotoRoute(api, "image_tower", limit)])
    """

    def __init__(self, api: RestApi, image_model: str, max_body_bytes: int) -> None:
        self.api = api
        self.image_model = image_model
        self.max_body_bytes = max_body_bytes
        self._one_at_a_time = threading.Lock()

    def __call__(self, request: Request) -> Response | None:
        """Answer a request for the photo; None for any other."""
        if request.path != "/gallery/photo" or request.method != "POST":
            return None
        try:
            return Response(json.dumps(self._answer(request)), content_type="application/json")
        except RequestError as refusal:
            answer = error_answer(refusal)
            return Response(answer.body, answer.status, content_type="application/json")

    def _answer(self, request: Request) -> dict[str, object]:
        contents = self._contents(request)
        if photo_kind(contents) and not photos_are_read():
            # What the operator of the server could install is nothing for its users.
            raise RequestError(f"image_bytes[0]: {REASONS[PHOTO]}")
        try:
            # Decoded, an image takes a hundred times its file.
            with self._one_at_a_time:
                converted = as_decodable(contents, SERVED_PIXELS)
                picture = thumbnail_of_contents(converted, SIDE, SERVED_PIXELS)
        except (ValueError, OSError) as error:
            raise RequestError(f"image_bytes[0]: {error}") from None
        arrays = {"image_bytes": np.array([converted], object)}
        model = self.api.registry.find(self.image_model)
        with self.api.budget.hold(work_cost(arrays)):
            outputs = model.run("serving_default", arrays)
        return {"vector": outputs["embedding"][0].tolist(), "picture": base64.b64encode(picture).decode()}

    def _contents(self, request: Request) -> bytes:
        if (request.content_length or 0) > self.max_body_bytes:
            raise RequestError(f"the body is above the limit of {self.max_body_bytes} bytes", 413)
        try:
            asked = json.loads(request.get_data(cache=False))
            return base64.b64decode(asked["b64"], validate=True)
        except (ValueError, TypeError, KeyError, RecursionError, binascii.Error):
            raise RequestError('give an object with the bytes of an image file in base64: {"b64": "…"}') from None
