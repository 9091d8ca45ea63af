"""The WSGI application alone: other routes beside the API, and what happens when something breaks inside."""

from __future__ import annotations

from werkzeug.test import Client
from werkzeug.wrappers import Response

from vse_tf.serving.http import make_app
from vse_tf.serving.registry import Registry
from vse_tf.serving.rest import RestApi


def client(*routes):
    return Client(make_app(RestApi(Registry(list, None)), 1000, routes))


def test_routes_answer_what_the_api_does_not_in_their_order():
    def page(request):
        return Response(f"page {request.path}") if request.path.startswith("/search") else None

    def every(request):
        return Response("every") if request.path != "/nothing" else None

    asked = client(page, every)
    assert asked.get("/search?q=a%20dog").text == "page /search"
    assert asked.get("/").text == "every"
    assert asked.get("/nothing").status_code == 404
    assert asked.get("/v1/models/m").json == {"error": "Could not find any versions of model m"}


def test_a_mistake_inside_is_a_500_without_details(caplog):
    def broken(request):
        raise RuntimeError("secret")

    got = client(broken).get("/")
    assert got.status_code == 500
    assert "secret" not in got.text
    assert got.json["error"]
    assert "secret" in caplog.text
