"""The tokenisers: vocabulary, files, padding, and the same ids in eager calls, tf.data and a SavedModel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.errors import UserError
from vse_tf.preprocessing import preset_tokenizer, text
from vse_tf.preprocessing.words import to_tensor

CAPTIONS = [
    "A dog's BALL.",
    "Straße GRÖẞE ÜBER",
    "CAFE\u0301 NOËL",
    "一只狗。コーヒー",
    "한국어 문장",
    "كلبٌ يجري؛",
    "कुत्ता दौड़ता",
    "dog🐕\u200d🦺 🇩🇪",
    "İstanbul IŞIK Ì Í Ĩ Į ΟΔΟΣ",
    "",
    " \u3000.",
]


def words_of(captions: list[str], **keywords: int) -> text.WordTokenizer:
    return text.WordTokenizer.fit(captions, **{"min_count": 1, "max_tokens": 16, **keywords})


def test_vocabulary_is_counted_and_ordered() -> None:
    captions = ["B b, b!", "a a A", "ü c ü", "d"]
    tokenizer = words_of(captions, min_count=2)
    assert tokenizer.vocabulary == ["<unknown>", "<start>", "<end>", "a", "b", "ü"]
    assert tokenizer.vocabulary_size == 6
    assert words_of(captions[::-1], min_count=2).vocabulary == tokenizer.vocabulary
    assert words_of(captions).vocabulary[3:] == ["a", "b", "ü", "c", "d"]
    assert tokenizer(["ü, c: B <end>"]).to_list() == [[1, 5, 0, 4, 0, 0, 0, 2]]
    assert tokenizer.needs_tf_text is False


def test_fit_refuses_what_gives_no_vocabulary() -> None:
    with pytest.raises(UserError, match=r"text\.min_count: no word occurs 3 times"):
        words_of(["a a"], min_count=3)
    with pytest.raises(UserError, match=r"text\.max_tokens: 2 .* give 3"):
        words_of(["a a"], max_tokens=2)


def test_blank_long_and_no_captions() -> None:
    tokenizer = words_of(["dog cat"], max_tokens=5)
    assert tokenizer(["", "  \u3000.", "dog " * 10_000, "cat cat cat", "cat " * 4]).to_list() == [
        [1, 2],
        [1, 2],
        [1, 4, 4, 4, 2],
        [1, 3, 3, 3, 2],
        [1, 3, 3, 3, 2],
    ]
    assert tokenizer([]).shape == (0, None)
    assert tokenizer(["dog"]).dtype == tf.int32


def test_lone_surrogate_is_no_error() -> None:
    tokenizer = words_of(["dog \ud83d"])
    assert sorted(tokenizer.vocabulary[3:]) == ["dog", "\ufffd"]
    ids, _ = text.tokenise_all(tokenizer, ["\ud83d dog"])
    assert ids.tolist()[-2:] == [tokenizer.vocabulary.index("dog"), 2]


def in_tf_data(tokenizer: Any, captions: list[str]) -> list[list[int]]:
    batches = tf.data.Dataset.from_tensor_slices(to_tensor(captions)).batch(4).map(tokenizer, 2)
    return [row for batch in batches for row in batch.to_list()]


def test_tf_data_gives_the_eager_ids() -> None:
    captions = CAPTIONS
    tokenizer = words_of(captions)
    assert in_tf_data(tokenizer, captions) == tokenizer(captions).to_list()


def test_tokenizer_made_in_a_strategys_scope() -> None:
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        tokenizer = words_of(["dog cat"])
    assert in_tf_data(tokenizer, ["cat"]) == [[1, 3, 2]]


class Exported(tf.Module):
    """What an export does: the tokeniser is an attribute of the module."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def tokens(self, texts: tf.Tensor) -> tf.Tensor:
        return text.pad(self.tokenizer(texts), [4, 8], 16)


FRESH = """
import json, sys
import tensorflow as tf
{imports}
folders, captions = json.load(open(sys.argv[1], encoding="utf-8"))
ids = [tf.saved_model.load(folder).tokens(tf.constant(captions)).numpy().tolist() for folder in folders]
unwanted = {{"vse_tf", "keras_hub"}} & set(sys.modules)
json.dump([ids, sorted(unwanted)], open(sys.argv[2], "w"))
"""


