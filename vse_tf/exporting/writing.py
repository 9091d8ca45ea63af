"""Writes models into version folders; each is compared with the live model before it is published."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from vse_tf.artifacts import manifest
from vse_tf.artifacts.versions import Release, unwritable
from vse_tf.display import part, phase_if
from vse_tf.errors import UserError
from vse_tf.exporting import batching
from vse_tf.exporting.exported_model import ExportedModel
from vse_tf.exporting.signature import described
from vse_tf.quiet import quiet

# Largest difference from the live model's vectors. In half precision, a graph that is optimised as a unit rounds at
# other places than one that runs layer by layer.
TOLERANCE = {"float32": 1e-5, "mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}

# The requests that a server replays when it loads a version, before it answers clients.
WARMUP = "assets.extra/tf_serving_warmup_requests"


@dataclass(frozen=True)
class Written:
    """A model that a server can load.

    Args:
        folder: its version folder.
        manifest: the contents of its manifest.
        size: size of all files in bytes.
    """

    folder: Path
    manifest: dict[str, Any]
    size: int


def write_models(
    root: Path, models: Sequence[ExportedModel], facts: Mapping[str, Any], precision: str, progress: bool = False
) -> list[Written]:
    """Write models as new versions that appear together.

    Each is saved in a temporary folder, loaded, and compared with the live model on its golden requests; each signature
    must answer an empty batch. Then the manifest is written.

    Args:
        root: the folder of all models.
        models: the models.
        facts: values of all manifests.
        precision: numeric precision of the towers, which sets the tolerance.
        progress: show which model is written.

    Returns:
        What was written, in the order of the models.

    Raises:
        UserError: the folder cannot be written, or a written model's answers differ from the live one's; then nothing
            is published.
    """
    with Release(root, [model.name for model in models]) as release:
        for model in models:
            with phase_if(progress, f"writing {model.name}"):
                _write(release.folder(model.name), model, facts, TOLERANCE[precision])
        folders = release.publish()
    return [Written(folder, manifest.read(folder), _size(folder)) for folder in folders]


def write_warmup(folder: Path, model: str, requests: Iterable[tuple[str, dict[str, np.ndarray]]]) -> None:
    """Write requests that `tensorflow_model_server` replays when it loads the version.

    Args:
        folder: the version folder.
        model: name of the model.
        requests: signature, and inputs by name.

    Example:
        >>> write_warmup(folder, "text_tower", [("serving_default", {"text": np.array([b"a dog"], object)})])
    """
    path = folder / WARMUP
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())


def custom_operations(folder: Path) -> list[str]:
    """Operations in a SavedModel that TensorFlow itself does not have; sorted.

    Args:
        folder: the SavedModel.

    Example:
        >>> custom_operations(Path("models/text_tower/1"))
        []
    """
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = {f.signature.name for graph in model.meta_graphs for f in graph.graph_def.library.function}
    # tf.raw_ops holds TensorFlow's own operations; imported libraries add none.
    return sorted(name for name in set(_operations(model)) if name not in functions and not hasattr(tf.raw_ops, name))


def _operations(model: saved_model_pb2.SavedModel) -> Iterator[str]:
    for graph in model.meta_graphs:
        yield from (node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            yield from (node.op for node in function.node_def)


def _write(folder: Path, model: ExportedModel, facts: Mapping[str, Any], tolerance: float) -> None:
    with _writing_to(folder), part("saving"):
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(model.module, str(folder), signatures=model.signatures, options=options)
        one = [
            (golden.signature, {name: value[:1] for name, value in golden.inputs.items()})
            for golden in model.golden_requests
        ]
        write_warmup(folder, model.name, one)
        operations = custom_operations(folder)
    try:
        with part("comparing with the run"):
            difference = _compare(folder, model)
    except (OSError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{model.name}: the written model cannot be used: {reason}; nothing was published") from None
    if not difference <= tolerance:
        raise UserError(
            f"{model.name}: the written model's answers differ from the live one's by {difference:.2g} (at most "
            f"{tolerance:g} is expected); nothing was published"
        )
    facts = {
        "model": model.name,
        "signatures": described(model.signatures),
        "custom_operations": operations,
        "needs": "TensorFlow Text's operations" if operations else "core TensorFlow operations only",
        "largest_difference": difference,
        **model.facts,
        **facts,
    }
    with _writing_to(folder):
        manifest.write(folder, facts)
        if model.batching is not None:
            # The manifest does not name this setting of the server: it may be edited later. It is written before the
            # folder becomes a version, because the server reads it only when it loads one.
            (folder / batching.FILE_NAME).write_bytes(model.batching)


def _compare(folder: Path, model: ExportedModel) -> float:
    """The largest difference between the written model's answers and the live one's."""
    with quiet():  # it warns of gradients, which a served model does not need
        signatures = tf.saved_model.load(str(folder)).signatures
    largest = 0.0
    for golden in model.golden_requests:
        run = signatures[golden.signature]
        answer = {name: value.numpy() for name, value in run(**_tensors(golden.inputs)).items()}
        difference = golden.difference(answer)
        largest = difference if np.isnan(difference) else max(largest, difference)
        empty = run(**_tensors({name: value[:0] for name, value in golden.inputs.items()}))
        if any(value.shape[0] != 0 for value in empty.values()):
            raise UserError(f"{model.name}: {golden.signature} answers an empty batch with rows; nothing was published")
    return largest


@contextlib.contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into one line for the user."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise unwritable(folder.parent, error) from None


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    # An empty array of objects has to be declared as strings.
    return {name: tf.constant(v, tf.string if v.dtype == object else v.dtype, v.shape) for name, v in inputs.items()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
