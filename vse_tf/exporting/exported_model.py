"""A model to write: its module, its signatures, and requests with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from vse_tf.exporting.signature import Signatures

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class GoldenRequest:
    """A request whose answer is known.

    Args:
        signature: name of the signature.
        inputs: by name.
        difference: from an answer to its largest difference from the live model's answer.
    """

    signature: str
    inputs: Arrays
    difference: Callable[[Arrays], float]


@dataclass(frozen=True)
class ExportedModel:
    """A model to write.

    Args:
        name: name of its folder.
        module: the module with all variables and assets.
        signatures: the functions that a client can call.
        golden_requests: at least one per signature.
        facts: further values of its manifest.
        batching: contents of a `batching_params.pbtxt` for the version folder, if the server may batch requests.
    """

    name: str
    module: tf.Module
    signatures: Signatures
    golden_requests: tuple[GoldenRequest, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    batching: bytes | None = None


def golden_embeddings(signature: str, inputs: Arrays, expected: np.ndarray) -> GoldenRequest:
    """A request whose known answer is the live model's embeddings."""

    def difference(answer: Arrays) -> float:
        return float(np.abs(answer["embedding"] - expected).max())

    return GoldenRequest(signature, inputs, difference)
