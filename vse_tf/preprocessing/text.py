"""Tokenizers: captions to token ids, the same in `tf.data`, in the model in memory and in exported graphs.

Batches of tokens are int32 `(batch, length)` with `PADDING` after a caption's end, whatever padding a preset uses; the
mask of a tower is `ids >= 0`.

`WordTokenizer` counts its vocabulary in the training captions and runs on TensorFlow's core operations.
`PresetTokenizer` wraps the tokenizer of a KerasHub preset and needs `tensorflow_text` imported wherever its graph runs.
Both are `tf.Module`s: as an attribute of an exported `tf.Module`, a tokenizer's lookup tables are in the SavedModel.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from vse_tf.addresses import is_address
from vse_tf.downloads import preset_downloads
from vse_tf.errors import UserError
from vse_tf.files import read_json, read_regular, reason_of
from vse_tf.preprocessing.tokenizer_assets import ASSET_BYTES, check_files, load_assets
from vse_tf.preprocessing.words import RULE, lower, normalise, split_words, to_tensor, valid_utf8
from vse_tf.remote.copies import local_path

if TYPE_CHECKING:
    import keras_hub

PADDING = -1
UNKNOWN, START, END = "<unknown>", "<start>", "<end>"  # never words of a caption: `normalise` splits off < and >
MOST_TOKENS = 2**16  # as in the settings
# So many tokenizers of presets are kept by a process, the last ones.
MADE = 4
DESCRIPTION, VOCABULARY, PRESET = "tokenizer.json", "vocabulary.txt", "preset"


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
        _check_max_tokens(max_tokens, markers=2)
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
        return _between(words.with_flat_values(self._table.lookup(words.flat_values)), 1, 2)

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
        _describe(folder, {"kind": "words", "rule": RULE, "max_tokens": self.max_tokens, "min_count": self.min_count})
        (Path(folder) / VOCABULARY).write_bytes((self._lines + "\n").encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, broken or has another `RULE`.
        """
        settings = _description(folder, "words")
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


