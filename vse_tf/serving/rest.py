"""TensorFlow Serving's REST API: a method, a path and a body to a status and a body. No HTTP server in here."""

from __future__ import annotations

import json
import re
from typing import NamedTuple
from urllib.parse import unquote

from vse_tf.serving.cost import Budget, json_cost, work_cost
from vse_tf.serving.inputs import parse, read_inputs, signature_name
from vse_tf.serving.outputs import write_outputs
from vse_tf.serving.registry import Registry
from vse_tf.serving.request_error import RequestError

_PREFIX = re.compile(r"/v1/.*|/v1/models", re.IGNORECASE)
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_RUN = re.compile(rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>[a-z]+)", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<part>metadata))?", re.IGNORECASE)
_LARGEST_VERSION, _MOST_DIGITS = 2**63 - 1, 19
# Characters of an error message: names, addresses and what a graph says come from the request and may be long.
_LONGEST_ERROR = 10_000


class Answer(NamedTuple):
    """What goes back: an HTTP status and a JSON body."""

    status: int
    body: bytes


class RestApi:
    """The requests that TensorFlow Serving answers, and its answers.

    Args:
        registry: the models.

    Attributes:
        budget: the memory that requests share.

    Example:
        answer = RestApi(registry).answer("POST", "/v1/models/text_tower:predict", b'{"instances": ["a dog"]}')
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.budget = Budget()

    def is_ours(self, target: str) -> bool:
        """Whether a path is below `/v1/`."""
        return _PREFIX.fullmatch(target) is not None

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """Answer a request below `/v1/`.

        Args:
            method: `GET`, `POST`, …
            target: path and query as they were sent, percent signs and all: a model's name may need them.
            body: the request's body, inflated.
        """
        try:
            return self._answer(method, target, body)
        except RequestError as refusal:
            return error_answer(refusal)
        except RecursionError:
            return error_answer(RequestError("JSON Parse error: Values are nested too deeply."))

    def _answer(self, method: str, target: str, body: bytes) -> Answer:
        found = {"POST": _RUN, "GET": _STATUS}[method].fullmatch(target) if method in ("GET", "POST") else None
        if method in ("HEAD", "OPTIONS"):
            return Answer(400, b"")
        malformed = RequestError(f"Malformed request: {method} {target}")
        if found is None:
            raise malformed
        name, label = unquote(found["name"] or ""), unquote(found["label"] or "") or None
        digits = found["version"]
        if digits and (len(digits) > _MOST_DIGITS or int(digits) > _LARGEST_VERSION):
            return Answer(400, b"")
        version = int(digits) if digits else None
        if method == "GET":
            if not name:
                raise RequestError("Missing model name in request.")
            # The server matches the word in any case and then knows it in lower case only.
            if found["part"] == "metadata":
                return self._metadata(name, version, label)
            return _json_answer({"model_version_status": self.registry.status(name, version)})
        if found["method"] == "predict":
            return self._predict(name, version, label, body)
        if found["method"] in ("classify", "regress"):
            return self._examples(name, version, label, found["method"], body)
        raise malformed

    def _predict(self, name: str, version: int | None, label: str | None, body: bytes) -> Answer:
        with self.budget.hold(json_cost(body)):
            document = parse(body)
            signature = signature_name(document)
            model = self.registry.find(name, version, label)
            arrays, form = read_inputs(document, model.inputs(signature))
            del document
        with self.budget.hold(work_cost(arrays)):
            return Answer(200, write_outputs(model.run(signature, arrays), form))

    def _metadata(self, name: str, version: int | None, label: str | None) -> Answer:
        model = self.registry.find(name, version, label)
        spec = {"name": name, "version": str(model.version), "signature_name": ""}
        return _json_answer({"model_spec": spec, "metadata": {"signature_def": {"signature_def": model.description}}})

    def _examples(self, name: str, version: int | None, label: str | None, method: str, body: bytes) -> Answer:
        """The two methods that take tf.Example protos: no model of this package has a signature for them."""
        with self.budget.hold(json_cost(body)):
            document = parse(body)
        if "examples" not in document:
            raise RequestError(f"When method is {method}, key 'examples' is expected and was not found")
        model = self.registry.find(name, version, label)
        signature = signature_name(document)
        model.inputs(signature)
        kind = {"classify": "classification", "regress": "regression"}[method]
        described = json.dumps(model.description[signature])
        raise RequestError(f"No {kind} inputs found in SignatureDef: {described}")


def error_answer(refusal: RequestError) -> Answer:
    """`{"error": message}` with the refusal's status."""
    # What a broken string brought along cannot be written: it is replaced.
    message = refusal.message[:_LONGEST_ERROR].encode("utf-8", "replace").decode()
    if len(refusal.message) > _LONGEST_ERROR:
        message += f"... ({len(refusal.message)} characters)"
    return _json_answer({"error": message}, refusal.status)


def _json_answer(value: object, status: int = 200) -> Answer:
    return Answer(status, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
