"""The tables of recalls that commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vse_tf.evaluation.bootstrap import Intervals
from vse_tf.evaluation.comparison import Comparison
from vse_tf.evaluation.hubness import Hubness
from vse_tf.evaluation.word_order import OrderResult
from vse_tf.evaluation.zero_shot import ZeroShot

_COLUMNS = (("r1", "R@1", 6), ("r5", "R@5", 6), ("r10", "R@10", 6), ("medr", "medr", 8))
_RSUM_WIDTH = 6
SMALL = 200
"""Galleries with fewer images get a warning: there, 7 points of R@1 may be luck."""
_BENCHMARK_COLUMNS = (
    ("map_at_r", "mAP@R", 6),
    ("rprecision", "R-P", 6),
    ("r1", "R@1", 6),
    ("r5", "R@5", 6),
    ("r10", "R@10", 6),
)


def table(
    rows: Mapping[str, Mapping[str, float]],
    chance: Mapping[str, Mapping[str, float]] | None = None,
    intervals: Mapping[str, Intervals] | None = None,
) -> str:
    """Align metrics as text, one line per gallery.

    Args:
        rows: metrics (see `vse_tf.evaluation.metrics.METRICS`) by the name of their gallery or split. A metric that is
            missing is shown as `-`.
        chance: what a ranking at random reaches in a gallery (see `vse_tf.evaluation.chance`), shown below its line.
        intervals: the lower and upper end of each metric (see `vse_tf.evaluation.bootstrap`), shown below its line.

    Returns:
        ASCII lines for a fixed-width terminal, without a line break at the end.

    Example:
        >>> print(table({"test": {"i2t_r1": 95.8, "i2t_medr": 1.0, "t2i_r1": 96.1, "t2i_medr": 1.0, "rsum": 591.4}}))
                      image to text        |       text to image        |
        gallery    R@1   R@5  R@10    medr |    R@1   R@5  R@10    medr |   rsum
        test      95.8     -     -     1.0 |   96.1     -     -     1.0 |  591.4
    """
    lines_of: list[tuple[str, Mapping[str, float]]] = []
    for name, metrics in rows.items():
        lines_of.append((_ascii(name), metrics))
        if intervals and name in intervals:
            lines_of += _ends(intervals[name])
        if chance and name in chance:
            lines_of.append(("  chance", chance[name]))
    return "\n".join(_aligned(lines_of))


def comparison_table(rows: Mapping[str, Mapping[str, float]], comparison: Comparison) -> str:
    """Align the metrics of two models and their differences as text.

    Args:
        rows: the metrics of the first and of the second model, by the model's name.
        comparison: their difference.

    Returns:
        ASCII lines: each model, the difference (first minus second), the ends of its 95 % interval, and p.
    """
    lines_of = [(_ascii(name), metrics) for name, metrics in rows.items()]
    lines = _aligned([*lines_of, ("difference", comparison.difference), *_ends(comparison.intervals)])
    width = max(len(name) for name, _ in [*lines_of, ("difference", None)])
    return "\n".join([*lines, *_aligned([("p", comparison.p)], digits=3, first=width)[2:]])


def _ends(intervals: Intervals) -> list[tuple[str, Mapping[str, float]]]:
    return [
        (name, {key: ends[place] for key, ends in intervals.items()})
        for place, name in enumerate(("  95% from", "  to"))
    ]


def _aligned(lines_of: Sequence[tuple[str, Mapping[str, float]]], digits: int = 1, first: int = 0) -> list[str]:
    """A head of two lines, and one line for each name with its metrics."""
    names = [name for name, _ in lines_of]
    first = max([len("gallery"), first, *map(len, names)])
    block = "".join(title.rjust(width) for _, title, width in _COLUMNS)
    head = ["image to text".center(len(block)), "text to image".center(len(block))]
    lines = [
        " | ".join([f"{' ' * first} {head[0]}", head[1], " " * _RSUM_WIDTH]),
        " | ".join([f"{'gallery'.ljust(first)} {block}", block, "rsum".rjust(_RSUM_WIDTH)]),
    ]
    for name, metrics in lines_of:
        sides = [
            "".join(_cell(metrics, f"{side}_{key}", width, digits) for key, _, width in _COLUMNS)
            for side in ("i2t", "t2i")
        ]
        rsum = _cell(metrics, "rsum", _RSUM_WIDTH, digits)
        lines.append(" | ".join([f"{name.ljust(first)} {sides[0]}", sides[1], rsum]))
    return [line.rstrip() for line in lines]


def with_corrected(
    plain: Mapping[str, Mapping[str, float]], corrected: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    """The rows of a `table` of plain and corrected metrics: each gallery's plain ones first.

    Args:
        plain: metrics by gallery.
        corrected: those with the hubness correction; empty if there is none.

    Example:
        >>> list(with_corrected({"val": {}, "test": {}}, {"val": {}, "test": {}}))
        ['val', 'val, corrected', 'test', 'test, corrected']
    """
    rows: dict[str, Mapping[str, float]] = {}
    for name, metrics in plain.items():
        rows[name] = metrics
        if name in corrected:
            rows[f"{name}, corrected"] = corrected[name]
    return rows


def small_galleries(chance: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A line for each gallery in which a few points of a recall are a few images.

    Args:
        chance: see `table`.

    Example:
        >>> small_galleries({"val": {"t2i_r1": 100 / 60}})
        ['val has 60 images: one image is 1.7 points of R@1, so a difference of 13 points may be luck']
    """
    lines = []
    for name, metrics in chance.items():
        images = round(100 / metrics["t2i_r1"])
        if images < SMALL:
            # Two standard errors of a recall of 50 %.
            luck = round(100 / images**0.5)
            lines.append(
                f"{_ascii(name)} has {images} images: one image is {100 / images:.1f} points of R@1, so a difference "
                f"of {luck} points may be luck"
            )
    return lines


