"""The tables that commands print: recalls, and the answers of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vse_tf.retrieval.search import Hit

_COLUMNS = (("r1", "R@1", 6), ("r5", "R@5", 6), ("r10", "R@10", 6), ("medr", "medr", 8))
_RSUM_WIDTH = 6


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Align metrics as text, one line a gallery.

    Args:
        rows: metrics (see `vse_tf.retrieval.metrics.METRICS`) by the name of their gallery or split. A metric that is
            missing shows as `-`.

    Returns:
        ASCII lines for a fixed-width terminal, without a line break at the end.

    Example:
        >>> print(table({"test": metrics}))
                      image to text        |       text to image        |
        gallery    R@1   R@5  R@10    medr |    R@1   R@5  R@10    medr |   rsum
        test      95.8  99.8 100.0     1.0 |   96.1  99.7 100.0     1.0 |  591.4
    """
    names = [_ascii(name) for name in rows]
    first = max([len("gallery"), *map(len, names)])
    block = "".join(title.rjust(width) for _, title, width in _COLUMNS)
    head = ["image to text".center(len(block)), "text to image".center(len(block))]
    lines = [
        " | ".join([f"{' ' * first} {head[0]}", head[1], " " * _RSUM_WIDTH]),
        " | ".join([f"{'gallery'.ljust(first)} {block}", block, "rsum".rjust(_RSUM_WIDTH)]),
    ]
    for name, metrics in zip(names, rows.values(), strict=True):
        sides = [
            "".join(_cell(metrics, f"{side}_{key}", width) for key, _, width in _COLUMNS) for side in ("i2t", "t2i")
        ]
        lines.append(" | ".join([f"{name.ljust(first)} {sides[0]}", sides[1], _cell(metrics, "rsum", _RSUM_WIDTH)]))
    return "\n".join(line.rstrip() for line in lines)


def answers_table(answers: Sequence[Hit]) -> str:
    """Align the answers of a search as text, one line an answer.

    Args:
        answers: best first.

    Returns:
        Lines for a fixed-width terminal, without a line break at the end. What a terminal would obey shows as `?`.

    Example:
        >>> print(answers_table(answers))
          1  0.412  dogs/17.jpg
          2  0.398  winter/3.jpg
    """
    lines = []
    for answer in answers:
        what = answer.item.caption if answer.path is None else str(answer.path)
        shown = "".join(c if c.isprintable() else "?" for c in " ".join((what or "").split()))
        lines.append(f"{answer.rank:>3}  {answer.score:.3f}  {shown}")
    return "\n".join(lines)


def _cell(metrics: Mapping[str, float], name: str, width: int) -> str:
    return (f"{metrics[name]:.1f}" if name in metrics else "-").rjust(width)


def _ascii(name: str) -> str:
    return " ".join(name.split()).encode("ascii", "backslashreplace").decode()
