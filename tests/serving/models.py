"""The models of the contract: small `tf.Module`s with one signature for each behaviour of the REST API.

    python -m tests.serving.models DIR

writes them and a `models.config` for whoever wants to start a `tensorflow_model_server` on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from vse_tf.preprocessing.images import decode_centre_view

MAX_PIXELS = 1_000_000


def spec(shape: list[int | None], dtype: tf.DType, name: str) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype, name)


def of_batch(dtype: tf.DType, *names: str) -> list[tf.TensorSpec]:
    return [spec([None], dtype, name) for name in names]


def decoded(contents: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.io.decode_image(contents, 3, expand_animations=False), tf.float32)


def mean_colours(files: tf.Tensor, decode: Callable[[tf.Tensor], tf.Tensor] = decoded) -> tf.Tensor:
    return tf.map_fn(
        lambda each: tf.reduce_mean(decode(each), [0, 1]), files, fn_output_signature=spec([3], tf.float32, "colour")
    )


class Dual(tf.Module):
    """A table of ten vectors that texts are hashed to, and what else the API can be asked for."""

    def __init__(self, version: int) -> None:
        super().__init__()
        table = np.arange(40, dtype=np.float32).reshape(10, 4)
        self.table = tf.Variable(table * np.float32(0.1) * version)

    def _embed(self, texts: tf.Tensor) -> tf.Tensor:
        return tf.gather(self.table, tf.strings.to_hash_bucket_fast(texts, 10))

    @tf.function(input_signature=of_batch(tf.string, "query"))
    def serving_default(self, query):
        return {"query_embedding": self._embed(query)}

    @tf.function(input_signature=[*of_batch(tf.string, "title"), spec([None, 2], tf.float32, "feats")])
    def item(self, title, feats):
        return {"embedding": self._embed(title), "norm": tf.reduce_sum(feats, -1)}

    @tf.function(input_signature=of_batch(tf.string, "query"))
    def topk(self, query):
        scores, at = tf.math.top_k(tf.linalg.matmul(self._embed(query), self.table, transpose_b=True), 3)
        ids = tf.strings.join(["doc-", tf.strings.as_string(at)])
        return {"scores": scores, "ids": ids, "ids_bytes": ids}

    @tf.function(input_signature=of_batch(tf.string, "image_bytes"))
    def echo(self, image_bytes):
        return {"raw_bytes": tf.identity(image_bytes)}

    @tf.function(input_signature=of_batch(tf.string, "s"))
    def echo_str(self, s):
        return {"s": tf.identity(s)}

    @tf.function(
        input_signature=[
            *of_batch(tf.int32, "i32"),
            *of_batch(tf.int64, "i64"),
            *of_batch(tf.bool, "b"),
            *of_batch(tf.uint8, "u8"),
            *of_batch(tf.float64, "d"),
        ]
    )
    def types(self, i32, i64, b, u8, d):
        named = {"i32": i32, "i64": i64, "b": b, "u8": u8, "d": d}
        return {name: tf.identity(value) for name, value in named.items()}

    @tf.function(input_signature=of_batch(tf.float32, "x"))
    def scalar(self, x):
        return {"total": tf.reduce_sum(x)}

    @tf.function(input_signature=of_batch(tf.float32, "x"))
    def div(self, x):
        return {"y": tf.constant([1.0, -1.0, 0.0]) / x}

    @tf.function(input_signature=of_batch(tf.int32, "x"))
    def fail(self, x):
        with tf.control_dependencies([tf.debugging.assert_positive(x, message="x must be positive")]):
            return {"y": tf.identity(x)}

    @tf.function(input_signature=of_batch(tf.float32, "x"))
    def half(self, x):
        return {"y": tf.cast(x, tf.float16)}


class Dense(tf.Module):
    """A 3 to 2 layer of ones, as Keras exports it."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.ones([3, 2]))

    @tf.function(input_signature=[spec([None, 3], tf.float32, "x")])
    def serve(self, x):
        return {"output_0": tf.linalg.matmul(x, self.kernel)}


class Words(tf.Module):
    """Texts to four numbers each."""

    def __init__(self) -> None:
        super().__init__()
        self.table = tf.Variable(tf.random.stateless_uniform([100, 4], [1, 2], -0.05, 0.05))

    @tf.function(input_signature=of_batch(tf.string, "query"))
    def serve(self, query):
        return {"embedding": tf.gather(self.table, tf.strings.to_hash_bucket_fast(query, 100))}


class Photo(tf.Module):
    """Image files to the mean colour of their centre, decoded as the towers decode them."""

    @tf.function(input_signature=of_batch(tf.string, "image_bytes"))
    def serve(self, image_bytes):
        return {"embedding": mean_colours(image_bytes, lambda each: decode_centre_view(each, MAX_PIXELS, (16, 16)))}


