"""Captions that were given to another image come first."""

from __future__ import annotations

import numpy as np

from vse_tf.evaluation.unlikely_captions import LEAST, UNLIKELY, unlikely_captions
from vse_tf.plain_embedder import EncodedSplit


def encoded(noise, images=300, each=3, seed=0):
    random = np.random.default_rng(seed)
    image = random.standard_normal((images, 32))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    image_id = np.repeat(np.arange(images), each)
    text = image[image_id] + noise * random.standard_normal((images * each, 32)) / 32**0.5
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return EncodedSplit(image.astype(np.float32), text.astype(np.float32), image_id, np.arange(images))


def test_swapped_captions_are_found():
    split = encoded(noise=0.8)
    random = np.random.default_rng(1)
    swapped = random.permutation(len(split.text))[:60]
    split.text[swapped] = split.text[np.roll(swapped, 1)]
    found = {one.caption for one in unlikely_captions(split)}
    assert len(found & set(swapped)) >= 0.95 * len(swapped)
    assert len(found - set(swapped)) <= 0.05 * (len(split.text) - len(swapped))


def test_the_rule_by_counting():
    split = encoded(noise=4.0, images=60)
    wanted = {}
    for caption, (vector, own) in enumerate(zip(split.text, split.image_id, strict=True)):
        scores = split.image.astype(float) @ vector.astype(float)
        nearer = int(sum(scores[other] >= scores[own] for other in range(60) if other != own))
        if nearer > max(UNLIKELY * 59, LEAST):
            wanted[caption] = nearer
    found = unlikely_captions(split)
    assert {one.caption: one.nearer for one in found} == wanted
    assert all(one.image == split.image_id[one.caption] for one in found)
    assert [one.nearer for one in found] == sorted(wanted.values(), reverse=True)
