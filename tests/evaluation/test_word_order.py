"""Swaps by rule keep the words; a bag of words is at chance, and a model that knows the order is above the guesser."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vse_tf.config import ShapesSettings
from vse_tf.data.shapes import read_shapes
from vse_tf.evaluation.word_order import (
    KINDS,
    OrderResult,
    TextGuesser,
    one_swap,
    order_results,
    phrases,
    swaps,
    words_of,
)


@pytest.mark.parametrize(
    ("kind", "caption", "wanted"),
    [
        ("adjectives", "A red circle above a blue star", ["a blue circle above a red star"]),
        (
            "adjectives",
            "a small red circle above a big blue star",
            ["a big red circle above a small blue star", "a small blue circle above a big red star"],
        ),
        ("adjectives", "a red circle above a big star", []),  # no class of adjectives that both have
        ("adjectives", "a black dog and a white dog", []),  # it would stay true
        ("adjectives", "an orange cat on a red sofa", []),  # "an red"
        ("nouns", "A boy on a horse.", ["a horse on a boy ."]),
        ("nouns", "a dog and a cat", []),  # it would stay true
        ("nouns", "a black dog and a white cat", ["a black cat and a white dog"]),
        ("nouns", "the dogs run", []),
        ("left_right", "a cup on the left and a plate on the right", ["a cup on the right and a plate on the left"]),
        ("left_right", "a red circle left of a blue star", ["a blue star left of a red circle"]),
        ("left_right", "a red circle with a blue star to its right", ["a blue star with a red circle to its right"]),
        ("left_right", "a boy on a horse", []),
        ("left_right", "the left", []),
    ],
)
def test_swaps_by_hand(kind, caption, wanted):
    assert swaps(caption, kind) == wanted


def test_phrases_begin_with_a_determiner_or_an_adjective():
    words = words_of("Black dog chases the little boy through snow")
    assert [" ".join(words[phrase.words]) for phrase in phrases(words)] == ["black dog", "the little boy"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                "a",
                "an",
                "the",
                "red",
                "big",
                "blue",
                "dog",
                "cat",
                "orange",
                "left",
                "right",
                "of",
                "and",
                ",",
                "on",
                "her",
                ".",
            ]
        )
    )
)
def test_a_swap_has_the_same_words_in_another_order(words):
    caption = " ".join(words)
    for kind in KINDS:
        for swapped in swaps(caption, kind):
            assert sorted(swapped.split()) == sorted(words_of(caption))
            assert swapped.split() != words_of(caption)


def test_the_seed_and_the_caption_choose():
    caption = "a small red circle above a big blue star"
    chosen = {one_swap(caption, "adjectives", seed) for seed in range(20)}
    assert chosen == set(swaps(caption, "adjectives"))
    assert one_swap(caption, "adjectives", 3) == one_swap(caption, "adjectives", 3)
    assert one_swap("a dog", "nouns") is None


def vector_of(word):
    return np.random.default_rng(crc32(word.encode())).standard_normal(16)


def unit(rows):
    rows = np.asarray(rows)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def bag(texts):
    return unit([np.sum([vector_of(word) for word in words_of(text)], axis=0) for text in texts])


def ordered(texts):
    return unit(
        [np.sum([vector_of(f"{place} {word}") for place, word in enumerate(words_of(text))], axis=0) for text in texts]
    )


@pytest.fixture(scope="module")
def scenes():
    split = read_shapes(ShapesSettings(train_scenes=200, gallery_scenes=80)).splits
    return split["train"], split["hard"]


def results_of(encode, train, split):
    # An image is where its caption is.
    captions = first_captions(split)
    return order_results(encode(captions), captions, np.arange(len(split)), encode, TextGuesser(train.captions))


def first_captions(split):
    return [record.captions[0] for record in split.records]


def test_a_bag_of_words_is_at_chance_by_construction(scenes):
    results, wrong = results_of(bag, *scenes)
    assert set(results) == {*KINDS, "all"}
    for each in results.values():
        assert each.accuracy == 50.0
        assert each.interval == (50.0, 50.0)
    assert not wrong


def test_a_model_of_order_is_above_chance_and_the_guesser_is_not(scenes):
    results, wrong = results_of(ordered, *scenes)
    assert results["all"].accuracy > 95
    # The shapes' captions cannot be guessed: every arrangement is as likely.
    assert 35 < results["all"].guesser < 65
    assert results["all"].pairs == sum(results[kind].pairs for kind in KINDS)
    assert len(wrong) <= 0.05 * results["all"].pairs
    # The slow way, caption by caption.
    captions = first_captions(scenes[1])
    image, won = ordered(captions), []
    for row, caption in enumerate(captions):
        swapped = one_swap(caption, "nouns")
        if swapped:
            right, other = ordered([" ".join(words_of(caption)), swapped]).astype(float) @ image[row].astype(float)
            won.append(100.0 * (right > other))
    assert results["nouns"].pairs == len(won)
    assert results["nouns"].accuracy == pytest.approx(np.mean(won))


def test_what_is_odd_is_guessed_from_the_text_alone():
    captions = [f"a {who} on a {what}" for who in ("boy", "girl", "man") for what in ("horse", "bike", "sofa")]
    results, _ = order_results(unit(np.eye(9, 16)), captions, np.arange(9), bag, TextGuesser(captions * 2), seed=0)
    assert results["nouns"].guesser == 100.0
    assert results["nouns"].accuracy == 50.0


def test_the_worst_pairs_come_first():
    image = unit([bag(["a horse on a boy"])[0], bag(["a cup"])[0]])

    def encode(texts):
        # The model takes the first noun for everything.
        return unit([vector_of(words_of(text)[1]) for text in texts])

    captions = ["a boy on a horse", "a cup on a mat"]
    results, wrong = order_results(image, captions, np.array([0, 1]), encode, TextGuesser([]))
    assert isinstance(results["nouns"], OrderResult)
    assert [one.margin for one in wrong] == sorted((one.margin for one in wrong), reverse=True)
    assert {one.right for one in wrong} <= set(captions)


def test_captions_without_swaps_give_no_result():
    assert order_results(unit(np.eye(2, 16)), ["一只狗", "x"], np.arange(2), bag, TextGuesser([])) == ({}, [])
