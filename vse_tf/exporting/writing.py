"""Writes models into version folders, each compared with the live model before anyone can load it."""

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
from tqdm import tqdm

from vse_tf.artifacts import manifest
from vse_tf.artifacts.versions import Release, unwritable
from vse_tf.errors import UserError
from vse_tf.exporting import batching
from vse_tf.exporting.exported_model import ExportedModel
from vse_tf.exporting.quiet import quiet
from vse_tf.exporting.signature import described

# float32 towers give the live model's vectors to this; in half precision a graph that is optimised in one piece
# rounds elsewhere than one that runs layer by layer.
TOLERANCE = {"float32": 1e-5, "mixed_float16": 5e-3, "mixed_bfloat16": 4e-2}

# Where a server looks for the requests that it replays when it loads a version, before it answers the first client.
WARMUP = "assets.extra/tf_serving_warmup_requests"


@dataclass(frozen=True)
class Written:
    """A model that a server can load.

    Args:
        folder: its version folder.
        manifest: what its manifest says.
        size: bytes of all files.
    """

    folder: Path
    manifest: dict[str, Any]
    size: int


def write_models(
    root: Path, models: Sequence[ExportedModel], facts: Mapping[str, Any], precision: str, progress: bool = False
) -> list[Written]:
    """Write models as new versions that appear together.

    Each is saved in a temporary folder, loaded again, compared with the live model on its golden requests, asked an
    empty batch by every signature, and given a manifest.

    Args:
        root: the folder of all models.
        models: the models.
        facts: what all manifests say.
        precision: numeric precision of the towers, which decides how close the answers have to be.
        progress: show a bar.

    Returns:
        What was written, in the order of the models.

    Raises:
        UserError: the folder cannot be written, or a written model answers otherwise than the live one; nothing is
            published then.
    """
    with Release(root, [model.name for model in models]) as release:
        for model in tqdm(models, desc="writing", unit="model", disable=not progress):
            _write(release.folder(model.name), model, facts, TOLERANCE[precision])
        folders = release.publish()
    return [Written(folder, manifest.read(folder), _size(folder)) for folder in folders]


def write_warmup(folder: Path, model: str, requests: Iterable[tuple[str, dict[str, np.ndarray]]]) -> None:
    """Write the requests into a version folder, where `tensorflow_model_server` looks for them.

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
    """Operations of other libraries in a SavedModel, sorted; a loader must have them.

    Args:
        folder: the SavedModel.

    Example:
        >>> custom_operations(Path("models/text_tower/1"))
        []
    """
    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    functions = {f.signature.name for graph in model.meta_graphs for f in graph.graph_def.library.function}
    # tf.raw_ops is generated from TensorFlow's own operations; a library that is imported adds nothing to it.
    return sorted(name for name in set(_operations(model)) if name not in functions and not hasattr(tf.raw_ops, name))


def _operations(model: saved_model_pb2.SavedModel) -> Iterator[str]:
    for graph in model.meta_graphs:
        yield from (node.op for node in graph.graph_def.node)
        for function in graph.graph_def.library.function:
            yield from (node.op for node in function.node_def)


def _write(folder: Path, model: ExportedModel, facts: Mapping[str, Any], tolerance: float) -> None:
    with _to(folder):
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(model.module, str(folder), signatures=model.signatures, options=options)
        one = [
            (golden.signature, {name: value[:1] for name, value in golden.inputs.items()})
            for golden in model.golden_requests
        ]
        write_warmup(folder, model.name, one)
        operations = custom_operations(folder)
    try:
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
    with _to(folder):
        manifest.write(folder, facts)
        if model.batching is not None:
            # A setting of the server's, which the manifest does not name: it may be edited later. It has to be here
            # before the folder is a version, because the server reads it only when it loads one.
            (folder / batching.FILE_NAME).write_bytes(model.batching)


def _compare(folder: Path, model: ExportedModel) -> float:
    """The largest difference between the written model's answers and the live one's."""
    with quiet():  # it warns of gradients, which nobody will ask a served model for
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
def _to(folder: Path) -> Iterator[None]:
    """What the file system refuses becomes the user's error."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        raise unwritable(folder.parent, error) from None


def _tensors(inputs: Mapping[str, np.ndarray]) -> dict[str, tf.Tensor]:
    # NumPy's object arrays do not say that they hold strings, which an empty one needs.
    return {name: tf.constant(v, tf.string if v.dtype == object else v.dtype, v.shape) for name, v in inputs.items()}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