def gallery_line(images: int, captions: int, folds: int = 1) -> str:
    """What was ranked, and what the intervals are, in a line.

    Args:
        images: number of images.
        captions: number of captions.
        folds: number of parts of the gallery.

    Example:
        >>> gallery_line(1000, 5000)
        '1000 images, 5000 captions; 95% intervals: bootstrap over images with all their captions'
    """
    parts = "" if folds == 1 else f" in {folds} folds"
    return f"{images} images, {captions} captions{parts}; 95% intervals: bootstrap over images with all their captions"


def hubness_table(rows: Mapping[str, Mapping[str, Hubness]]) -> str:
    """Align how uneven galleries are retrieved as text.

    Args:
        rows: hubness by name and by direction, see `vse_tf.evaluation.hubness.split_hubness`.

    Returns:
        ASCII lines, without a line break at the end.
    """
    first = max([len("hubness"), *(len(_ascii(name)) for name in rows)])
    lines = [
        f"{' ' * first}          captions           |           images",
        f"{'hubness'.ljust(first)}  skewness   never    most |  skewness   never    most",
    ]
    for name, sides in rows.items():
        cells = []
        for side in ("i2t", "t2i"):
            found = sides[side]
            most = found.most[0][1] if found.most else 0
            cells.append(f"{found.skewness:9.2f} {found.never:6.1f}% {most:7}")
        lines.append(f"{_ascii(name).ljust(first)} {cells[0]} | {cells[1]}")
    k = next(iter(rows.values()))["i2t"].k
    lines.append(f"over the first {k} items of every query: skewness of the items' counts, share of items that are")
    lines.append("never among them, count of the most frequent item")
    return "\n".join(line.rstrip() for line in lines)


def order_table(results: Mapping[str, OrderResult]) -> str:
    """Align word-order sensitivity as text, one line per kind of swap.

    Args:
        results: see `vse_tf.evaluation.word_order.order_results`.

    Returns:
        ASCII lines, without a line break at the end.
    """
    if not results:
        return "word order: no caption has two words that the rules can swap (they are for English)"
    lines = ["word order   pairs   right  95% from    to  text alone"]
    for kind, each in results.items():
        low, high = each.interval
        lines.append(f"{kind:10} {each.pairs:7} {each.accuracy:6.1f}% {low:9.1f} {high:5.1f} {each.guesser:10.1f}%")
    lines.append("right: the caption is nearer to its image than its swap is; chance is 50%, and what can be")
    lines.append("guessed from the text alone says nothing about images")
    return "\n".join(lines)


def zero_shot_lines(result: ZeroShot) -> list[str]:
    """The results of a zero-shot classification as lines of text.

    Args:
        result: the results.
    """
    images, chance = int(result.confusion.sum()), result.chance
    lines = [f"{images} images, {len(result.labels)} classes"]
    for name, value, ends, level in (
        ("top-1", result.top1, result.top1_interval, chance[0]),
        ("top-5", result.top5, result.top5_interval, chance[1]),
    ):
        lines.append(f"{name}  {value:5.1f}%  95% interval {ends[0]:.1f} to {ends[1]:.1f}, chance {level:.1f}%")
    mistaken = [f"{_ascii(a)} as {_ascii(b)} ({count})" for a, b, count in result.mistaken(5)]
    return lines + ([f"most often mistaken: {', '.join(mistaken)}"] if mistaken else [])


def benchmarks_table(metrics: Mapping[str, float]) -> str:
    """Align the metrics of COCO's larger benchmarks as text, one line per benchmark.

    Args:
        metrics: see `vse_tf.evaluation.eccv.ECCV_METRICS`; others are ignored. One that is missing is shown as `-`.

    Returns:
        ASCII lines for a fixed-width terminal, without a line break at the end.

    Example:
        >>> print(benchmarks_table({"eccv_i2t_map_at_r": 24.0, "eccv_t2i_map_at_r": 32.0, "cxc_i2t_r1": 58.0}))
                          image to text          |         text to image
        benchmark  mAP@R   R-P   R@1   R@5  R@10 |  mAP@R   R-P   R@1   R@5  R@10
        ECCV        24.0     -     -     -     - |   32.0     -     -     -     -
        CxC            -     -  58.0     -     - |      -     -     -     -     -
    """
    first = len("benchmark")
    block = "".join(title.rjust(width) for _, title, width in _BENCHMARK_COLUMNS)
    heads = [title.center(len(block)) for title in ("image to text", "text to image")]
    lines = [f"{' ' * first} {heads[0]} | {heads[1]}", f"{'benchmark'.ljust(first)} {block} | {block}"]
    for name, title in (("eccv", "ECCV"), ("cxc", "CxC")):
        sides = [
            "".join(_cell(metrics, f"{name}_{side}_{key}", width) for key, _, width in _BENCHMARK_COLUMNS)
            for side in ("i2t", "t2i")
        ]
        lines.append(f"{title.ljust(first)} {sides[0]} | {sides[1]}")
    return "\n".join(line.rstrip() for line in lines)


def _cell(metrics: Mapping[str, float], name: str, width: int, digits: int = 1) -> str:
    return (f"{metrics[name]:.{digits}f}" if name in metrics else "-").rjust(width)


def _ascii(name: str) -> str:
    return " ".join(name.split()).encode("ascii", "backslashreplace").decode()
