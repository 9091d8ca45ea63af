"""Warm-up requests: what a server replays when it loads a version, before it answers the first client."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

WARMUP = "assets.extra/tf_serving_warmup_requests"

Request = tuple[str, dict[str, np.ndarray]]


def write_warmup(folder: Path, model: str, requests: Iterable[Request]) -> None:
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
