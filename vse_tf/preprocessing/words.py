"""Captions of any language to words, in core TensorFlow operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice

import tensorflow as tf

RULE = 1  # version of `normalise`; a vocabulary fits the rule that it was counted with

# Scripts written without spaces. U+30FC and U+FF70 (Japanese long-vowel marks) and U+3006 belong to no script.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\x{30FC}\x{FF70}\x{3006}"
_MARKS = r"[\p{M}\x{FF9E}\x{FF9F}]*"  # with the half-width voicing marks, which Unicode counts as letters
_SINGLE = rf"(?:[\x{{1F1E6}}-\x{{1F1FF}}]{{2}}|[{_UNSPACED}]|[^\p{{L}}\p{{M}}\p{{N}} ]){_MARKS}"
# ICU lower-cases by the rules of the process's locale: İ and I are others in Turkish, these in Lithuanian.
_LOCAL_CAPITALS = {"İ": "i", "Ì": "ì", "Í": "í", "Ĩ": "ĩ", "Į": "į"}


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

    Any bytes have a result, perhaps the empty string, and the rule is idempotent. TensorFlow's core operations have no
    Unicode normalisation: an accent written as a combining mark stays in its word, but that word differs from the one
    with the composed letter.

    Args:
        texts: UTF-8 strings `(n,)`.

    Returns:
        Strings `(n,)`.

    Example:
        >>> normalise(tf.constant(["A dog's BALL: 紅色的 🐕‍🦺!"])).numpy()[0].decode()
        "a dog s ball 紅 色 的 🐕 🦺"
    """
    texts = valid_utf8(texts)
    # NUL has to go before the lower-casing, which ends a string there.
    texts = tf.strings.regex_replace(texts, r"[\p{Cc}\x{200B}]", " ")
    texts = tf.strings.regex_replace(texts, r"[\p{Cf}\x{20E3}\x{FE00}-\x{FE0F}\x{E0100}-\x{E01EF}]", "")
    texts = lower(texts)
    texts = tf.strings.regex_replace(texts, r"[\p{Z}\p{P}\p{Sk}\p{C}]+", " ")
    texts = tf.strings.regex_replace(texts, _SINGLE, r" \0 ")
    return tf.strings.strip(tf.strings.regex_replace(texts, " +", " "))


def split_words(captions: Iterable[str]) -> Iterator[list[str]]:
    """The words of many captions: what `normalise` gives, split at its spaces, without its cost for each caption.

    In ASCII the rule is one of single characters, so a table of what it does to each of them does the same; it takes
    a twentieth of the time.

    Args:
        captions: the captions.

    Returns:
        The words of each of them, in order.

    Example:
        >>> list(split_words(["A dog's BALL", "5 €"]))
        [['a', 'dog', 's', 'ball'], ['5', '€']]
    """
    table, remaining = _ascii_table(), iter(captions)
    while batch := list(islice(remaining, 8192)):
        others = [caption for caption in batch if not caption.isascii()]
        split = iter(normalise(to_tensor(others)).numpy().tolist() if others else [])
        for caption in batch:
            yield (caption.translate(table) if caption.isascii() else next(split).decode()).split()


@cache
def _ascii_table() -> dict[int, str]:
    """What `normalise` makes of each ASCII character between two letters."""
    framed = normalise(to_tensor([f"a{chr(code)}a" for code in range(128)])).numpy()
    return {code: found.decode()[1:-1] for code, found in enumerate(framed)}


def valid_utf8(texts: tf.Tensor) -> tf.Tensor:
    """Strings with U+FFFD in place of bytes that are not UTF-8."""
    return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")


def lower(texts: tf.Tensor) -> tf.Tensor:
    """Lower-case strings, alike in every locale."""
    texts = tf.strings.lower(texts)  # ASCII first, so that no locale sees a capital I or J
    for capital, small in _LOCAL_CAPITALS.items():
        texts = tf.strings.regex_replace(texts, capital, small)
    return tf.strings.lower(texts, encoding="utf-8")


def to_tensor(texts: tf.Tensor | Sequence[str]) -> tf.Tensor:
    """Captions as a string tensor `(n,)`; a lone surrogate, which JSON allows, becomes invalid UTF-8, not an error."""
    if isinstance(texts, tf.Tensor):
        return texts
    return tf.constant([text.encode("utf-8", "surrogatepass") for text in texts], tf.string, shape=(len(texts),))
