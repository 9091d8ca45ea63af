"""The tokenizer of a KerasHub preset; it needs `tensorflow_text` imported wherever its graph runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from vse_tf.addresses import is_address
from vse_tf.downloads import preset_downloads
from vse_tf.errors import UserError
from vse_tf.preprocessing.tokenizer_assets import DESCRIPTION, load_assets
from vse_tf.preprocessing.tokenizer_parts import between, check_max_tokens, describe, description
from vse_tf.preprocessing.words import lower, to_tensor, valid_utf8
from vse_tf.remote.copies import local_path

if TYPE_CHECKING:
    import keras_hub

PRESET = "preset"
# Size of the cache of traced tokenizers; the least recently used one is dropped.
CACHED = 4
_cache: dict[bytes, PresetTokenizer] = {}


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
        check_max_tokens(max_tokens, markers=max_tokens - self._most_words)
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
        return cls._shared(tokenizer, max_tokens)

    @classmethod
    def _shared(cls, tokenizer: keras_hub.tokenizers.Tokenizer, max_tokens: int) -> PresetTokenizer:
        """The cached tokenizer of the same files and length, or a new one: tracing CLIP's takes 3 s.

        SentencePiece is not cached: its resource may be lost, see `__call__`, and tracing it takes little.
        """
        if _is_sentence_piece(tokenizer):
            return cls(tokenizer, max_tokens)
        content = blake2b(str(max_tokens).encode())
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_to_preset(folder)
            for path in sorted(filter(Path.is_file, Path(folder).rglob("*"))):
                content.update(f"{path.relative_to(folder)} {path.stat().st_size}".encode() + path.read_bytes())
        found = _cache.pop(key := content.digest(), None) or cls(tokenizer, max_tokens)
        while len(_cache) >= CACHED:
            _cache.pop(next(iter(_cache)), None)
        return _cache.setdefault(key, found)

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
        return between(ids, self.start_id, self.end_id)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and the folder `preset` into the folder, which is made if there is none."""
        describe(folder, {"kind": "preset", "max_tokens": self.max_tokens})
        self.tokenizer.save_to_preset(str(Path(folder) / PRESET))

    @classmethod
    def load(cls, folder: str | Path) -> PresetTokenizer:
        """Read what `save` wrote.

        Raises:
            UserError: a file is missing or broken.
        """
        settings = description(folder, "preset")
        try:
            tokenizer = load_assets(Path(folder) / PRESET)
        except Exception as error:  # KerasHub raises anything for a damaged vocabulary
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{Path(folder) / PRESET}: {reason}; copy the complete folder again") from error
        return cls._shared(tokenizer, settings["max_tokens"])


def _is_sentence_piece(tokenizer: keras_hub.tokenizers.Tokenizer) -> bool:
    return hasattr(tokenizer, "set_proto")


def _preparation(tokenizer: keras_hub.tokenizers.Tokenizer) -> Callable[[tf.Tensor], tf.Tensor]:
    """What KerasHub's preprocessor of that model family does with a caption before its tokenizer."""
    from keras_hub import tokenizers  # noqa: PLC0415 (13 s)

    if isinstance(tokenizer, tokenizers.CLIPTokenizer):
        return lower
    return _canonical if isinstance(tokenizer, tokenizers.SigLIPTokenizer) else tf.identity


def _canonical(texts: tf.Tensor) -> tf.Tensor:
    texts = tf.strings.regex_replace(lower(texts), "[[:punct:]]", "")
    return tf.strings.strip(tf.strings.regex_replace(texts, r"\s+", " "))
