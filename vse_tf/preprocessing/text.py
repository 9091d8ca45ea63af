"""Tokenizers: captions to token ids, the same in `tf.data`, in the model in memory and in exported graphs.

Batches of tokens are int32 `(batch, length)` with `PADDING` after a caption's end, whatever padding a preset uses; the
mask of a tower is `ids >= 0`.

`WordTokenizer` counts its vocabulary in the training captions and runs on TensorFlow's core operations.
`PresetTokenizer` wraps the tokenizer of a KerasHub preset and needs `tensorflow_text` imported wherever its graph runs.
Both are `tf.Module`s: as an attribute of an exported `tf.Module`, a tokenizer's lookup tables are in the SavedModel.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.files import read_regular, reason_of
from vse_tf.preprocessing.preset_tokenizer import PresetTokenizer
from vse_tf.preprocessing.tokenizer_assets import ASSET_BYTES, DESCRIPTION, check_files
from vse_tf.preprocessing.tokenizer_parts import between, check_max_tokens, describe, description
from vse_tf.preprocessing.words import RULE, normalise, split_words, to_tensor

PADDING = -1
UNKNOWN, START, END = "<unknown>", "<start>", "<end>"  # never words of a caption: `normalise` splits off < and >
VOCABULARY = "vocabulary.txt"


class Tokenizer(Protocol):
    """Captions to token ids: a `WordTokenizer` or a `PresetTokenizer`."""

    needs_tf_text: bool
    max_tokens: int
    vocabulary_size: int

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Strings `(n,)` to int32 `(n, None)`, at most `max_tokens` ids per caption."""

    def save(self, folder: str | Path) -> None:
        """Write it into a folder, which is made if there is none; see `load_tokenizer`."""


