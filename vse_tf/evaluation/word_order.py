"""Word order: does a model prefer a caption to the same words in another order? Swaps are made by rules, for English.

Three kinds of swaps, each of which keeps the words of a caption and makes it untrue:

- `adjectives`: two adjectives of one class (colours, sizes, …) change places: "a red circle above a blue star" becomes
  "a blue circle above a red star";
- `nouns`: two nouns change places: "a boy on a horse" becomes "a horse on a boy";
- `left_right`: "left" and "right" change places, or the phrases on both sides of the one that is there.

A model that sees a caption as a bag of words gives both the same vector, which counts as half: 50 % by construction.
Negatives that are made by rules can be guessed from the text alone (SugarCrepe, Hsieh et al., NeurIPS 2023, arXiv
2306.14610), as "a horse on a boy" is an odd thing to say. What a guesser without the image reaches is therefore
measured too: only what a model has above it was learned from images. No TensorFlow here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from vse_tf.evaluation.bootstrap import mean_interval
from vse_tf.evaluation.similarity import Ints

KINDS = ("adjectives", "nouns", "left_right")
ROUNDING = 1e-6
"""Cosines that are closer are equal: a sum in another order differs by rounding."""

_CLASSES = (
    "red orange yellow green blue purple violet pink brown black white gray grey tan golden silver blond blonde cyan "
    "magenta beige dark bright colorful",
    "big large small little tiny huge tall short long giant",
    "young old older elderly",
    "wooden metal plastic brick stone concrete grassy sandy rocky snowy muddy wet dry",
    "striped plaid spotted fluffy furry hairy shaggy",
    "happy smiling sad angry",
)
_CLASS = {word: number for number, words in enumerate(_CLASSES) for word in words.split()}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DETERMINERS = _set("a an the one two three four five six some several many his her its their another")
# Words that end a phrase, and those that are no nouns.
_OTHERS = _set(
    "in on at of with and or to from by for over under above below through near is are was were be being been while "
    "as that which who whose where when into onto across along around behind beside between against toward towards up "
    "down off out inside outside next front top back it he she they them him this these those there has have having "
    "not but left right further during after before it's"
)
_SYMMETRIC = _set("and next to beside near with by , while")
_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")


@dataclass(frozen=True)
class Phrase:
    """A noun with its adjectives.

    Args:
        start: position of its first word, the determiner if it has one.
        adjectives: positions of its adjectives.
        noun: position of its noun.
    """

    start: int
    adjectives: tuple[int, ...]
    noun: int

    @property
    def words(self) -> slice:
        """The positions of all its words."""
        return slice(self.start, self.noun + 1)


def words_of(caption: str) -> list[str]:
    """The words and punctuation marks of a caption, in lower case.

    Example:
        >>> words_of("A red circle, left of it.")
        ['a', 'red', 'circle', ',', 'left', 'of', 'it', '.']
    """
    return _TOKEN.findall(caption.lower())


def phrases(words: Sequence[str]) -> list[Phrase]:
    """The phrases of a caption: a determiner or an adjective, further adjectives, and the next word that can be a noun.

    Example:
        >>> phrases(words_of("a small red circle above the star"))
        [Phrase(start=0, adjectives=(1, 2), noun=3), Phrase(start=5, adjectives=(), noun=6)]
    """
    found, place = [], 0
    while place < len(words):
        start = place
        while place < len(words) and words[place] in _DETERMINERS:
            place += 1
        first = place
        while place < len(words) and words[place] in _CLASS:
            place += 1
        if start < place < len(words) and words[place][0].isalpha() and words[place] not in _OTHERS | _DETERMINERS:
            found.append(Phrase(start, tuple(range(first, place)), place))
        place = max(place, start + 1)
    return found


def swaps(caption: str, kind: str) -> list[str]:
    """All swaps of one kind, in lower case.

    Args:
        caption: a caption.
        kind: one of `KINDS`.

    Example:
        >>> swaps("a red circle left of a blue star", "left_right")
        ['a blue star left of a red circle']
    """
    words = words_of(caption)
    make = {"adjectives": _adjectives, "nouns": _nouns, "left_right": _left_right}[kind]
    # Two swaps may come to the same, and one may come back to the caption.
    return list(dict.fromkeys(" ".join(each) for each in make(words, phrases(words)) if each != words))


def one_swap(caption: str, kind: str, seed: int = 0) -> str | None:
    """One swap of a caption, drawn by the seed and the caption; None where the rules find none."""
    found = swaps(caption, kind)
    return found[crc32(f"{seed} {kind} {caption}".encode("utf-8", "replace")) % len(found)] if found else None


def _adjectives(words: list[str], found: list[Phrase]) -> Iterator[list[str]]:
    for one, two in combinations(found, 2):
        if words[one.noun] != words[two.noun]:
            for a in one.adjectives:
                for b in two.adjectives:
                    if _CLASS[words[a]] == _CLASS[words[b]] and _same_article(words, a, b):
                        yield _exchanged(words, a, b)


def _nouns(words: list[str], found: list[Phrase]) -> Iterator[list[str]]:
    for one, two in combinations(found, 2):
        between = words[one.noun + 1 : two.start]
        adjectives = [[words[place] for place in each.adjectives] for each in (one, two)]
        # "a dog and a cat" stays true.
        symmetric = set(between) <= _SYMMETRIC and adjectives[0] == adjectives[1]
        if not symmetric and _same_article(words, one.noun, two.noun):
            yield _exchanged(words, one.noun, two.noun)


def _left_right(words: list[str], found: list[Phrase]) -> Iterator[list[str]]:
    left, right = ([place for place, word in enumerate(words) if word == side] for side in ("left", "right"))
    if left and right:
        yield _exchanged(words, left[0], right[0])
        return
    for place in left + right:
        before = [phrase for phrase in found if phrase.noun < place]
        after = [phrase for phrase in found if phrase.start > place]
        pair = [before[-1], after[0]] if before and after else before[-2:] or after[:2]
        if len(pair) == 2:
            one, two = pair
            between = words[one.noun + 1 : two.start]
            yield [*words[: one.start], *words[two.words], *between, *words[one.words], *words[two.noun + 1 :]]
            return


def _exchanged(words: list[str], a: int, b: int) -> list[str]:
    swapped = list(words)
    swapped[a], swapped[b] = swapped[b], swapped[a]
    return swapped


def _same_article(words: list[str], a: int, b: int) -> bool:
    """Whether "a" and "an" still fit after an exchange."""
    articles = any(words[place - 1] in ("a", "an") for place in (a, b) if place)
    return not articles or (words[a][0] in "aeiou") == (words[b][0] in "aeiou")


class TextGuesser:
    """Guesses the right caption without an image: by how likely pairs of neighbouring words are.

    Args:
        captions: captions to count the pairs in; not those that are guessed.

    Example:
        >>> guesser = TextGuesser(["a boy on a horse", "a boy sits on a horse"])
        >>> guesser.score("a boy on a horse") > guesser.score("a horse on a boy")
        True
    """

    def __init__(self, captions: Iterable[str]) -> None:
        self._pairs, self._first, self._words = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
        for caption in captions:
            words = self._framed(caption)
            self._pairs.update(pairwise(words))
            self._first.update(words[:-1])
            self._words.update(words[1:])
        self._total = self._words.total() + len(self._words) + 1

    def score(self, caption: str) -> float:
        """Logarithm of the caption's likelihood; a word that was never counted is as likely as one of many."""
        return sum(math.log(self._likelihood(one, two)) for one, two in pairwise(self._framed(caption)))

    def _likelihood(self, one: str, two: str) -> float:
        alone = (self._words[two] + 1) / self._total
        return (self._pairs[one, two] + alone) / (self._first[one] + 1)

    @staticmethod
    def _framed(caption: str) -> list[str]:
        return ["<s>", *words_of(caption), "</s>"]