def in_a_fresh_process(tokenizers: list[Any], captions: list[str], folder: Path, locale: str, imports: str = "") -> Any:
    """Padded ids from SavedModels in a process that imports TensorFlow only, in a locale with its own lower case."""
    folders = [str(folder / f"model{i}") for i in range(len(tokenizers))]
    for tokenizer, saved in zip(tokenizers, folders, strict=True):
        tf.saved_model.save(Exported(tokenizer), saved)
    (folder / "in.json").write_text(json.dumps([folders, captions]), encoding="utf-8")
    command = [sys.executable, "-c", FRESH.format(imports=imports), str(folder / "in.json"), str(folder / "out.json")]
    subprocess.run(command, check=True, env={**os.environ, "LC_ALL": locale}, cwd=folder, capture_output=True)
    ids, unwanted = json.loads((folder / "out.json").read_text())
    assert not unwanted
    return ids


def test_saved_model_gives_the_eager_ids_in_a_turkish_process(tmp_path: Path) -> None:
    captions = [*CAPTIONS, "DIESE IST", "dog " * 10_000]
    tokenizer = words_of(captions)
    expected = text.pad(tokenizer(captions), [4, 8], 16).numpy().tolist()
    assert in_a_fresh_process([tokenizer], captions, tmp_path, "tr_TR.UTF-8") == [expected]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=10), st.integers(3, 99), st.integers(1, 2))
def test_round_trip_is_exact(tmp_path_factory: Any, captions: list[str], max_tokens: int, min_count: int) -> None:
    folder = tmp_path_factory.mktemp("words")
    saved = words_of([*captions, "dog", "dog"], max_tokens=max_tokens, min_count=min_count)
    saved.save(folder / "made" / "here")
    loaded = text.load_tokenizer(folder / "made" / "here")
    assert isinstance(loaded, text.WordTokenizer)
    assert loaded.vocabulary == saved.vocabulary
    assert (loaded.max_tokens, loaded.min_count) == (max_tokens, min_count)
    loaded.save(folder / "again")
    for name in (text.VOCABULARY, text.DESCRIPTION):
        assert (folder / "again" / name).read_bytes() == (folder / "made" / "here" / name).read_bytes()
    assert loaded(captions).to_list() == saved(captions).to_list()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, r"tokenizer\.json: no tokenizer"),
        ("tokenizer.json", "{", r"tokenizer\.json: no tokenizer"),
        ("tokenizer.json", "[]", "needs `kind`"),
        ("tokenizer.json", '{"kind": "other", "max_tokens": 8}', "words or preset"),
        ("tokenizer.json", '{"kind": "words", "rule": 1}', "`max_tokens`"),
        ("tokenizer.json", '{"kind": "words", "rule": 0, "max_tokens": 8}', "rule 0, .* has 1"),
        ("tokenizer.json", '{"kind": "preset", "max_tokens": 8}', "preset: .*copy the complete folder"),
        ("vocabulary.txt", None, r"vocabulary\.txt: .*copy"),
        ("vocabulary.txt", "dog\n", "first three lines"),
        ("vocabulary.txt", "<unknown>\n<start>\n<end>\ndog\n\ncat\n", "line 5: empty"),
        ("vocabulary.txt", "<unknown>\n<start>\n<end>\ndog\n\n", "line 5: empty"),
        ("vocabulary.txt", "<unknown>\n<start>\n<end>\ndog\ncat\ndog\n", "line 6: .*repeated word 'dog'"),
        ("vocabulary.txt", "<unknown>\r\n<start>\r\n<end>\r\n", "first three lines"),
    ],
)
def test_broken_folder_is_one_clear_line(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    words_of(["dog cat"]).save(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(UserError, match=message):
        text.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("lengths", "buckets", "width"),
    [
        ([1, 3], [4, 8], 4),
        ([4, 2], [8, 4], 4),
        ([5], [4, 8], 8),
        ([9], [4, 8], 10),
        ([2], [], 10),
        ([2], [16, 32], 10),
        ([14, 3], [4], 10),
        ([], [8, 4], 4),
        ([0, 0], [4], 4),
    ],
)
@pytest.mark.parametrize("graph", [False, True])
def test_pad_takes_the_first_bucket_that_holds_the_longest(
    lengths: list[int], buckets: list[int], width: int, graph: bool
) -> None:
    rows = [list(range(length)) for length in lengths]
    ragged = tf.RaggedTensor.from_row_lengths(
        tf.constant([i for row in rows for i in row], tf.int32), tf.constant(lengths, tf.int64)
    )

    def call(tokens: tf.RaggedTensor) -> tf.Tensor:
        return text.pad(tokens, buckets, max_tokens=10)

    padded = (tf.function(call) if graph else call)(ragged)
    assert padded.dtype == tf.int32
    assert padded.shape == (len(lengths), width)
    for row, got in zip(rows, padded.numpy().tolist(), strict=True):
        assert got == (row + [text.PADDING] * width)[:width]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_tokenise_all_is_one_row_after_another(batch: int) -> None:
    captions = [*CAPTIONS, " ".join(map(str, range(99)))]
    tokenizer = words_of(captions)
    ids, splits = text.tokenise_all(tokenizer, captions, batch=batch)
    assert (ids.dtype, splits.dtype) == (np.int32, np.int64)
    assert [ids[i:j].tolist() for i, j in pairwise(splits)] == tokenizer(captions).to_list()


def test_tokenise_all_of_nothing() -> None:
    ids, splits = text.tokenise_all(words_of(["dog"]), [])
    assert (ids.shape, splits.tolist()) == ((0,), [0])


BERT_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "run", "##s", ".", "strasse", "狗"]


