"""The queries whose ranks differ most between two models, as HTML."""

from __future__ import annotations

from vse_tf.evaluation.comparison import most_changed
from vse_tf.evaluation.neighbours import nearest
from vse_tf.evaluation.split_results import Compared
from vse_tf.pages import html_page
from vse_tf.pages.split_items import SplitItems

LISTED = 3
"""Number of gallery items that each model shows for a query."""


def changed_queries(items: SplitItems, compared: Compared, count: int) -> str:
    """Show the queries that changed most: what each of the two models ranked first.

    Args:
        items: the split; its positions are those of the comparison's embeddings.
        compared: the comparison.
        count: maximum number of queries per direction.

    Returns:
        HTML: a section for each direction.
    """
    first, second = compared.first, compared.second
    of_images = most_changed(first.ranks.i2t, second.ranks.i2t, count).tolist()
    of_captions = most_changed(first.ranks.t2i, second.ranks.t2i, count).tolist()
    images = [_card(items, compared, query, True) for query in of_images]
    captions = [_card(items, compared, query, False) for query in of_captions]
    return _section("Images that changed most", images) + _section("Captions that changed most", captions)


def _card(items: SplitItems, compared: Compared, query: int, is_image: bool) -> str:
    sides = []
    for name, model in zip(compared.names, (compared.first, compared.second), strict=True):
        encoded = model.encoded
        asked, gallery = (encoded.image, encoded.text) if is_image else (encoded.text, encoded.image)
        rank = int((model.ranks.i2t if is_image else model.ranks.t2i)[query])
        rows, scores = nearest(asked[query][None], gallery, LISTED)
        found = zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        if is_image:
            shown = "".join(items.caption(row, score, bool(encoded.image_id[row] == query)) for row, score in found)
            listed = f"<ol>{shown}</ol>"
        else:
            right = int(encoded.image_id[query])
            listed = f'<ol class="images three">{"".join(items.image(row, s, row == right) for row, s in found)}</ol>'
        sides.append(f"<div><h3>{html_page.text(name)}: rank <b>{rank + 1}</b></h3>{listed}</div>")
    both = f'<div class="two">{"".join(sides)}</div>'
    if is_image:
        return f'<article><div class="query">{items.figure(query)}{both}</div></article>\n'
    own = items.figure(int(compared.first.encoded.image_id[query]))
    return f'<article>{items.query(query)}<div class="query">{own}{both}</div></article>\n'


def _section(title: str, cards: list[str]) -> str:
    body = "".join(cards) or "<p>None has another rank.</p>"
    return f"<section><h2>{title}</h2>\n{body}</section>\n"
