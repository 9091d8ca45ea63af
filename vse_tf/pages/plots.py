"""Plots as SVG, drawn in the colours of the page: they are sharp in print and need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vse_tf.evaluation.similarity import Ints
from vse_tf.pages import html_page

_WIDTH, _HEIGHT = 360, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 12, 36
COLOURS = ("one", "other")
"""Classes of the first and the second curve."""


def recall_curve(curves: Mapping[str, tuple[Ints, int]]) -> str:
    """R@K over K, on a logarithmic axis, with that of a ranking at random.

    Args:
        curves: up to two directions by their names: 0-based ranks of the queries, and the number of gallery items.

    Returns:
        A `<figure>`.
    """
    most = max([2, *(items for _, items in curves.values())])

    def x(k: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * math.log(k) / math.log(most)

    parts = [_frame(range(0, 101, 20), lambda value: _y(value / 100), "%")]
    for k in (10**power for power in range(math.ceil(math.log10(most)) + 1)):
        if k <= most:
            parts.append(f'<text x="{x(k):.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{k}</text>')
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">K</text>')
    for number, (name, (ranks, items)) in enumerate(curves.items()):
        places = np.unique(np.geomspace(1, items, 60).astype(int))
        asked = ranks[ranks >= 0]
        points = " ".join(f"{x(k):.1f},{_y(float(np.mean(asked < k))):.1f}" for k in places)
        parts.append(f'<polyline class="{COLOURS[number]}" points="{points}"/>')
        parts.append(_legend(number, name))
    chance = " ".join(f"{x(k):.1f},{_y(k / most):.1f}" for k in np.geomspace(1, most, 40))
    parts.append(f'<polyline class="chance" points="{chance}"/>')
    return _figure(
        "R@K: share of queries with a right item among the first K; dashed: one right item at random", "".join(parts)
    )


def difference_plot(values: Mapping[str, tuple[float, float, float]]) -> str:
    """Differences with their intervals, one line each, around zero.

    Args:
        values: difference, lower and upper end by name.

    Returns:
        A `<figure>`.
    """
    reach = max([1.0, *(abs(end) for each in values.values() for end in each if math.isfinite(end))])
    height, left = 24 * len(values) + 30, 70

    def x(value: float) -> float:
        return left + (_WIDTH - left - 15) * (value / reach + 1) / 2

    parts = []
    for tick in (-reach, 0.0, reach):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 24}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{tick:+.1f}</text>')
    for number, (name, (value, low, high)) in enumerate(values.items()):
        y = 16 + 24 * number
        parts.append(f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html_page.text(name)}</text>')
        if math.isfinite(low):
            parts.append(f'<line class="one" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke-width="2"/>')
        parts.append(f'<circle class="one" cx="{x(value):.1f}" cy="{y}" r="4"/>')
    return _figure("difference and its 95 % interval, in points", "".join(parts), height)


def count_bars(counts: Mapping[str, Ints]) -> str:
    """How many items are retrieved how often: shares of the items, by counts in powers of two.

    Args:
        counts: numbers of queries by item, for up to two galleries by name.

    Returns:
        A `<figure>`.
    """
    edges = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2**62]
    shares = {name: np.histogram(each, edges)[0] / max(1, len(each)) for name, each in counts.items()}
    used = max((int(np.flatnonzero(each).max(initial=0)) for each in shares.values()), default=0) + 1
    step = (_WIDTH - _LEFT - _RIGHT) / used
    top = max([0.2, *(float(each.max()) for each in shares.values())])
    ticks = [tick for tick in range(0, 101, 20) if tick <= 100 * top]
    parts = [_frame(ticks, lambda value: _y(value / 100 / top), "%")]
    for place in range(used):
        low, high = edges[place], edges[place + 1] - 1
        label = str(low) if low == high else f"{low}–{high}" if place + 2 < len(edges) else f"{low}+"
        middle = _LEFT + step * (place + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{_HEIGHT - 20}" text-anchor="middle">{label}</text>')
        for number, each in enumerate(shares.values()):
            width = 0.8 * step / len(shares)
            left, y = _LEFT + step * (place + 0.1) + number * width, _y(float(each[place]) / top)
            height = _HEIGHT - _BOTTOM - y
            bar = f'x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="{COLOURS[number]}" {bar}/>')
    parts += [_legend(number, name) for number, name in enumerate(shares)]
    parts.append(f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">times retrieved</text>')
    return _figure("share of the items by how often they are retrieved", "".join(parts))


def _y(share: float) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _BOTTOM - _TOP) * share


def _frame(ticks: Sequence[int], y: object, unit: str) -> str:
    assert callable(y)
    parts = [
        f'<line class="{"axis" if tick == 0 else "grid"}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" '
        f'y2="{y(tick):.1f}"/><text x="{_LEFT - 5}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick}{unit}</text>'
        for tick in ticks
    ]
    return "".join(parts)


def _legend(number: int, name: str) -> str:
    y = _TOP + 12 + 16 * number
    mark = f'<rect class="{COLOURS[number]}" x="{_LEFT + 8}" y="{y - 8}" width="10" height="8"/>'
    return f'{mark}<text x="{_LEFT + 24}" y="{y}">{html_page.text(name)}</text>'


def _figure(caption: str, body: str, height: int = _HEIGHT) -> str:
    svg = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{html_page.text(caption)}">{body}</svg>'
    return f"<figure>{svg}<figcaption>{html_page.text(caption)}</figcaption></figure>"
