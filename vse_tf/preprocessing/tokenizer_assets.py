"""Loads KerasHub's tokenizers from a folder: only classes of a closed list, only regular files in the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vse_tf.files import open_regular, read_json

if TYPE_CHECKING:
    import keras_hub


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Some of KerasHub's tokenizers (Whisper's, PARSeq's) open any path in their config. These only read the files of
# `load_preset_assets`; vocabularies in a config are refused below.
TOKENIZERS = _names(
    """
    AlbertTokenizer BertTokenizer BloomTokenizer BytePairTokenizer CLIPTokenizer DebertaV3Tokenizer
    DistilBertTokenizer ESMTokenizer ElectraTokenizer FNetTokenizer FalconTokenizer GPT2Tokenizer GPTNeoXTokenizer
    Gemma3Tokenizer GemmaTokenizer GptOssTokenizer Llama3Tokenizer LlamaTokenizer MetaCLIP2Tokenizer
    MistralTokenizer MixtralTokenizer ModernBertTokenizer OPTTokenizer PaliGemmaTokenizer Phi3Tokenizer
    Qwen3MoeTokenizer Qwen3Tokenizer QwenMoeTokenizer QwenTokenizer RobertaTokenizer RoformerV2Tokenizer
    SentencePieceTokenizer SigLIPTokenizer SmolLM3Tokenizer T5Tokenizer WordPieceTokenizer XLMRobertaTokenizer
    """
)
DESCRIPTION = "tokenizer.json"
# Arguments that are paths if they are strings; here they come from the folder's own files.
_FILES = ("merges", "proto", "vocabulary")
# The largest known is 34 MB.
ASSET_BYTES = 256 * 2**20


def check_files(folder: Path) -> None:
    """Refuse a run folder's tokenizer with anything but regular files of its run.

    Args:
        folder: `tokenizer/`; targets of links must lie in its run folder.

    Raises:
        OSError: a file is not regular, or too large.
        ValueError: a link leads out of the run folder.
    """
    root = folder.parent.resolve()
    for path in [folder, *folder.rglob("*")]:
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path.relative_to(folder.parent)} is a link out of the run folder")
        if not path.is_dir():
            open_regular(path, ASSET_BYTES).close()


def load_assets(folder: Path) -> keras_hub.tokenizers.Tokenizer:
    """A tokenizer that `save_to_preset` wrote.

    `Tokenizer.from_preset` refuses a folder without a backbone's config.json and builds any class.

    Args:
        folder: the folder.

    Raises:
        OSError: its description is missing, or not a regular file.
        ValueError: its class or an argument is not allowed.
        Exception: KerasHub raises anything for a missing or damaged vocabulary.
    """
    import keras_hub  # noqa: PLC0415 (13 s)

    config = read_json(folder / DESCRIPTION)
    name, arguments = (config.get("class_name"), config.get("config")) if isinstance(config, dict) else (None, None)
    kind = getattr(keras_hub.tokenizers, name, None) if isinstance(name, str) and name in TOKENIZERS else None
    if kind is None or not isinstance(arguments, dict):
        raise ValueError(f"{DESCRIPTION} names {str(name)[:100]}, which is no tokenizer that is loaded from a folder")
    tokenizer = kind(**{key: _argument(key, value) for key, value in arguments.items()})
    # Absolute, so that it is not taken for the name of a preset.
    tokenizer.load_preset_assets(str(folder.absolute()))
    return tokenizer


def _argument(key: str, value: object) -> object:
    if key == "dtype" and isinstance(value, dict):
        # A policy, of which a tokenizer uses only the name.
        inner = value.get("config")
        value = inner.get("name") if isinstance(inner, dict) else None
    plain = value is None or (key not in _FILES and _is_plain(value))
    if not plain and not (key not in _FILES and isinstance(value, list) and all(map(_is_plain, value))):
        raise ValueError(f"{DESCRIPTION}: {key}: {str(value)[:60]} is not an argument of a tokenizer in a folder")
    return value


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 1000)
