"""Tokenisers: strings to token ids, one definition for tf.data, the live model and the exported graph.

Batches of tokens are int32 `(batch, length)` with `PADDING` after a caption's end, whatever a tokenizer's own padding
is; a tower takes its mask from `ids >= 0`.

`WordTokenizer` counts its vocabulary in the training captions and runs on TensorFlow's own ops. `PresetTokenizer` wraps
the tokenizer of a KerasHub preset and needs `tensorflow_text` imported wherever its graph runs. Both are `tf.Module`s:
assign one to an attribute of the `tf.Module` that is exported, and the SavedModel carries its lookup tables.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import tensorflow as tf

from vse_tf.errors import UserError
from vse_tf.files import read_json, read_regular, reason_of
from vse_tf.preprocessing.tokenizer_assets import ASSET_BYTES, check_files, load_assets

if TYPE_CHECKING:
    import keras_hub

PADDING = -1
UNKNOWN, START, END = "<unknown>", "<start>", "<end>"  # no caption gives these words: normalise splits off < and >
RULE = 1  # version of normalise: a vocabulary counted under another rule does not fit this one
MOST_TOKENS = 2**16  # as the settings have it
DESCRIPTION, VOCABULARY, PRESET = "tokenizer.json", "vocabulary.txt", "preset"

# Scripts written without spaces. U+30FC and U+FF70 (Japanese long-vowel marks) and U+3006 belong to no script.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\x{30FC}\x{FF70}\x{3006}"
_MARKS = r"[\p{M}\x{FF9E}\x{FF9F}]*"  # with the half-width voicing marks, which Unicode counts as letters
_SINGLE = rf"(?:[\x{{1F1E6}}-\x{{1F1FF}}]{{2}}|[{_UNSPACED}]|[^\p{{L}}\p{{M}}\p{{N}} ]){_MARKS}"
# ICU lower-cases by the rules of the process's locale: İ and I are others in Turkish, these in Lithuanian.
_LOCAL_CAPITALS = {"İ": "i", "Ì": "ì", "Í": "í", "Ĩ": "ĩ", "Į": "į"}


class Tokenizer(Protocol):
    """Captions to token ids: a `WordTokenizer` or a `PresetTokenizer`."""

    needs_tf_text: bool
    max_tokens: int
    vocabulary_size: int

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Strings `(n,)` to int32 `(n, None)`, at most `max_tokens` ids per caption."""

    def save(self, folder: str | Path) -> None:
        """Write it into a folder, which is made if there is none; see `load_tokenizer`."""


def normalise(texts: tf.Tensor) -> tf.Tensor:
    """Split captions of any language into lower-case words, a single space between two of them.

    In this order:

    1. Invalid UTF-8 is replaced by U+FFFD.
    2. Control characters and zero-width spaces become spaces. Invisible format characters (joiners, soft hyphens,
       directional marks, emoji tags), variation selectors and keycap marks are deleted.
    3. Letters are lower-cased, alike in every locale; `İ` becomes `i`.
    4. White space, punctuation (Unicode class P: also the apostrophe, so `dog's` is `dog s` and `l'homme` is `l homme`)
       and modifier symbols (Sk: free-standing accents, skin tones) separate words and are dropped.
    5. A character of a script written without spaces (Han, Hiragana, Katakana, Bopomofo, Thai, Lao, Khmer, Myanmar), a
       symbol (`$`, `+`, an emoji) and a flag (a pair of regional indicators) is a word of its own, together with the
       combining marks that follow it. An emoji sequence thus gives its parts: a family gives its members.
    6. What remains, letters, marks and numbers in a row, is a word; Korean stays as it is spaced.

    The rule is total (any bytes have a result, perhaps the empty string) and idempotent. TensorFlow's core ops have no
    Unicode normalisation: an accent written as a combining mark stays within its word, but that word differs from the
    one with the composed letter.

    Args:
        texts: UTF-8 strings `(n,)`.

    Returns:
        Strings `(n,)`.

    Example:
        >>> normalise(tf.constant(["A dog's BALL: 紅色的 🐕‍🦺!"])).numpy()[0].decode()
        "a dog s ball 紅 色 的 🐕 🦺"
    """
    texts = _valid(texts)
    # NUL has to go before the lower-casing, which ends a string there.
    texts = tf.strings.regex_replace(texts, r"[\p{Cc}\x{200B}]", " ")
    texts = tf.strings.regex_replace(texts, r"[\p{Cf}\x{20E3}\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]", "")
    texts = _lower(texts)
    texts = tf.strings.regex_replace(texts, r"[\p{Z}\p{P}\p{Sk}\p{C}]+", " ")
    texts = tf.strings.regex_replace(texts, _SINGLE, r" \0 ")
    return tf.strings.strip(tf.strings.regex_replace(texts, " +", " "))


