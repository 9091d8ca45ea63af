"""Slow, obvious float64 NumPy versions of every objective: Python loops straight from the formulas."""

from __future__ import annotations

import math

import numpy as np


def negatives(i: int, image_id: list[int] | None, batch: int) -> list[int]:
    """The pairs that are negatives of pair i."""
    return [j for j in range(batch) if j != i and (image_id is None or image_id[j] != image_id[i])]


def _both_ways(one_way, image, text, image_id, *args) -> np.ndarray:
    """One direction's per-pair losses plus the other's, with image and text exchanged."""
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    batch = len(image)
    forth = [one_way(i, image, text, negatives(i, image_id, batch), image_id, *args) for i in range(batch)]
    back = [one_way(i, text, image, negatives(i, image_id, batch), image_id, *args) for i in range(batch)]
    return np.array(forth) + np.array(back)


def convse(image, text, image_id=None, temperature=0.1, multiple_positives=False) -> np.ndarray:
    def one_way(i, anchors, candidates, others, image_id):
        s = [float(anchors[i] @ c) / temperature for c in candidates]
        if multiple_positives:
            top = max(s)
            log_total = top + math.log(sum(math.exp(x - top) for x in s))
            positives = [j for j in range(len(s)) if image_id[j] == image_id[i]]
            return sum(log_total - s[j] for j in positives) / len(positives)
        top = max(s[j] for j in [i, *others])
        return top + math.log(sum(math.exp(s[j] - top) for j in [i, *others])) - s[i]

    return _both_ways(one_way, image, text, image_id)


def convse_plus_plus(image, text, image_id=None, temperature=0.1, margin=0.2, hardest=1, hardness=1.0) -> np.ndarray:
    def one_way(i, anchors, candidates, others, image_id):
        positive = float(anchors[i] @ candidates[i])
        hinges = sorted((max(0.0, margin + float(anchors[i] @ candidates[j]) - positive) for j in others), reverse=True)
        if not hinges:
            return 0.0
        every = sum(hinges) / len(hinges)
        hard = hinges if hardest is None else hinges[:hardest]
        return ((1 - hardness) * every + hardness * sum(hard) / len(hard)) / temperature

    return _both_ways(one_way, image, text, image_id)


def triplet_sum(image, text, image_id=None, margin=0.2) -> np.ndarray:
    def one_way(i, anchors, candidates, others, image_id):
        positive = float(anchors[i] @ candidates[i])
        return sum(max(0.0, margin + float(anchors[i] @ candidates[j]) - positive) for j in others)

    return _both_ways(one_way, image, text, image_id)


def triplet_max(image, text, image_id=None, margin=0.2) -> np.ndarray:
    def one_way(i, anchors, candidates, others, image_id):
        positive = float(anchors[i] @ candidates[i])
        return max([max(0.0, margin + float(anchors[i] @ candidates[j]) - positive) for j in others], default=0.0)

    return _both_ways(one_way, image, text, image_id)


def nt_xent(image, text, image_id=None, temperature=0.1) -> np.ndarray:
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    batch = len(image)
    items = [*image, *text]
    losses = np.zeros(batch)
    for k in range(2 * batch):
        partner = (k + batch) % (2 * batch)
        chosen = negatives(k % batch, image_id, batch)
        others = [partner, *chosen, *(j + batch for j in chosen)]
        s = {j: float(items[k] @ items[j]) / temperature for j in others}
        top = max(s.values())
        losses[k % batch] += 0.5 * (top + math.log(sum(math.exp(x - top) for x in s.values())) - s[partner])
    return losses


def npairs_angular(image, text, image_id=None, angle=45.0) -> np.ndarray:
    tan2 = math.tan(math.radians(angle)) ** 2

    def one_way(i, anchors, candidates, others, image_id):
        a, p = anchors[i], candidates[i]
        f = [4 * tan2 * float((a + p) @ candidates[j]) - 2 * (1 + tan2) * float(a @ p) for j in others]
        return math.log(1 + sum(math.exp(x) for x in f))

    return _both_ways(one_way, image, text, image_id)


def sigmoid_pairwise(image, text, image_id=None, temperature=0.1, bias=-10.0) -> np.ndarray:
    image, text = np.asarray(image, np.float64), np.asarray(text, np.float64)
    batch = len(image)
    losses = []
    for i in range(batch):
        total = 0.0
        for j in [i, *negatives(i, image_id, batch)]:
            logit = float(image[i] @ text[j]) / temperature + bias
            total += np.logaddexp(0.0, -logit if i == j else logit)
        losses.append(total)
    return np.array(losses)


def gradient(function, image, text, *args, step=1e-6, **kwargs) -> tuple[np.ndarray, np.ndarray]:
    """Central finite differences in float64 of the sum of the per-pair losses."""
    image, text = np.array(image, np.float64), np.array(text, np.float64)
    found = []
    for which in (image, text):
        out = np.zeros_like(which)
        for index in np.ndindex(which.shape):
            before = which[index]
            which[index] = before + step
            above = function(image, text, *args, **kwargs).sum()
            which[index] = before - step
            out[index] = (above - function(image, text, *args, **kwargs).sum()) / (2 * step)
            which[index] = before
        found.append(out)
    return found[0], found[1]


def unit(generator: np.random.Generator, batch: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Random unit image and caption embeddings, float32, captions near their images."""
    image = generator.normal(size=(batch, dim))
    text = image + generator.normal(size=(batch, dim))
    image /= np.linalg.norm(image, axis=1, keepdims=True)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    return image.astype(np.float32), text.astype(np.float32)