class PresetTokenizer(tf.Module):
    """The tokenizer of a KerasHub preset, with the start and end tokens that its models were trained with.

    BERT's relatives get `[CLS]` and `[SEP]`, RoBERTa's `<s>` and `</s>`, CLIP its start and end of text; SigLIP and T5
    get an end only. CLIP's captions are lower-cased and SigLIP's lose case and ASCII punctuation, as KerasHub's
    preprocessors do it. An empty or blank caption is these tokens alone.

    KerasHub has two implementations of every tokenizer, one in Python for eager calls and one in TensorFlow; they can
    differ, so this class always runs the second, which needs TensorFlow Text. On disk: `tokenizer.json` and KerasHub's
    own files in `preset/`; nothing outside the folder is needed again.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer` with its vocabulary.
        max_tokens: largest number of ids per caption, start and end included; longer captions lose their last tokens.

    Raises:
        UserError: `max_tokens` is too small for a token.

    Example:
        >>> tokenizer = PresetTokenizer.from_preset("bert_tiny_en_uncased", max_tokens=64)
        >>> tokenizer(tf.constant(["A dog."])).to_list()
        [[101, 1037, 3899, 1012, 102]]
    """

    needs_tf_text = True

    def __init__(self, tokenizer: keras_hub.tokenizers.Tokenizer, max_tokens: int) -> None:
        super().__init__(name="preset_tokenizer")
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.vocabulary_size = int(tokenizer.vocabulary_size())
        self.pad_id = int(getattr(tokenizer, "pad_token_id", 0) or 0)  # for a tower that takes no mask, SigLIP's
        self.end_id: int | None = getattr(tokenizer, "end_token_id", None)
        start: int | None = getattr(tokenizer, "start_token_id", None)
        self.start_id = None if start == self.end_id else start  # T5 has no start token and names its end token so
        self._most_words = max_tokens - (self.start_id is not None) - (self.end_id is not None)
        _check_max_tokens(max_tokens, markers=max_tokens - self._most_words)
        self._prepare = _preparation(tokenizer)
        self._run = self._traced()

    @classmethod
    def from_preset(cls, preset: str, max_tokens: int) -> PresetTokenizer:
        """The tokenizer of a preset name or folder, with or without the prefix `hub:` of `text.encoder`.

        Raises:
            UserError: there is no such preset, it cannot be downloaded, or it has no tokenizer.
        """
        import keras_hub  # noqa: PLC0415 (13 s)

        preset = preset.removeprefix("hub:")
        if is_address(preset):
            preset = str(local_path(preset))
        with preset_downloads("text.encoder", preset):
            try:
                if (Path(preset) / DESCRIPTION).is_file() and not (Path(preset) / "config.json").exists():
                    tokenizer = load_assets(Path(preset))  # a tokenizer saved alone, which from_preset refuses
                else:
                    tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
            except Exception as error:  # KerasHub raises anything for missing files and damaged presets
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise UserError(
                    f"text.encoder: no tokenizer in preset {preset!r}; give a text preset ({reason})"
                ) from error
        return cls._once(tokenizer, max_tokens)

    @classmethod
    def _once(cls, tokenizer: keras_hub.tokenizers.Tokenizer, max_tokens: int) -> PresetTokenizer:
        """The one that this process has made of equal files before, if any: tracing CLIP's takes 3 s.

        SentencePiece has a resource that may be lost, see `__call__`, and takes little to trace.
        """
        if _is_sentence_piece(tokenizer):
            return cls(tokenizer, max_tokens)
        content = blake2b(str(max_tokens).encode())
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_to_preset(folder)
            for path in sorted(filter(Path.is_file, Path(folder).rglob("*"))):
                content.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode() + path.read_bytes())
        found = _made.pop(key := content.digest(), None) or cls(tokenizer, max_tokens)
        while len(_made) >= MADE:
            _made.pop(next(iter(_made)), None)
        return _made.setdefault(key, found)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Tokenise strings `(n,)` into int32 `(n, None)`, at most `max_tokens` ids per caption."""
        try:
            return self._run(to_tensor(texts))
        except tf.errors.NotFoundError:
            if not _is_sentence_piece(self.tokenizer):
                raise
            # SentencePiece's resource belongs to a kernel, and `keras.utils.set_random_seed` drops all kernels.
            self.tokenizer.set_proto(self.tokenizer.proto)
            self._run = self._traced()
            return self._run(to_tensor(texts))

    def _traced(self) -> Any:
        # Traced even in eager calls: KerasHub picks its TensorFlow implementation inside a tf.function only.
        return tf.function(self._tokenise, input_signature=[tf.TensorSpec((None,), tf.string)])

    def _tokenise(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.regex_replace(valid_utf8(texts), r"\p{Cc}", " ")  # NUL would end the text in some ops
        ids = tf.cast(self.tokenizer.tokenize(self._prepare(texts)), tf.int32)
        # A byte pair that is not in the vocabulary comes as -1, which is our padding.
        ids = tf.ragged.boolean_mask(ids, ids >= 0)[:, : self._most_words]
        return _between(ids, self.start_id, self.end_id)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and the folder `preset` into the folder, which is made if there is none."""
        _describe(folder, {"kind": "preset", "max_tokens": self.max_tokens})
        self.tokenizer.save_to_preset(str(Path(folder) / PRESET))

    @classmethod
    def load(cls, folder: str | Path) -> PresetTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or broken.
        """
        settings = _description(folder, "preset")
        try:
            tokenizer = load_assets(Path(folder) / PRESET)
        except Exception as error:  # KerasHub raises anything for a damaged vocabulary
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{Path(folder) / PRESET}: {reason}; copy the complete folder again") from error
        return cls._once(tokenizer, settings["max_tokens"])


_made: dict[bytes, PresetTokenizer] = {}


def _is_sentence_piece(tokenizer: keras_hub.tokenizers.Tokenizer) -> bool:
    return hasattr(tokenizer, "set_proto")


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
    kind = _description(folder)["kind"]
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


def _between(ids: tf.RaggedTensor, start: int | None, end: int | None) -> tf.RaggedTensor:
    ones = tf.ones((ids.nrows(), 1), tf.int32)
    parts = [*([] if start is None else [start * ones]), ids, *([] if end is None else [end * ones])]
    return tf.concat(parts, axis=1)


def _check_max_tokens(max_tokens: int, markers: int) -> None:
    if max_tokens <= markers:
        raise UserError(f"text.max_tokens: {max_tokens} is too small for a word; give {markers + 1} or more")


def _preparation(tokenizer: keras_hub.tokenizers.Tokenizer) -> Callable[[tf.Tensor], tf.Tensor]:
    """What KerasHub's preprocessor of that model family does with a caption before its tokenizer."""
    from keras_hub import tokenizers  # noqa: PLC0415 (13 s)

    if isinstance(tokenizer, tokenizers.CLIPTokenizer):
        return lower
    return _canonical if isinstance(tokenizer, tokenizers.SigLIPTokenizer) else tf.identity


def _canonical(texts: tf.Tensor) -> tf.Tensor:
    texts = tf.strings.regex_replace(lower(texts), "[[:punct:]]", "")
    return tf.strings.strip(tf.strings.regex_replace(texts, r"\s+", " "))


def _describe(folder: str | Path, settings: dict[str, Any]) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / DESCRIPTION).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _description(folder: str | Path, kind: str | None = None) -> dict[str, Any]:
    path = Path(folder) / DESCRIPTION
    try:
        settings = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no tokenizer can be read here: {error}; give a folder that training wrote") from error
    kinds = [kind] if kind else ["words", "preset"]
    values = settings if isinstance(settings, dict) else {}
    length = values.get("max_tokens")
    if values.get("kind") not in kinds or type(length) is not int or not 0 < length <= MOST_TOKENS:
        raise UserError(
            f"{path}: needs `kind` ({' or '.join(kinds)}) and `max_tokens` (up to {MOST_TOKENS}); copy the file again"
        )
    return settings