class ImageTower(tf.Module):
    """Image files to their mean colour."""

    @tf.function(input_signature=of_batch(tf.string, "image_bytes"))
    def serve(self, image_bytes):
        return {"embedding": mean_colours(image_bytes)}


class Retrieval(tf.Module):
    """A gallery of colours with words in front: the nearest for a text or an image."""

    COLOURS = (
        ("red.png", "a red card", (1, 0, 0)),
        ("green.png", "a green card", (0, 1, 0)),
        ("blue.png", "", (0, 0, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.ids, self.captions = (tf.constant([each[at] for each in self.COLOURS]) for at in (0, 1))
        self.matrix = tf.Variable(np.array([each[2] for each in self.COLOURS], np.float32))

    def _nearest(self, vectors):
        scores, at = tf.math.top_k(tf.linalg.matmul(vectors, self.matrix, transpose_b=True), 3)
        return {"ids": tf.gather(self.ids, at), "scores": scores, "captions": tf.gather(self.captions, at)}

    @tf.function(input_signature=of_batch(tf.string, "text"))
    def search_text(self, text):
        words = [tf.strings.regex_full_match(text, f".*{name[:-4]}.*") for name, _, _ in self.COLOURS]
        return self._nearest(tf.cast(tf.stack(words, -1), tf.float32))

    @tf.function(input_signature=of_batch(tf.string, "image_bytes"))
    def search_image(self, image_bytes):
        return self._nearest(mean_colours(image_bytes) / 255)

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string, name) for name in ("text", "image_bytes", "without")]
    )
    def search_mixed(self, text, image_bytes, without):
        words = [tf.strings.regex_full_match(text, f".*{name[:-4]}.*") for name, _, _ in self.COLOURS]
        left_out = [tf.strings.regex_full_match(without, f".*{name[:-4]}.*") for name, _, _ in self.COLOURS]
        colours = tf.cond(image_bytes[0] == "", lambda: tf.zeros([1, 3]), lambda: mean_colours(image_bytes) / 255)
        return self._nearest(
            tf.cast(tf.stack(words, -1), tf.float32) + colours - tf.cast(tf.stack(left_out, -1), tf.float32)
        )


class TextTower(tf.Module):
    """Texts to unit vectors that depend on their bytes."""

    @tf.function(input_signature=of_batch(tf.string, "text"))
    def serve(self, text):
        angle = tf.cast(tf.strings.to_hash_bucket_fast(text, 1000), tf.float32) / 1000
        return {"embedding": tf.stack([tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)], -1)}


def save(module: tf.Module, folder: Path, *names: str, default: str | None = None) -> None:
    """Save a module with signatures of those names; `default` is saved as `serving_default` too."""
    signatures = {name: getattr(module, name) for name in names}
    if default:
        signatures["serving_default"] = getattr(module, default)
    tf.saved_model.save(module, str(folder), signatures)


DUAL = ("serving_default", "item", "topk", "echo", "echo_str", "types", "scalar", "div", "fail", "half")

CONFIG = """\
model_config_list {{
  config {{
    name: "dual" base_path: "{root}/dual" model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 2 }}
  }}
  config {{ name: "keras" base_path: "{root}/keras" model_platform: "tensorflow" }}
  config {{ name: "keras_str" base_path: "{root}/keras_str" model_platform: "tensorflow" }}
  config {{ name: "photo" base_path: "{root}/photo" model_platform: "tensorflow" }}
  config {{ name: "sp ace" base_path: "{root}/sp ace" model_platform: "tensorflow" }}
}}
"""


def write_models(root: Path) -> Path:
    """Write all models of the contract and their models.config; returns its path."""
    for version in (1, 2):
        save(Dual(version), root / "dual" / str(version), *DUAL)
    save(Dense(), root / "keras" / "1", "serve", default="serve")
    save(Words(), root / "keras_str" / "1", default="serve")
    save(Words(), root / "sp ace" / "1", default="serve")
    save(Photo(), root / "photo" / "1", default="serve")
    config = root / "models.config"
    config.write_text(CONFIG.format(root=root.resolve()))
    return config


def write_towers(root: Path) -> None:
    """Write stand-ins of the models that an export consists of: image_tower, text_tower and retrieval."""
    save(ImageTower(), root / "image_tower" / "1", default="serve")
    save(TextTower(), root / "text_tower" / "1", default="serve")
    save(Retrieval(), root / "retrieval" / "1", "search_text", "search_image", "search_mixed", default="search_text")


if __name__ == "__main__":
    print(write_models(Path(sys.argv[1])))
