"""The word rule of `vse_tf.preprocessing.words.normalise` against examples and a slow oracle."""

from __future__ import annotations

import sys
import unicodedata

import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.preprocessing import words as rule

EXAMPLES = {
    "A dog's BALL, thrown!": "a dog s ball thrown",
    "Straße GRÖẞE ÜBER Äpfel": "straße größe über äpfel",
    "L'été au café, NOËL": "l été au café noël",
    "CAFE\u0301 e\u0301te\u0301": "cafe\u0301 e\u0301te\u0301",  # decomposed accents stay in their word, as they are
    "一只棕色的狗。球！": "一 只 棕 色 的 狗 球",
    "コーヒーを飲む犬": "コ ー ヒ ー を 飲 む 犬",
    "か\u3099 ｶﾞﾗｽ": "か\u3099 ｶﾞ ﾗ ｽ",
    "한국어 문장입니다.": "한국어 문장입니다",
    "كلبٌ يجري؛ سريعاً": "كلبٌ يجري سريعاً",
    "क्षत्रिय कुत्ता दौड़ता है।": "क्षत्रिय कुत्ता दौड़ता है",
    "क\u094d\u200dष": "क\u094dष",  # a joiner inside a word
    "สวัสดี": "ส วั ส ดี",
    "dog🐕ball": "dog 🐕 ball",
    "🐕\u200d🦺 👍🏽 ❤\ufe0f 1\ufe0f\u20e3": "🐕 🦺 👍 ❤ 1",
    "葛\U000e0100x\U000e01ef": "葛 x",
    "🇩🇪🇫🇷🇩": "🇩🇪 🇫🇷 🇩",
    "İstanbul IŞIK Ì Į ΟΔΟΣ": "istanbul işik ì į οδος",
    "t-shirt_x $5 c++ <start> 3.5m²": "t shirt x $ 5 c + + < start > 3 5m²",
    "a\0B\tc\u3000d\u200be\u00adf\u2028g": "a b c d ef g",
    "": "",
    " \u00a0\u3000\t\r\n.": "",
}
RAW = {b"caf\xe9 noir": "caf \ufffd noir", b"\xf0\x9f\x90": "\ufffd", b"dog\xff": "dog \ufffd"}

UNSPACED = ("CJK ", "HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA", "BOPOMOFO ", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
HAN_OF_OTHER_NAME = {0x3005, 0x3006, 0x3007, 0x303B, *range(0x3021, 0x302A), *range(0x3038, 0x303B)}
VOICING = {0xFF9E, 0xFF9F}


def stable(code: int) -> bool:
    """Assigned in Unicode 3.2 with today's category, so that every library's tables agree on it."""
    if 0xD800 <= code < 0xE000:
        return False
    category = unicodedata.ucd_3_2_0.category(chr(code))
    return category != "Cn" and category == unicodedata.category(chr(code))


STABLE = [chr(code) for code in range(sys.maxunicode + 1) if stable(code)]
TRICKY = list(
    "aZ 'ΑΣςİIıßẞ.-_$+^`‘’ー々〆〇ｶﾞ\u3099\u0301か中ㄅกั한🐕🇩🇪❤1२\ufe0f\u200d\u200b\u00ad\u20e3\0\n\u3000\ufffd"
)
CHARACTERS = st.one_of(st.sampled_from(TRICKY), st.sampled_from([c for c in STABLE if ord(c) < 0x3400]))


def normalise(texts: list[str]) -> list[str]:
    return [word.decode("utf-8") for word in rule.normalise(rule.to_tensor(texts)).numpy()]


def unspaced(character: str) -> bool:
    code = ord(character)
    return code in HAN_OF_OTHER_NAME or (
        code not in VOICING and unicodedata.name(character, "").startswith(UNSPACED) and code != 0x302A
    )


def oracle(caption: str) -> str:
    """The rule of `normalise`, one character after another."""
    text = ""
    for character in caption:
        category, code = unicodedata.category(character), ord(character)
        if category == "Cc" or code == 0x200B:
            text += " "
        elif not (category == "Cf" or 0xFE00 <= code < 0xFE10 or 0xE0100 <= code < 0xE01F0 or code == 0x20E3):
            text += character
    text = text.replace("İ", "i").lower()
    words: list[str] = []
    i = 0
    while i < len(text):
        character, start = text[i], i
        category = unicodedata.category(character)
        i += 1
        if category[0] in "ZPC" or category == "Sk":
            continue
        flag = "🇦" <= character <= "🇿"
        if flag or unspaced(character) or category[0] not in "LMN":
            if flag and i < len(text) and "🇦" <= text[i] <= "🇿":
                i += 1
            while i < len(text) and (unicodedata.category(text[i])[0] == "M" or ord(text[i]) in VOICING):
                i += 1
        else:
            while i < len(text) and unicodedata.category(text[i])[0] in "LMN" and not unspaced(text[i]):
                i += 1
        words.append(text[start:i])
    return " ".join(words)


@pytest.mark.parametrize(("caption", "words"), EXAMPLES.items())
def test_rule_examples(caption: str, words: str) -> None:
    assert normalise([caption]) == [words]
    assert oracle(caption) == words


@pytest.mark.parametrize(("caption", "words"), RAW.items())
def test_invalid_utf8_is_replaced(caption: bytes, words: str) -> None:
    assert rule.normalise(tf.constant([caption])).numpy()[0].decode("utf-8") == words


def test_every_stable_character_follows_the_rule() -> None:
    captions = [f"x{character}y {character}\u0301か{character}" for character in STABLE]
    wrong = [
        (caption, got, expected)
        for caption, got in zip(captions, normalise(captions), strict=True)
        if got != (expected := oracle(caption))
    ]
    assert len(captions) > 90_000
    assert not wrong, (len(wrong), wrong[:5])


@settings(deadline=None, max_examples=100)
@given(st.lists(st.text(CHARACTERS, max_size=30), min_size=1, max_size=20))
def test_rule_equals_the_oracle(captions: list[str]) -> None:
    assert normalise(captions) == [oracle(caption) for caption in captions]


def test_every_code_point_has_a_result() -> None:
    codes = [*range(0x20000), *range(0x20000, sys.maxunicode, 251), *range(0xE0000, 0xE0200), sys.maxunicode]
    words = normalise([f"x{chr(code)}Y" for code in codes])
    assert normalise(words) == words
    assert all(words)
    assert not [
        word for word in words if word != " ".join(word.split(" ")) or any(map(str.isspace, word.replace(" ", "")))
    ]
    assert not [word for word in words if "Y" in word]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.text(max_size=40).map(lambda t: t.encode("utf-8")), st.binary(max_size=40)), min_size=1))
def test_any_bytes_have_words_and_the_rule_is_idempotent(captions: list[bytes]) -> None:
    once = rule.normalise(tf.constant(captions))
    assert rule.normalise(once).numpy().tolist() == once.numpy().tolist()
    for words in once.numpy():
        assert words.decode("utf-8").split() == words.decode("utf-8").split(" ") or words == b""


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(st.text(st.characters(max_codepoint=127)), st.sampled_from([*EXAMPLES, "\ud83d dog"]))))
def test_many_captions_have_the_words_of_the_rule(captions: list[str]) -> None:
    expected = [line.decode().split() for line in rule.normalise(rule.to_tensor(captions)).numpy()]
    assert list(rule.split_words(captions)) == expected
