"""One version of a model in memory: what its signatures take and return, and running them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from vse_tf.errors import UserError
from vse_tf.quiet import quiet
from vse_tf.serving.inputs import Arrays
from vse_tf.serving.request_error import RequestError

# TensorFlow's names of types, and those of the server's messages.
_NAMES = {"float16": "half", "float32": "float", "float64": "double"}
# HTTP status of an error that the graph raised; any other is the request's fault.
_STATUS = {
    tf.errors.NotFoundError: 404,
    tf.errors.ResourceExhaustedError: 429,
    tf.errors.UnimplementedError: 501,
    tf.errors.UnavailableError: 503,
    tf.errors.InternalError: 500,
    tf.errors.UnknownError: 500,
    tf.errors.DataLossError: 500,
}
_MISSING_OP = re.compile(r"Op type not registered '(\w+)'")
# What an eager call puts around the graph's own words: where each node comes from, with lines of source code for a
# function that was traced in this process.
_AROUND = re.compile(
    r"\AGraph execution error:\s*(?:Detected at node .*\n(?:<stack traces unavailable>\n|(?:  .*\n|\n)+))+"
    r"|\s*\[Op:\w+\]\s*\Z"
)


class Servable:
    """A model in memory that answers requests.

    Args:
        version: its version number.
        functions: the functions of its signatures by name.
        description: every signature as the REST API's metadata describe it.
        owner: what holds the variables of the functions, which themselves keep only weak references to them.

    Example:
        >>> model = Servable.of_folder(1, Path("models/text_tower/1"))
        >>> model.run("serving_default", {"text": np.array([b"a dog"], object)})
        {'embedding': array([[0.02, …]], dtype=float32)}
    """

    def __init__(
        self, version: int, functions: Mapping[str, Any], description: Mapping[str, dict[str, Any]], owner: object
    ) -> None:
        self.version = version
        self.functions = dict(functions)
        self.description = dict(description)
        self._owner = owner
        self._inputs = {
            name: {key: _type_of(tensor) for key, tensor in signature["inputs"].items()}
            for name, signature in self.description.items()
        }

    @classmethod
    def of_folder(cls, version: int, folder: Path) -> Servable:
        """Load a SavedModel. It is a program: load only what you trust.

        Args:
            version: its version number.
            folder: its folder.

        Raises:
            UserError: there is no SavedModel, or it cannot be loaded.
        """
        description = {name: _described(signature) for name, signature in _signatures(folder).items()}
        model = _loaded(folder)
        return cls(version, model.signatures, description, model)

    @classmethod
    def of_functions(cls, version: int, functions: Mapping[str, Any], owner: object) -> Servable:
        """A model that was traced in this process; nothing is written or read.

        Args:
            version: its version number.
            functions: by the name of their signature, concrete functions with named inputs and a dictionary of outputs.
            owner: the module that holds their variables.
        """
        description = {name: _described_function(name, function) for name, function in functions.items()}
        return cls(version, functions, description, owner)

    def inputs(self, signature: str) -> dict[str, str]:
        """Type of each input of a signature by name.

        Raises:
            RequestError: there is no such signature, or it takes no inputs.
        """
        if signature not in self._inputs:
            raise RequestError(f'Serving signature name: "{signature}" not found in signature def')
        if not self._inputs[signature]:
            raise RequestError(f"Failed to get input map for signature: {signature}")
        return {name: _NAMES.get(dtype.name, dtype.name) for name, dtype in self._inputs[signature].items()}

    def run(self, signature: str, arrays: Mapping[str, np.ndarray]) -> Arrays:
        """Run a signature; any number of threads may do so at once.

        Args:
            signature: its name.
            arrays: an array for each of its inputs.

        Returns:
            Its outputs by name.

        Raises:
            RequestError: the graph raised an error.
        """
        types = self._inputs[signature]
        try:
            tensors = {name: tf.constant(array, types[name]) for name, array in arrays.items()}
            outputs = self.functions[signature](**tensors)
            return {name: _numpy(value) for name, value in outputs.items()}
        except tf.errors.OpError as error:
            status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 400)
            raise RequestError(_AROUND.sub("", error.message), status) from None
        except (TypeError, ValueError) as error:
            raise RequestError(str(error)) from None


def register_tf_text() -> None:
    """Import TF-Text where it is installed, which registers its operations; most models do without."""
    with contextlib.suppress(ImportError):
        import tensorflow_text  # noqa: F401, PLC0415


def _numpy(value: tf.Tensor) -> np.ndarray:
    # TensorFlow gives a string scalar as bare bytes.
    return np.array(value.numpy(), object) if value.dtype == tf.string else value.numpy()


def _signatures(folder: Path) -> Mapping[str, meta_graph_pb2.SignatureDef]:
    saved = saved_model_pb2.SavedModel()
    path = folder / "saved_model.pb"
    try:
        saved.ParseFromString(path.read_bytes())
    except OSError:
        raise UserError(f"{path}: there is no SavedModel here") from None
    except Exception as error:
        # protobuf's DecodeError has had several homes
        raise UserError(f"{path}: not a SavedModel: {error}") from None
    for graph in saved.meta_graphs:
        if "serve" in graph.meta_info_def.tags:
            return graph.signature_def
    raise UserError(f"{path}: no graph in it is tagged 'serve'")


def _described(signature: meta_graph_pb2.SignatureDef) -> dict[str, Any]:
    return {
        "inputs": {name: _described_tensor(info) for name, info in signature.inputs.items()},
        "outputs": {name: _described_tensor(info) for name, info in signature.outputs.items()},
        "method_name": signature.method_name,
        "defaults": {},
    }


def _described_function(name: str, function: Any) -> dict[str, Any]:
    """A concrete function, described as `_described` describes it once it is saved."""
    signature = meta_graph_pb2.SignatureDef(method_name="tensorflow/serving/predict")
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    for found, specs in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for key, spec in specs.items():
            found[key].name = f"{name}_{key}:0"
            found[key].dtype = spec.dtype.as_datatype_enum
            found[key].tensor_shape.CopyFrom(spec.shape.as_proto())
    return _described(signature)


def _described_tensor(info: meta_graph_pb2.TensorInfo) -> dict[str, Any]:
    shape = info.tensor_shape
    return {
        "name": info.name,
        "dtype": types_pb2.DataType.Name(info.dtype),
        "tensor_shape": {
            "dim": [{"size": str(each.size), "name": each.name} for each in shape.dim],
            "unknown_rank": shape.unknown_rank,
        },
    }


def _type_of(tensor: Mapping[str, Any]) -> tf.DType:
    return tf.as_dtype(types_pb2.DataType.Value(tensor["dtype"]))


def _loaded(folder: Path) -> Any:
    # TensorFlow's loader has no error of its own: KeyError, RuntimeError and more come out of a broken model.
    try:
        return _load(folder)
    except Exception as error:
        missing = _MISSING_OP.search(str(error))
        if missing is None:
            raise UserError(f"{folder}: cannot be loaded: {_first_line(error)}") from None
        op = missing[1]
    register_tf_text()
    try:
        return _load(folder)
    except Exception as error:
        hint = "; if it is one of TF-Text's: pip install tensorflow-text" if op in str(error) else ""
        raise UserError(f"{folder}: cannot be loaded: {_first_line(error)}{hint}") from None


def _load(folder: Path) -> Any:
    with quiet():  # of gradients, which a served model does not need
        return tf.saved_model.load(str(folder))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