class WordTokenizer(tf.Module):
    """Words of `normalise` to ids, between a start and an end marker, as the reference code has them.

    Ids: 0 is an unknown word, 1 the start, 2 the end, then the vocabulary. An empty or blank caption is start and end.
    Core TensorFlow operations only. On disk: `vocabulary.txt` (UTF-8, line number = id + 1) and `tokenizer.json`.

    Args:
        words: the vocabulary without the markers, in the order of its ids.
        max_tokens: largest number of ids per caption, markers included; longer captions lose words, not the end marker.
        min_count: smallest count of a word when the vocabulary was counted; stored with it.

    Raises:
        UserError: `max_tokens` is too small for a word.

    Example:
        >>> tokenizer = WordTokenizer.fit(["A dog runs.", "A dog sleeps."], min_count=2, max_tokens=16)
        >>> tokenizer(tf.constant(["The dog!"])).to_list()
        [[1, 0, 4, 2]]
    """

    needs_tf_text = False

    def __init__(self, words: Sequence[str], max_tokens: int, min_count: int = 1) -> None:
        super().__init__(name="word_tokenizer")
        check_max_tokens(max_tokens, markers=2)
        self.max_tokens = max_tokens
        self.min_count = min_count
        vocabulary = [UNKNOWN, START, END, *words]
        self.vocabulary_size = len(vocabulary)
        self._lines = "\n".join(vocabulary)  # tf.Module would wrap and walk through a list of words
        ids = tf.range(self.vocabulary_size, dtype=tf.int32)
        self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(tf.constant(vocabulary), ids), 0)

    @property
    def vocabulary(self) -> list[str]:
        """The words in the order of their ids, the three markers first."""
        return self._lines.split("\n")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    @classmethod
    def fit(cls, captions: Iterable[str], min_count: int, max_tokens: int) -> WordTokenizer:
        """Count the words of the training captions and keep the frequent ones, by falling count, then by code point.

        Args:
            captions: captions of the train split only.
            min_count: words seen less often are unknown.
            max_tokens: see the class.

        Raises:
            UserError: no word is that frequent.
        """
        counts = Counter(chain.from_iterable(split_words(captions)))
        words = {word: count for word, count in counts.items() if count >= min_count}
        if not words:
            raise UserError(f"text.min_count: no word occurs {min_count} times in the train captions; lower it")
        return cls(sorted(words, key=lambda word: (-words[word], word)), max_tokens, min_count)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Tokenise strings `(n,)` into int32 `(n, None)`, 2 to `max_tokens` ids per caption."""
        words = tf.strings.split(normalise(to_tensor(texts)))[:, : self.max_tokens - 2]
        return between(words.with_flat_values(self._table.lookup(words.flat_values)), 1, 2)

    def tokenise_all(self, captions: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """What the function `tokenise_all` gives, without a graph."""
        ids, values, ends = self._ids, array("i"), array("q", [0])
        for words in split_words(captions):
            values.append(1)
            values.extend([ids.get(word, 0) for word in words[: self.max_tokens - 2]])
            values.append(2)
            ends.append(len(values))
        return np.array(values, np.int32), np.array(ends, np.int64)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `vocabulary.txt` into the folder, which is made if there is none."""
        describe(folder, {"kind": "words", "rule": RULE, "max_tokens": self.max_tokens, "min_count": self.min_count})
        (Path(folder) / VOCABULARY).write_bytes((self._lines + "\n").encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, broken or has another `RULE`.
        """
        settings = description(folder, "words")
        if (rule := settings.get("rule")) != RULE:
            raise UserError(f"{Path(folder) / DESCRIPTION}: rule {rule}, this version has {RULE}; retrain")
        path = Path(folder) / VOCABULARY
        try:
            lines = read_regular(path, ASSET_BYTES).decode("utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}; copy the complete folder again") from error
        if lines[:3] != [UNKNOWN, START, END]:
            raise UserError(f"{path}: the first three lines must be {UNKNOWN}, {START} and {END}; copy it again")
        first: dict[str, int] = {}
        for number, word in enumerate(lines, start=1):
            if word != word.strip() or not word or first.setdefault(word, number) != number:
                raise UserError(f"{path}: line {number}: empty, padded or repeated word {word!r}; copy the file again")
        return cls(lines[3:], settings["max_tokens"], settings.get("min_count", 1))


def load_tokenizer(folder: str | Path) -> WordTokenizer | PresetTokenizer:
    """Read the tokenizer of a run folder, of either class.

    Raises:
        UserError: there is none, or the folder contains other than regular files of its run.
    """
    try:
        check_files(Path(folder))
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        where = getattr(error, "filename", None) or folder
        raise UserError(f"{where}: {reason}; copy the complete folder again") from None
    kind = description(folder)["kind"]
    return WordTokenizer.load(folder) if kind == "words" else PresetTokenizer.load(folder)


def pad(tokens: tf.RaggedTensor, buckets: Sequence[int], max_tokens: int) -> tf.Tensor:
    """Pad a batch with `PADDING` to the smallest bucket that fits its longest caption.

    Few lengths mean few traced graphs. The largest bucket is `max_tokens`; larger ones are ignored.

    Args:
        tokens: int32 `(n, None)`; longer captions than `max_tokens` are truncated.
        buckets: lengths, in any order.
        max_tokens: largest number of ids per caption.

    Returns:
        int32 `(n, bucket)`.

    Example:
        >>> pad(tf.ragged.constant([[1, 7, 2], [1, 2]]), buckets=[4, 8], max_tokens=16).numpy().tolist()
        [[1, 7, 2, -1], [1, 2, -1, -1]]
    """
    lengths = tf.constant(sorted({max_tokens, *buckets}), tf.int64)
    longest = tf.reduce_max(tf.concat([tf.cast(tokens.row_lengths(), tf.int64), [0]], 0))
    bucket = lengths[tf.searchsorted(lengths, [tf.minimum(longest, max_tokens)])[0]]
    return tf.ensure_shape(tokens.to_tensor(PADDING, shape=tf.stack([-1, bucket])), (None, None))


def tokenise_all(
    tokenizer: Callable[[Sequence[str]], tf.RaggedTensor], captions: Sequence[str], batch: int = 8192
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenise captions once, into two flat arrays: caption i is `ids[splits[i] : splits[i + 1]]`.

    Args:
        tokenizer: a tokenizer of this module.
        captions: `n` captions.
        batch: number of captions tokenised at a time.

    Returns:
        int32 ids of all captions, and int64 row splits `(n + 1,)`.
    """
    if isinstance(tokenizer, WordTokenizer):
        return tokenizer.tokenise_all(captions)
    values, lengths = [np.zeros(0, np.int32)], [np.zeros(1, np.int64)]
    for part in _batches(captions, batch):
        rows = tokenizer(part)
        values.append(rows.flat_values.numpy())
        lengths.append(rows.row_lengths().numpy())
    return np.concatenate(values), np.cumsum(np.concatenate(lengths), dtype=np.int64)


def _batches(captions: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(captions)
    while batch := list(islice(iterator, size)):
        yield batch
