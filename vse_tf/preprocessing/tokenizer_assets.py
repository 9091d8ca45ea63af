"""KerasHub's tokenizers from a folder: a closed list of classes, their files regular and inside the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vse_tf.files import open_regular, read_json


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Some of KerasHub's tokenizers (Whisper's, PARSeq's) open any path that their config names. These read what
# `load_preset_assets` gives them, and vocabularies in a config are refused below.
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
# Arguments that name a file where they are strings; from a folder they come from its own files.
_FILES = ("merges", "proto", "vocabulary")
# The largest known is 34 MB.
ASSET_BYTES = 256 * 2**20


def check_files(folder: Path) -> None:
    """Refuse a run folder's tokenizer that holds anything but regular files of its run.

    Args:
        folder: `tokenizer/`; what its files are linked to must lie in the run folder around it.

    Raises:
        OSError: a file is no regular file, or too large.
        ValueError: a link out of the run folder.
    """
    root = folder.parent.resolve()
    for path in [folder, *folder.rglob("*")]:
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path.relative_to(folder.parent)} is a link out of the run folder")
        if not path.is_dir():
            open_regular(path, ASSET_BYTES).close()


def load_assets(folder: Path) -> Any:
    """A tokenizer that `save_to_preset` wrote.

    `Tokenizer.from_preset` refuses a folder without a backbone's config.json and builds any class.

    Args:
        folder: the folder.

    Raises:
        OSError: its description is missing, or no regular file.
        ValueError: another class, or an argument that is none of a tokenizer.
        Exception: whatever KerasHub makes of a missing or damaged vocabulary.
    """
    import keras_hub  # noqa: PLC0415 (13 s)

    config = read_json(folder / DESCRIPTION)
    name, arguments = (config.get("class_name"), config.get("config")) if isinstance(config, dict) else (None, None)
    kind = getattr(keras_hub.tokenizers, name, None) if isinstance(name, str) and name in TOKENIZERS else None
    if kind is None or not isinstance(arguments, dict):
        raise ValueError(f"{DESCRIPTION} names {str(name)[:100]}, which is no tokenizer that is loaded from a folder")
    tokenizer = kind(**{key: _argument(key, value) for key, value in arguments.items()})
    # Absolute, so that it is taken for no preset's name.
    tokenizer.load_preset_assets(str(folder.absolute()))
    return tokenizer


def _argument(key: str, value: Any) -> Any:
    if key == "dtype" and isinstance(value, dict):
        # A policy; of a tokenizer's only the name says anything.
        inner = value.get("config")
        value = inner.get("name") if isinstance(inner, dict) else None
    plain = value is None or (key not in _FILES and _is_plain(value))
    if not plain and not (key not in _FILES and isinstance(value, list) and all(map(_is_plain, value))):
        raise ValueError(f"{DESCRIPTION}: {key}: {str(value)[:60]} is no argument of a tokenizer in a folder")
    return value


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) <= 1000)