@pytest.fixture(scope="module")
def presets(tmp_path_factory: Any) -> dict[str, str]:
    """Tiny presets as KerasHub saves them: BERT's word pieces, CLIP's and RoBERTa's byte pairs."""
    import keras_hub  # noqa: PLC0415 (13 s)

    letters = [*"abcdefghijklmnopqrstuvwxyz.Ġ", "Ã", "¤"]  # the last two are ä's bytes, as byte pairs write them
    ends = [f"{letter}</w>" for letter in letters]
    clip = ["<|startoftext|>", "<|endoftext|>", *letters, *ends, "do", "dog</w>"]
    roberta = ["<s>", "<pad>", "</s>", "<mask>", *letters, "do", "dog", "Ġdog"]
    made = {
        "bert": keras_hub.tokenizers.BertTokenizer(vocabulary=BERT_WORDS, lowercase=True),
        "clip": keras_hub.tokenizers.CLIPTokenizer(
            vocabulary={word: i for i, word in enumerate(clip)}, merges=["d o", "do g</w>"]
        ),
        "roberta": keras_hub.tokenizers.RobertaTokenizer(
            vocabulary={word: i for i, word in enumerate(roberta)}, merges=["d o", "do g", "Ġ dog"]
        ),
    }
    folders = {name: str(tmp_path_factory.mktemp(name)) for name in made}
    for name, tokenizer in made.items():
        tokenizer.save_to_preset(folders[name])
    return folders


@pytest.fixture(scope="module")
def hub(presets: dict[str, str]) -> dict[str, text.PresetTokenizer]:
    """Made once: tracing a byte-pair tokenizer takes 4 s."""
    return {name: text.PresetTokenizer.from_preset(f"hub:{folder}", max_tokens=6) for name, folder in presets.items()}


def test_bert_preset_gets_cls_and_sep(hub: dict[str, text.PresetTokenizer]) -> None:
    bert = hub["bert"]
    assert bert(["A dog.", "", "Straße 狗狗", "dogs " * 10_000]).to_list() == [
        [2, 5, 6, 9, 3],
        [2, 3],
        [2, 10, 11, 11, 3],
        [2, 6, 8, 6, 8, 3],
    ]
    assert bert(tf.constant([b"dog\xff", b"a\0dog"])).to_list() == [[2, 1, 3], [2, 5, 6, 3]]
    assert (bert.vocabulary_size, bert.pad_id, bert.needs_tf_text) == (len(BERT_WORDS), 0, True)
    assert bert(["dog"]).dtype == tf.int32
    assert bert([]).shape == (0, None)


def test_clip_preset_gets_start_and_end_and_lower_case(hub: dict[str, text.PresetTokenizer]) -> None:
    clip = hub["clip"]
    names = ["<|startoftext|>", "dog</w>", "<|endoftext|>"]
    start, dog, end = (clip.tokenizer.token_to_id(name) for name in names)
    assert clip(["Dog DOG", "", "dog " * 9]).to_list() == [
        [start, dog, dog, end],
        [start, end],
        [start, *[dog] * 4, end],
    ]
    assert clip(["Ä"]).to_list() == clip(["ä"]).to_list() != [[start, end]]


