"""A model to write: its module, its signatures, and the requests that compare the written one with the live one."""

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
        difference: the largest difference of an answer from the live model's.
    """

    signature: str
    inputs: Arrays
    difference: Callable[[Arrays], float]


@dataclass(frozen=True)
class ExportedModel:
    """A model to write.

    Args:
        name: name of its folder.
        module: holds all variables and assets.
        signatures: what a client can call.
        golden_requests: at least one per signature.
        facts: what its manifest says beyond dimensions and signatures.
        batching: a `batching_params.pbtxt` for the version folder, if the server may batch requests.
    """

    name: str
    module: tf.Module
    signatures: Signatures
    golden_requests: tuple[GoldenRequest, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    batching: bytes | None = None


def golden_embeddings(signature: str, inputs: Arrays, expected: np.ndarray) -> GoldenRequest:
    """A request whose answer is the live model's embeddings."""

    def difference(answer: Arrays) -> float:
        return float(np.abs(answer["embedding"] - expected).max())

    return GoldenRequest(signature, inputs, difference)