@dataclass(frozen=True)
class OrderResult:
    """How often the right caption of a pair is preferred, in percent; 50 is chance.

    Args:
        pairs: number of pairs of a right caption and a swap.
        accuracy: of the model.
        interval: its 95 % interval, bootstrap over images.
        guesser: what a guesser reaches that sees the two texts alone.
    """

    pairs: int
    accuracy: float
    interval: tuple[float, float]
    guesser: float


@dataclass(frozen=True)
class WrongOrder:
    """A pair in which the swap was preferred.

    Args:
        image: position of the image among the embeddings.
        kind: kind of the swap.
        right: the right caption.
        swapped: the swap.
        margin: similarity of the swap minus that of the right caption.
    """

    image: int
    kind: str
    right: str
    swapped: str
    margin: float


def order_results(
    image: NDArray[np.float32],
    captions: Sequence[str],
    image_id: Ints,
    encode: Callable[[list[str]], NDArray[np.float32]],
    guesser: TextGuesser,
    seed: int = 0,
) -> tuple[dict[str, OrderResult], list[WrongOrder]]:
    """Measure the word-order sensitivity of a model.

    Args:
        image: image embeddings `(N, d)`, float32 unit rows of the plain space.
        captions: captions, `M` of them.
        image_id: the image of each caption `(M,)`.
        encode: embeds captions in the plain space, `(n, d)`.
        guesser: guesses from the text alone.
        seed: seed of the swaps: each caption has at most one of each kind.

    Returns:
        The results of the kinds of which the captions have swaps, and of `all`; and the pairs that went wrong, the
        largest margin first.
    """
    made = [
        (kind, row, swapped)
        for kind in KINDS
        for row, caption in enumerate(captions)
        if (swapped := one_swap(caption, kind, seed)) is not None
    ]
    if not made:
        return {}, []
    rows = np.array([row for _, row, _ in made])
    right_texts = {row: " ".join(words_of(captions[row])) for row in dict.fromkeys(rows.tolist())}
    vectors = encode([*right_texts.values(), *(swapped for _, _, swapped in made)])
    place = {row: number for number, row in enumerate(right_texts)}
    right = vectors[[place[row] for row in rows.tolist()]]
    of_image = np.asarray(image_id)[rows]
    # float64: the margins are small.
    margin = np.einsum("ij,ij->i", image[of_image].astype(np.float64), vectors[len(right_texts) :] - right)
    wins = _wins(-margin, ROUNDING)
    guessed = [guesser.score(right_texts[row]) - guesser.score(swapped) for _, row, swapped in made]
    guesses = _wins(np.array(guessed), 1e-9)
    kinds = np.array([kind for kind, _, _ in made])
    results = {}
    for kind in (*KINDS, "all"):
        own = np.flatnonzero((kinds == kind) | (kind == "all"))
        if own.size:
            mean, interval = mean_interval(100 * wins[own], of_image[own])
            results[kind] = OrderResult(len(own), mean, interval, 100 * float(guesses[own].mean()))
    wrong = [
        WrongOrder(int(of_image[n]), made[n][0], right_texts[made[n][1]], made[n][2], float(margin[n]))
        for n in np.argsort(-margin, kind="stable").tolist()
        if margin[n] > ROUNDING
    ]
    return results, wrong


def _wins(lead: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    """1 where the right one leads, 0 where it does not, 0.5 where they are equal."""
    return np.where(lead > rounding, 1.0, np.where(lead < -rounding, 0.0, 0.5))