def test_roberta_preset_never_gives_padding(hub: dict[str, text.PresetTokenizer]) -> None:
    roberta = hub["roberta"]
    dog, second = (roberta.tokenizer.token_to_id(name) for name in ("dog", "Ġdog"))
    # The bytes of 世 are not in the vocabulary.
    assert roberta(["dog dog", "", "dog世"]).to_list() == [[0, dog, second, 2], [0, 2], [0, dog, 2]]
    assert roberta.pad_id == 1


def test_preset_in_a_run_folder_tf_data_and_a_saved_model(
    hub: dict[str, text.PresetTokenizer], presets: dict[str, str], tmp_path: Path
) -> None:
    captions = ["A Dog. runs", "", "Straße 狗 ä", "dog " * 10_000, CAPTIONS[-3]]
    expected, loaded = [], []
    for name in ("bert", "clip"):
        hub[name].save(tmp_path / name)
        assert not [path for path in (tmp_path / name).rglob("*.*") if presets[name] in path.read_text("utf-8")]
        (tmp_path / name).rename(tmp_path / f"moved_{name}")
        preset_tokenizer._cache.clear()  # else nothing is read
        loaded.append(text.load_tokenizer(tmp_path / f"moved_{name}"))
        assert isinstance(loaded[-1], text.PresetTokenizer)
        assert (loaded[-1].max_tokens, loaded[-1].vocabulary_size) == (6, hub[name].vocabulary_size)
        rows = hub[name](captions)
        assert loaded[-1](captions).to_list() == rows.to_list() == in_tf_data(loaded[-1], captions)
        expected.append(text.pad(rows, [4, 8], 16).numpy().tolist())
    words = words_of(CAPTIONS)
    expected.append(text.pad(words(captions), [4, 8], 16).numpy().tolist())
    fresh = in_a_fresh_process([*loaded, words], captions, tmp_path, "lt_LT.UTF-8", imports="import tensorflow_text")
    assert fresh == expected


def test_equal_files_are_traced_once(hub: dict[str, text.PresetTokenizer], presets: dict[str, str], tmp_path: Path):
    first = text.PresetTokenizer.from_preset(presets["bert"], max_tokens=6)
    first.save(tmp_path / "same")
    assert text.load_tokenizer(tmp_path / "same") is first
    assert text.PresetTokenizer.from_preset(presets["bert"], max_tokens=7)(["a dog. runs"]).to_list()[0][-2:] == [8, 3]
    words = tmp_path / "same" / "preset" / "assets" / "tokenizer" / "vocabulary.txt"
    words.write_text(words.read_text().replace("dog", "cat"))
    assert text.load_tokenizer(tmp_path / "same")(["cat dog"]).to_list() == [[2, 6, 1, 3]]
    for length in range(8, 8 + preset_tokenizer.CACHED):
        text.PresetTokenizer.from_preset(presets["bert"], max_tokens=length)
    assert len(preset_tokenizer._cache) == preset_tokenizer.CACHED
    assert text.load_tokenizer(tmp_path / "same") is not first


def test_siglip_text_is_canonical_as_kerashub_does_it(presets: dict[str, str]) -> None:
    import keras_hub  # noqa: PLC0415

    captions = tf.constant(['  A "Dog\'s" ball,\t\n (RED)  & [x]{y}|z ~`^_ <a>=+*/\\;:?!@#$%- ', "", "ÄÖ 狗"])
    reference = keras_hub.models.SigLIPPreprocessor.canonicalize_inputs
    got = [caption.decode() for caption in preset_tokenizer._canonical(captions).numpy()]
    assert got == [caption.decode().replace("ÄÖ", "äö") for caption in reference(None, captions).numpy()]


def test_missing_preset_names_the_setting(presets: dict[str, str], tmp_path: Path) -> None:
    for preset in (str(tmp_path / "nowhere"), "no_such_preset"):
        with pytest.raises(UserError, match=rf"text\.encoder: no tokenizer in preset '{preset}'"):
            text.PresetTokenizer.from_preset(preset, max_tokens=8)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"text\.encoder"):
        text.PresetTokenizer.from_preset(str(tmp_path / "broken"), max_tokens=8)
    with pytest.raises(UserError, match=r"text\.max_tokens: 2 .* give 3"):
        text.PresetTokenizer.from_preset(presets["bert"], max_tokens=2)
