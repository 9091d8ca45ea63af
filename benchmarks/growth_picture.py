"""Draws growth against growth on logarithmic axes, as an SVG."""

from __future__ import annotations

import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT, MARGIN, LEGEND = 460, 360, 48, 230
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b")


def draw(lines: dict[str, list[tuple[float, float]]]) -> str:
    """The picture; a line below the dashed diagonal grows more slowly than the data.

    Args:
        lines: points (size of the data, value), both relative to the smallest size, by the name of the quantity.

    Example:
        >>> draw({"step": [(1, 1), (100, 1.02)]}).startswith("<svg")
        True
    """
    points = [point for line in lines.values() for point in line] or [(1.0, 1.0)]
    decades = max(1, math.ceil(math.log10(max(max(point) for point in points)) - 1e-9))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log10(max(value, 10**-0.5)) / decades for value in (x, y))
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = []
    for power in range(decades + 1):
        (x, bottom), (_, top) = place(10**power, 1), place(10**power, 10**decades)
        (left, y), (right, _) = place(1, 10**power), place(10**decades, 10**power)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom:.1f}V{top:.1f}M{left:.1f} {y:.1f}H{right:.1f}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">× {10**power:,}</text>')
        parts.append(f'<text x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">× {10**power:,}</text>')
    (x1, y1), (x2, y2) = place(1, 1), place(10**decades, 10**decades)
    parts.append(f'<path class="even" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in line))
        y = MARGIN + 20 * number
        parts.append(f'<path d="M{path}" stroke="{colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in (place(*p) for p in line)]
        parts.append(
            f'<path d="M{WIDTH} {y}h20" stroke="{colour}"/><text x="{WIDTH + 26}" y="{y + 4}">{escape(name)}</text>'
        )
    middle = WIDTH / 2
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEGEND} {HEIGHT}" role="img">',
            "<title>Growth of each figure over that of the data; dashed: as fast as the data</title>",
            "<style>svg{background:#fff;font:12px sans-serif}path{fill:none;stroke-width:2}text{fill:#1b2a41}"
            ".grid{stroke:#d5dce6;stroke-width:1}.even{stroke:#55657d;stroke-dasharray:5 4;stroke-width:1.2}</style>",
            *parts,
            f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">data, relative to the smallest size</text>',
            "</svg>\n",
        ]
    )
