"""The page of an evaluation: tables, plots, what changed and what went wrong, in one file with its pictures inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vse_tf.evaluation.bootstrap import Intervals
from vse_tf.evaluation.hubness import occurrences
from vse_tf.evaluation.metrics import RECALL_METRICS
from vse_tf.evaluation.split_results import Compared, SplitResults
from vse_tf.evaluation.zero_shot import ZeroShot
from vse_tf.pages import html_page
from vse_tf.pages.changed_queries import changed_queries
from vse_tf.pages.plots import count_bars, difference_plot, recall_curve
from vse_tf.pages.split_items import SplitItems
from vse_tf.pages.style import STYLE
from vse_tf.pages.worst_queries import worst_queries

WRONG_ORDER = 10
"""Number of pairs of captions that are shown."""
_COLUMNS = (*RECALL_METRICS, "i2t_medr", "t2i_medr", "rsum")
_MOST_CLASSES = 40
_DIRECTIONS = {"i2t": "captions, retrieved by images", "t2i": "images, retrieved by captions"}


def report_page(results: SplitResults, max_pixels: int, count: int = 50, side: int = 256) -> str:
    """Show the results of a split on a self-contained HTML page.

    Args:
        results: the results.
        max_pixels: image files whose header announces more pixels are not opened.
        count: maximum number of worst queries, and of changed ones, per direction.
        side: longer side of a picture in pixels.

    Returns:
        HTML, with a placeholder for an image that cannot be shown; precomputed features are shown by name.

    Raises:
        NonFiniteError: an embedding is not finite.

    Example:
        Path("report.html").write_text(report_page(results, 10**8), encoding="utf-8")
    """
    shown = results.measured[results.used]
    items = SplitItems(results.split, shown.encoded, max_pixels, side)
    found = shown.encoded
    title = f"{results.run} on {results.split.name}"
    links = [("i2t", "image to text"), ("t2i", "text to image")]
    links = [("compared", "comparison")] * bool(results.compared) + links
    jump = ", ".join(f'<a href="#{name}">{text}</a>' for name, text in links)
    folds = f", ranked in {shown.folds} parts" if shown.folds > 1 else ""
    curves = recall_curve(
        {
            "image to text": (shown.ranks.i2t, len(found.text) // shown.folds),
            "text to image": (shown.ranks.t2i, len(found.image) // shown.folds),
        }
    )
    body = [
        f"<h1>{html_page.text(title)}</h1>\n",
        f"<p>{len(found.image)} images, {len(found.text)} captions{folds}. Below each figure its 95 % interval: "
        f"bootstrap over images with all their captions.</p><nav>Jump to {jump}.</nav>\n",
        _metrics(results),
        f'<div class="plots">{curves}</div>\n',
    ]
    if results.compared:
        body.append(_compared(results.compared, results, max_pixels, min(count, 20), side))
    if results.order is not None:
        body.append(_order(results, items))
    if results.hubness:
        body.append(_hubness(results, items))
    body.append(worst_queries(items, count))
    return html_page.page(title, STYLE, "".join(body))


def zero_shot_page(run: str, result: ZeroShot, prompts: Sequence[str]) -> str:
    """Show the results of a zero-shot classification on a self-contained HTML page.

    Args:
        run: name of the model.
        result: the results.
        prompts: the prompts that were averaged.
    """
    title = f"{run}: zero-shot classification"
    rows = [
        [name, f"{value:.1f} %", f"{low:.1f} to {high:.1f}", f"{chance:.1f} %"]
        for name, value, (low, high), chance in (
            ("top-1", result.top1, result.top1_interval, result.chance[0]),
            ("top-5", result.top5, result.top5_interval, result.chance[1]),
        )
    ]
    images = result.confusion.sum(axis=1)
    classes = [
        [label, str(int(count)), f"{share:.1f} %" if count else "–"]
        for label, count, share in zip(result.labels, images, result.per_class, strict=True)
    ]
    listed = ", ".join(f"“{html_page.text(prompt)}”" for prompt in prompts[:10])
    body = [
        f"<h1>{html_page.text(title)}</h1>\n<p>{int(images.sum())} images, {len(result.labels)} classes; "
        f"{len(prompts)} prompts averaged: {listed}{' …' if len(prompts) > 10 else ''}</p>\n",
        html_page.table(["", "right", "95 % interval", "chance"], rows),
        "<h2>Classes</h2>",
        html_page.table(["class", "images", "right"], classes),
    ]
    mistaken = [[a, b, str(number)] for a, b, number in result.mistaken(20)]
    if mistaken:
        body += ["<h2>Most often mistaken</h2>", html_page.table(["class", "was taken for", "images"], mistaken)]
    if len(result.labels) <= _MOST_CLASSES:
        matrix = [[name, *map(str, row)] for name, row in zip(result.labels, result.confusion.tolist(), strict=True)]
        body += ["<h2>Confusion</h2><p>Rows: the class; columns: what it was taken for.</p>"]
        body += [html_page.table(["", *result.labels], matrix)]
    return html_page.page(title, STYLE, "".join(body))


def _metrics(results: SplitResults) -> str:
    rows = []
    for key, each in results.measured.items():
        rows.append(_metric_row(results.title(key), each.metrics, results.intervals[key]))
    rows.append(_metric_row("chance", results.chance))
    return html_page.table(["", *map(_named, _COLUMNS)], rows, escaped=True)


def _compared(compared: Compared, results: SplitResults, max_pixels: int, count: int, side: int) -> str:
    comparison = compared.comparison
    names = [html_page.text(name) for name in compared.names]
    rows = [
        _metric_row(compared.names[0], compared.first.metrics),
        _metric_row(compared.names[1], compared.second.metrics),
        _metric_row("difference", comparison.difference, comparison.intervals, "+"),
        ["p", *(f"{comparison.p[name]:.3f}" for name in _COLUMNS)],
    ]
    plotted = {_named(name): (comparison.difference[name], *comparison.intervals[name]) for name in RECALL_METRICS}
    items = SplitItems(results.split, compared.first.encoded, max_pixels, side)
    return (
        f'<section id="compared"><h2>Compared with {names[1]}</h2>\n'
        f"<p>{html_page.text(compared.verdict)}</p>\n"
        f"{html_page.table(['', *map(_named, _COLUMNS)], rows, escaped=True)}"
        f'<div class="plots">{difference_plot(plotted)}</div>\n'
        "<p><small>p: share of the exchanges of the two models, image by image, with a difference as large as "
        "theirs.</small></p>\n"
        f"{changed_queries(items, compared, count)}</section>\n"
    )


def _order(results: SplitResults, items: SplitItems) -> str:
    assert results.order is not None
    rows = [
        [kind.replace("_", " and "), str(each.pairs), f"{each.accuracy:.1f} %",
         f"{each.interval[0]:.1f} to {each.interval[1]:.1f}", f"{each.guesser:.1f} %"]
        for kind, each in results.order.items()
    ]  # fmt: skip
    cards = "".join(
        f'<article><div class="query">{items.figure(one.image)}<div><ol>'
        f'<li class="correct" dir="auto">✓ {html_page.text(one.right)}</li>'
        f'<li dir="auto">{html_page.text(one.swapped)} <small>nearer by {one.margin:.3f}</small></li></ol></div></div>'
        "</article>\n"
        for one in results.wrong_order[:WRONG_ORDER]
    )
    return (
        "<section><h2>Word order</h2>\n<p>How often a caption is nearer to its image than the same words in another "
        "order; 50 % is chance. Swaps are made by rules, for English, and can often be recognised from the text alone: "
        "the last column is what a guesser reaches that sees no image.</p>\n"
        f"{html_page.table(['swap', 'pairs', 'right', '95 % interval', 'text alone'], rows)}{cards}</section>\n"
    )


def _hubness(results: SplitResults, items: SplitItems) -> str:
    head = ["", "skewness", "never retrieved", "most frequent"]
    parts = ["<section><h2>Hubs</h2>\n<p>How often each item is among the first ten of a query. "]
    parts.append("Skewness 0 is even; above 1 some items come up for most queries.</p>\n")
    for side, name in _DIRECTIONS.items():
        rows = [
            [results.title(key), f"{each[side].skewness:.2f}", f"{each[side].never:.1f} %",
             f"{each[side].most[0][1]} queries"]
            for key, each in results.hubness.items()
        ]  # fmt: skip
        parts.append(f"<h3>{name.capitalize()}</h3>{html_page.table(head, rows)}")
        encoded = {key: results.measured[key].encoded for key in results.hubness}
        counts = {
            results.title(key): occurrences(*((e.image, e.text) if side == "i2t" else (e.text, e.image)))
            for key, e in encoded.items()
        }
        parts.append(f'<div class="plots">{count_bars(counts)}</div>')
        most = results.hubness[results.used][side].most
        if side == "t2i":
            shown = "".join(f"<li>{items.figure(row)}<small>{number} queries</small></li>" for row, number in most)
            parts.append(f'<ol class="images">{shown}</ol>')
        else:
            shown = "".join(
                f'<li dir="auto">{html_page.text(items.captions[row])} <small>{number} queries</small></li>'
                for row, number in most
            )
            parts.append(f"<ol>{shown}</ol>")
    return "".join(parts) + "</section>\n"


def _metric_row(name: str, metrics: Mapping[str, float], ends: Intervals | None = None, sign: str = "") -> list[str]:
    cells = []
    for column in _COLUMNS:
        value = f"{metrics[column]:{sign}.1f}" if column in metrics else "–"
        if ends:
            low, high = ends[column]
            value += f"<small>{low:{sign}.1f} to {high:{sign}.1f}</small>"
        cells.append(value)
    return [html_page.text(name), *cells]


def _named(metric: str) -> str:
    return metric.replace("_r", " R@") if "_r" in metric else metric.replace("_", " ")
