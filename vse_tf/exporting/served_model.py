"""A model that is ready to be written: its module, its signatures, and how to tell that a written one is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from vse_tf.exporting.signature import Signatures

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Probe:
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
class ServedModel:
    """A model to write.

    Args:
        name: name of its folder.
        module: holds all variables and assets.
        signatures: what a client can call.
        probes: at least one a signature.
        facts: what its manifest says beyond dimensions and signatures.
        batching: a `batching_params.pbtxt` for the version folder, if requests shall be joined.
    """

    name: str
    module: tf.Module
    signatures: Signatures
    probes: tuple[Probe, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    batching: bytes | None = None


def embedding_probe(signature: str, inputs: Arrays, expected: np.ndarray) -> Probe:
    """A probe of embeddings, which the live model gave."""

    def difference(answer: Arrays) -> float:
        return float(np.abs(answer["embedding"] - expected).max())

    return Probe(signature, inputs, difference)
