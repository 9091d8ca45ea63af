"""The towers in the formats of other runtimes, by Keras' exporters."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from vse_tf.artifacts import manifest
from vse_tf.artifacts.versions import Release, unwritable
from vse_tf.display import part
from vse_tf.embedder import Embedder
from vse_tf.errors import UserError
from vse_tf.exporting import golden_inputs
from vse_tf.exporting.frozen_tower import for_serving
from vse_tf.exporting.towers import IMAGE_TOWER, TEXT_TOWER, image_facts, text_facts
from vse_tf.models.packed_gru import PackedGRU
from vse_tf.preprocessing.text import pad
from vse_tf.quiet import quiet

Format = Literal["onnx", "litert"]

# Modules that exporter and comparison need; the extra of the same name installs them.
NEEDS: dict[Format, tuple[str, ...]] = {"onnx": ("onnx", "tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",)}
SUFFIX: dict[Format, str] = {"onnx": "onnx", "litert": "tflite"}
# Towers with attention pooling round states to float16, which tf2onnx optimises away.
TOLERANCE = 5e-4

Run = Callable[[np.ndarray], np.ndarray]


def write_portable(root: Path, embedder: Embedder, kind: Format, facts: Mapping[str, Any]) -> list[tuple[Path, float]]:
    """Write both towers into the next `<root>/<kind>/<version>/`, with the tokenizer's files and a manifest.

    These formats contain only the towers; the client decodes, resizes and tokenises. The image tower takes float32
    pixels `(n, h, w, 3)` in 0..255, or features; the text tower int32 token ids `(n, length)`, −1 as padding. In LiteRT
    the text tower takes a single text of `text.max_tokens` ids, since a recurrence over any length would need
    TensorFlow's own operations there.

    Args:
        root: the folder of all models.
        embedder: the run.
        kind: the format.
        facts: the manifest's values about the run.

    Returns:
        Each file and the largest difference of its vectors from the live tower's.

    Raises:
        UserError: an extra is missing, the tower cannot be converted, its vectors differ, or the folder cannot be
            written.
    """
    missing = [name for name in NEEDS[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--format {kind}: needs {', '.join(missing)}; install it with: pip install 'vse_tf[{kind}]'")
    precision = embedder.settings.model.precision
    if precision != "float32":
        raise UserError(f"--format {kind}: needs float32 towers, this run's are {precision}; use savedmodel")
    text = embedder.settings.text
    ids = pad(embedder.tokenizer(list(golden_inputs.TEXTS)), [text.max_tokens], text.max_tokens).numpy()
    free = None if kind == "onnx" else 1
    image = embedder.inference_tower("image")
    inputs: dict[str, tuple[keras.Model, np.ndarray, list[int | None]]] = {
        IMAGE_TOWER: (image, _images(embedder), [None, *image.input_shape[1:]]),
        TEXT_TOWER: (embedder.inference_tower("caption"), ids, [free, free and text.max_tokens]),
    }
    with Release(root, [kind]) as release:
        folder, found = release.folder(kind), {}
        for name, (tower, values, shape) in inputs.items():
            file = folder / f"{name}.{SUFFIX[kind]}"
            with part(name):
                _convert(tower, file, kind, shape)
                found[file.name] = _compare(tower, file, kind, values)
        facts = {"differences": found, "image": image_facts(embedder.view), "text": text_facts(embedder), **facts}
        try:
            embedder.tokenizer.save(folder / "tokenizer")
            manifest.write(folder, {"model": kind, **facts})
        except OSError as error:
            raise unwritable(root, error) from None
        place = release.publish()[0]
    return [(place / name, difference) for name, difference in found.items()]


def _images(embedder: Embedder) -> np.ndarray:
    if embedder.view.size is None:
        return golden_inputs.features(3, *embedder.image_tower.input_shape[1:])
    return np.stack([embedder.view.of_pixels(tf.constant(array), None) for array in golden_inputs.pixel_arrays()])


def _convert(tower: keras.Model, file: Path, kind: Format, shape: list[int | None]) -> None:
    spec = tf.TensorSpec(shape, tower.inputs[0].dtype, name=tower.inputs[0].name)
    try:
        portable = _with_plain_gru(tower)
        if kind == "onnx":
            _teach_erfc()
        with quiet(), for_serving(portable):
            portable.export(str(file), format=kind, verbose=False, input_signature=[spec])
    except OSError as error:
        raise unwritable(file.parent.parent, error) from None
    except Exception as error:  # the errors of the converters have no common class
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"--format {kind}: {file.stem} cannot be converted: {reason}; use savedmodel") from error


def _teach_erfc() -> None:
    """Tell tf2onnx how to convert `Erfc`, of which the exact GELU is made: 1 - Erf."""
    from tf2onnx.handler import tf_op  # noqa: PLC0415

    class Erfc:
        @classmethod
        def version_9(cls, ctx: Any, node: Any, **_: Any) -> None:
            dtypes, shapes = [ctx.get_dtype(node.output[0])], [ctx.get_shape(node.output[0])]
            one = ctx.make_const(f"{node.name}_one", np.ones([], np.float32))
            erf = ctx.make_node("Erf", node.input, dtypes=dtypes, shapes=shapes)
            ctx.remove_node(node.name)
            ends = [one.output[0], erf.output[0]]
            ctx.make_node("Sub", ends, outputs=node.output, name=node.name, dtypes=dtypes, shapes=shapes)

    tf_op("Erfc")(Erfc)


def _with_plain_gru(tower: keras.Model) -> keras.Model:
    """The tower with Keras' GRU instead of `PackedGRU`, which converters cannot convert; the result is the same."""

    def plain(config: object) -> object:
        if isinstance(config, list):
            return [plain(item) for item in config]
        if not isinstance(config, dict):
            return config
        found = {key: plain(value) for key, value in config.items()}
        if config.get("class_name") == PackedGRU.__name__:
            found |= {"module": "keras.layers", "class_name": "GRU", "registered_name": None}
        return found

    rebuilt = keras.saving.deserialize_keras_object(plain(keras.saving.serialize_keras_object(tower)))
    rebuilt.set_weights(tower.get_weights())
    return rebuilt


def _compare(tower: keras.Model, file: Path, kind: Format, values: np.ndarray) -> float:
    expected = tower(values, training=False).numpy()
    try:
        found = (_onnx if kind == "onnx" else _litert)(file)(values)
    except Exception as error:  # as above
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"--format {kind}: {file.stem} cannot be run: {reason}; use savedmodel") from error
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise UserError(f"--format {kind}: the vectors of {file.stem} differ from the run's by {difference:.2g}")
    return difference


def _onnx(file: Path) -> Run:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda values: session.run(None, {name: values})[0]


def _litert(file: Path) -> Run:
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

    interpreter = Interpreter(str(file))
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run_one(value: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, value[np.newaxis])
        interpreter.invoke()
        return interpreter.get_tensor(target)[0].copy()

    return lambda values: np.stack([run_one(value) for value in values])
