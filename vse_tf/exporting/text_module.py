"""The text tower as modules for export: texts in, or token ids in; unit vectors out."""

from __future__ import annotations

import tensorflow as tf

from vse_tf.config import TextSettings
from vse_tf.exporting.frozen_tower import FrozenTower
from vse_tf.exporting.signature import Signatures, checked, signature
from vse_tf.exporting.slices import SLICE_SIZE, in_slices
from vse_tf.indexing.embedding_models import NO_WORD
from vse_tf.preprocessing.text import PADDING, Tokenizer, pad
from vse_tf.preprocessing.words import normalise

# Splitting a text into words takes 30 times its size: a few hundred MB for a slice.
MAX_TEXT_BYTES = 2**17


class TextModule(tf.Module):
    """The text tower with its tokenizer.

    Core TensorFlow operations only; a preset's tokenizer also needs those of TF-Text. Every string has a vector: a
    blank one that of the start and end tokens alone, invalid UTF-8 that of its replacement characters.

    Args:
        tower: the text tower.
        tokenizer: its tokenizer.
        text: settings of the tower: `buckets` and `max_tokens`.

    Example:
        >>> module = TextModule(FrozenTower(embedder.text_tower), embedder.tokenizer, embedder.settings.text)
        >>> module.signatures()["serving_default"](text=tf.constant(["a dog"]))["embedding"].shape
        TensorShape([1, 128])
    """

    def __init__(self, tower: FrozenTower, tokenizer: Tokenizer, text: TextSettings) -> None:
        super().__init__(name="text_module")
        self.tokenizer = tokenizer
        self.weights = tower.variables
        self._encode = tower
        self._lengths = (tuple(text.buckets), text.max_tokens)

    def signatures(self) -> Signatures:
        """The function to export."""
        return {"serving_default": signature(self.of_text, text=tf.TensorSpec([None], tf.string))}

    def of_text(self, text: tf.Tensor) -> tf.Tensor:
        """Texts `(n,)` to unit vectors `(n, dim)`; one of more than `MAX_TEXT_BYTES` is an error that names it."""
        sizes = tf.strings.length(text)
        longest = tf.argmax(tf.concat([sizes, [0]], 0))
        size = tf.reduce_max(tf.concat([sizes, [0]], 0))
        problem = ["text[", tf.strings.as_string(longest), "]: ", tf.strings.as_string(size), " bytes, at most "]
        text = checked(text, size <= MAX_TEXT_BYTES, *problem, str(MAX_TEXT_BYTES))

        def encode(start: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
            return [self._encode.run_slice(pad(self.tokenizer(text[start:end]), *self._lengths))]

        (vectors,) = in_slices(tf.shape(text)[0], SLICE_SIZE, encode, [self._encode.output_spec])
        return vectors

    def known(self, text: tf.Tensor) -> tf.Tensor:
        """Whether the tokens of texts `(n,)` differ from those of as many words that nobody knows, bool `(n,)`.

        A text without words is known: there is none that could be unknown.
        """

        def compare(start: tf.Tensor, end: tf.Tensor) -> list[tf.Tensor]:
            words = normalise(text[start:end])
            nonsense = tf.strings.regex_replace(words, r"\S+", NO_WORD)
            found, other = (
                self.tokenizer(each).to_tensor(PADDING, shape=[None, self._lengths[1]])
                for each in (text[start:end], nonsense)
            )
            return [(words == "") | tf.reduce_any(found != other, axis=1)]

        (known,) = in_slices(tf.shape(text)[0], SLICE_SIZE, compare, [tf.TensorSpec([], tf.bool)])
        return known


class TokenIdsModule(tf.Module):
    """The text tower alone, for clients that tokenise themselves. Core TensorFlow operations only.

    Args:
        tower: the text tower.
        text: settings of the tower: `buckets` and `max_tokens`.

    Example:
        >>> module = TokenIdsModule(FrozenTower(embedder.text_tower), embedder.settings.text)
        >>> ids, mask = tf.constant([[101, 3899, 102, 0]]), tf.constant([[1, 1, 1, 0]])
        >>> module.signatures()["serving_default"](token_ids=ids, padding_mask=mask)["embedding"].shape
        TensorShape([1, 128])
    """

    def __init__(self, tower: FrozenTower, text: TextSettings) -> None:
        super().__init__(name="token_ids_module")
        self.weights = tower.variables
        self._encode = tower
        self._lengths = (tuple(text.buckets), text.max_tokens)

    def signatures(self) -> Signatures:
        """The function to export."""
        spec = tf.TensorSpec([None, None], tf.int32)
        return {"serving_default": signature(self.of_ids, token_ids=spec, padding_mask=spec)}

    def of_ids(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> tf.Tensor:
        """Token ids `(n, length)`, and a mask that is 0 where they are padding, to unit vectors `(n, dim)`."""
        tokens = tf.ragged.boolean_mask(token_ids, padding_mask != 0)
        longest = self._lengths[1]
        fits = tf.reduce_all(tokens.row_lengths() <= longest)
        with tf.control_dependencies([tf.debugging.Assert(fits, [f"token_ids: a row has more than {longest} tokens"])]):
            return self._encode(pad(tokens, *self._lengths))