def _valid(texts: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def _lower(texts: tf.Tensor) -> tf.Tensor:
    texts = tf.strings.lower(texts)  # ASCII first, so that no locale gets to see a capital I or J
    for capital, small in _LOCAL_CAPITALS.items():
        texts = tf.strings.regex_replace(texts, capital, small)
    return tf.strings.lower(texts, encoding="utf-8")


def to_tensor(texts: tf.Tensor | Sequence[str]) -> tf.Tensor:
    """Captions as a string tensor `(n,)`; a lone surrogate, which JSON allows, becomes invalid UTF-8, not an error."""
    if isinstance(texts, tf.Tensor):
        return texts
    return tf.constant([text.encode("utf-8", "surrogatepass") for text in texts], tf.string, shape=(len(texts),))


class WordTokenizer(tf.Module):
    """Words of `normalise` to ids, between a start and an end marker, as the reference code has them.

    Ids: 0 is an unknown word, 1 the start, 2 the end, then the vocabulary. An empty or blank caption is start and end.
    Core TensorFlow ops only. On disk: `vocabulary.txt` (UTF-8, line number = id + 1) and `tokenizer.json`.

    Args:
        words: the vocabulary without the markers, in the order of its ids.
        max_tokens: length of the longest row, markers included; longer captions lose their last words, not the end.
        min_count: what the vocabulary was counted with, for the record.

    Raises:
        UserError: `max_tokens` leaves no room for a word.

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

    @classmethod
    def fit(cls, captions: Iterable[str], min_count: int, max_tokens: int) -> WordTokenizer:
        """Count the words of the training captions and keep the frequent ones, by falling count, then by code point.

        Args:
            captions: captions of the train split, of no other.
            min_count: words seen less often are unknown.
            max_tokens: see the class.

        Raises:
            UserError: no word is that frequent, or a number is out of range.
        """
        if min_count < 1:
            raise UserError(f"text.min_count: {min_count} is below 1; 1 keeps every word")
        counts: Counter[bytes] = Counter()
        for batch in _batches(captions, 8192):
            counts.update(tf.strings.split(normalise(to_tensor(batch))).flat_values.numpy().tolist())
        words = {word.decode("utf-8"): count for word, count in counts.items() if count >= min_count}
        if not words:
            raise UserError(f"text.min_count: no word occurs {min_count} times in the train captions; lower it")
        return cls(sorted(words, key=lambda word: (-words[word], word)), max_tokens, min_count)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Tokenise strings `(n,)` into int32 `(n, None)`, 2 to `max_tokens` ids a row."""
        words = tf.strings.split(normalise(to_tensor(texts)))[:, : self.max_tokens - 2]
        return _between(words.with_flat_values(self._table.lookup(words.flat_values)), 1, 2)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `vocabulary.txt` into the folder, which is made where there is none."""
        _describe(folder, {"kind": "words", "rule": RULE, "max_tokens": self.max_tokens, "min_count": self.min_count})
        (Path(folder) / VOCABULARY).write_bytes((self._lines + "\n").encode("utf-8"))

    @classmethod
    def load(cls, folder: str | Path) -> WordTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing, broken or of another rule.
        """
        settings = _description(folder, "words")
        if (rule := settings.get("rule")) != RULE:
            raise UserError(f"{Path(folder) / DESCRIPTION}: rule {rule}, this version has {RULE}; retrain")
        path = Path(folder) / VOCABULARY
        try:
            lines = read_regular(path, ASSET_BYTES).decode("utf-8").removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: {error}; copy the whole folder again") from error
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
        max_tokens: a caption's longest row, start and end included; longer captions lose their last tokens.

    Raises:
        UserError: `max_tokens` leaves no room for a token.

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
        self._room = max_tokens - (self.start_id is not None) - (self.end_id is not None)
        _check_max_tokens(max_tokens, markers=max_tokens - self._room)
        self._prepare = _preparation(tokenizer)
        # Traced even in eager calls: KerasHub picks its TensorFlow implementation inside a tf.function only.
        self._run = tf.function(self._tokenise, input_signature=[tf.TensorSpec((None,), tf.string)])

    @classmethod
    def from_preset(cls, preset: str, max_tokens: int) -> PresetTokenizer:
        """The tokenizer of a preset name or folder, with or without the leading `hub:` of `text.encoder`.

        Raises:
            UserError: there is no such preset, it cannot be had, or it holds no tokenizer.
        """
        import keras_hub  # noqa: PLC0415 (13 s)

        preset = preset.removeprefix("hub:")
        try:
            if (Path(preset) / DESCRIPTION).is_file() and not (Path(preset) / "config.json").exists():
                tokenizer = load_assets(Path(preset))  # a tokenizer saved alone, which from_preset refuses
            else:
                tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
        except Exception as error:  # whatever a missing file, a network or a damaged preset makes KerasHub raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(
                f"text.encoder: no tokenizer in preset {preset!r}; give a text preset ({reason})"
            ) from error
        return cls(tokenizer, max_tokens)

    def __call__(self, texts: tf.Tensor | Sequence[str]) -> tf.RaggedTensor:
        """Tokenise strings `(n,)` into int32 `(n, None)`, at most `max_tokens` ids a row."""
        return self._run(to_tensor(texts))

    def _tokenise(self, texts: tf.Tensor) -> tf.RaggedTensor:
        texts = tf.strings.regex_replace(_valid(texts), r"\p{Cc}", " ")  # NUL would end the text in some ops
        ids = tf.cast(self.tokenizer.tokenize(self._prepare(texts)), tf.int32)
        # A byte pair that is not in the vocabulary comes as -1, which is our padding.
        ids = tf.ragged.boolean_mask(ids, ids >= 0)[:, : self._room]
        return _between(ids, self.start_id, self.end_id)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and the folder `preset` into the folder, which is made where there is none."""
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
        except Exception as error:  # whatever a damaged vocabulary makes KerasHub raise
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{Path(folder) / PRESET}: {reason}; copy the whole folder again") from error
        return cls(tokenizer, settings["max_tokens"])


def load_tokenizer(folder: str | Path) -> WordTokenizer | PresetTokenizer:
    """Read the tokenizer that `save` wrote into a run folder, of whichever class it is.

    Raises:
        UserError: the folder holds none, or something else than regular files of its run.
    """
    try:
        check_files(Path(folder))
    except (OSError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        where = getattr(error, "filename", None) or folder
        raise UserError(f"{where}: {reason}; copy the whole folder again") from None
    kind = _description(folder)["kind"]
    return WordTokenizer.load(folder) if kind == "words" else PresetTokenizer.load(folder)


def pad(tokens: tf.RaggedTensor, buckets: Sequence[int], max_tokens: int) -> tf.Tensor:
    """Pad a batch with `PADDING` to the first bucket that holds its longest row.

    Few lengths mean few traced graphs. Buckets of `max_tokens` and beyond stand for `max_tokens`, the last resort.

    Args:
        tokens: int32 `(n, None)`; rows beyond `max_tokens` are cut.
        buckets: lengths, in any order.
        max_tokens: the longest row there is.

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
        tokenizer: a tokeniser of this module.
        captions: `n` captions.
        batch: captions tokenised at a time.

    Returns:
        int32 ids of all captions in a row, and int64 row splits `(n + 1,)`.
    """
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
        raise UserError(f"text.max_tokens: {max_tokens} leaves no room for a word; give {markers + 1} or more")


def _preparation(tokenizer: keras_hub.tokenizers.Tokenizer) -> Callable[[tf.Tensor], tf.Tensor]:
    """What KerasHub's preprocessor of that model family does with a caption before its tokenizer."""
    from keras_hub import tokenizers  # noqa: PLC0415 (13 s)

    if isinstance(tokenizer, tokenizers.CLIPTokenizer):
        return _lower
    return _canonical if isinstance(tokenizer, tokenizers.SigLIPTokenizer) else tf.identity


def _canonical(texts: tf.Tensor) -> tf.Tensor:
    texts = tf.strings.regex_replace(_lower(texts), "[[:punct:]]", "")
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
