"""What stands between a version folder and its first answer: hashes checked, loaded, warmed up."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from vse_tf.artifacts.manifest import MANIFEST, verify
from vse_tf.errors import UserError
from vse_tf.serving.request_error import RequestError
from vse_tf.serving.servable import Servable, register_tf_text


def load_version(version: int, folder: Path) -> Servable:
    """Load a version folder.

    Args:
        version: its number.
        folder: the folder. Where a `manifest.json` lies in it, every file has to have the hash that it names: a
            SavedModel is a program, so nothing is loaded before.

    Raises:
        UserError: a file is missing, damaged or foreign, the model cannot be loaded, or a warm-up request fails.
    """
    if (folder / MANIFEST).exists() and verify(folder).get("custom_operations"):
        register_tf_text()
    model = Servable.of_folder(version, folder)
    warm_up(model, folder)
    return model


def warm_up(model: Servable, folder: Path) -> int:
    """Replay `assets.extra/tf_serving_warmup_requests`, where there is one, as TensorFlow Serving does at load.

    Args:
        model: the loaded version.
        folder: its folder.

    Returns:
        Number of requests replayed.

    Raises:
        UserError: the file is broken, or a request in it fails.
    """
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    if not path.exists():
        return 0
    count = 0
    try:
        for record in tf.data.TFRecordDataset(str(path)):
            log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
            if log.WhichOneof("log_type") != "predict_log":
                continue
            request = log.predict_log.request
            signature = request.model_spec.signature_name or "serving_default"
            model.inputs(signature)
            model.run(signature, {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()})
            count += 1
    except (tf.errors.OpError, RequestError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: warm-up request {count} fails: {error}") from None
    return count
