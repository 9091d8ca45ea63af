"""Recall against the size of an index: float32, float16 and int8 vectors, of all dimensions and of the first ones.

    python -m benchmarks.index_size --run RUN…

The images and the captions of the run's validation split become two indexes for each form that `vse_tf.embed --storage`
takes. They are searched by captions and by images as `vse_tf.search` does it, once by the compact vectors alone and
once with the float32 ones, which then score the best candidates. Writes one table, `index_size.md`, and its picture,
`index_size.svg`. Runs with and without `loss.nested_dims` may be compared.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from benchmarks.validation import encoded_validation
from vse_tf.artifacts.calibration import Calibration
from vse_tf.artifacts.compact import Form
from vse_tf.artifacts.index import Index, Item
from vse_tf.artifacts.index_manifest import Kind
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.errors import run_command
from vse_tf.indexing.compact_search import CompactSearch
from vse_tf.indexing.compacting import compacted
from vse_tf.indexing.search import ExactSearch, Search

PROG = "python -m benchmarks.index_size"
KS = (1, 5, 10)
SMALLEST = 32
NO_TEXTS = Calibration(None, {})


@dataclass(frozen=True)
class Size:
    """The recalls at a size.

    Args:
        run: name of the run.
        form: how the vectors are stored.
        row_bytes: bytes of a vector.
        alone: recalls of image to text and text to image at 1, 5 and 10, in percent, by these vectors alone.
        exact: the same with the float32 vectors, which score the candidates.
        found: share of the 10 best items of exact search that are found with them.
    """

    run: str
    form: str
    row_bytes: int
    alone: list[float]
    exact: list[float]
    found: float

    def line(self) -> str:
        """The row of the table."""
        numbers = [*self.alone[3:], sum(self.alone), *self.exact[3:], sum(self.exact)]
        values = " | ".join(f"{number:.1f}" for number in numbers)
        return f"| {self.run} | {self.form} | {self.row_bytes:,} | {values} | {100 * self.found:.2f} |"


HEAD = [
    "| run | stored | bytes a vector | t2i R@1 | R@5 | R@10 | rsum | with float32: R@1 | R@5 | R@10 | rsum | "
    "of the exact 10 |",
    "|---|---|---" + "|---" * 9 + "|",
]


def forms(dim: int, plain_dim: int) -> list[Form | None]:
    """The forms that are compared: float32, then each type with all dimensions, a half, a quarter …"""
    halves = [plain_dim >> power for power in range(plain_dim.bit_length()) if plain_dim >> power >= SMALLEST]
    found = [Form.of(f"{storage}:{dims}", dim, plain_dim) for storage in ("float16", "int8") for dims in halves]
    return [None, *found]


def index_of(folder: Path, kind: Kind, vectors: np.ndarray, plain_dim: int, form: Form | None) -> Index:
    """An index of these vectors."""
    writer = IndexWriter(folder, kind, vectors.shape[1], plain_dim)
    shards = [writer.write(vectors)]
    names = [str(row) for row in range(len(vectors))]
    items = [Item(name, **({"path": name} if kind == "images" else {"caption": name})) for name in names]
    return writer.commit(shards, items, {}, root=folder, compact=compacted(writer, shards, form, NO_TEXTS))


def rows_of(searches: Sequence[Search], queries: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The 10 best rows of each query, by images and by captions."""
    return [search(query, max(KS))[0] for search, query in zip(searches, queries, strict=True)]


def recalls(rows: Sequence[np.ndarray], image_id: np.ndarray) -> list[float]:
    """Recalls at 1, 5 and 10 of image to text and text to image, in percent, from the best rows."""
    captions, images = rows
    right = [image_id[captions] == np.arange(len(captions))[:, None], images == image_id[:, None]]
    return [100 * float(each[:, :k].any(axis=1).mean()) for each in right for k in KS]


def measured(run: str, folder: Path) -> list[Size]:
    """A run at every size."""
    embedder, _, encoded = encoded_validation(run)
    encoded = embedder.corrected(encoded)
    # Images look for captions, captions for images.
    kinds: tuple[Kind, Kind] = ("captions", "images")
    queries, galleries = (encoded.image, encoded.text), (encoded.text, encoded.image)
    sizes: list[Size] = []
    exact: list[np.ndarray] = []
    for number, form in enumerate(forms(embedder.dim, embedder.plain_dim)):
        indexes = [
            index_of(folder / f"{Path(run).name}-{number}-{kind}", kind, gallery, embedder.plain_dim, form)
            for kind, gallery in zip(kinds, galleries, strict=True)
        ]
        if form is None:
            exact = rows_of([ExactSearch(index) for index in indexes], queries)
            recall = recalls(exact, encoded.image_id)
            sizes.append(Size(Path(run).name, "float32", 4 * embedder.dim, recall, recall, 1.0))
            continue
        alone = rows_of([CompactSearch(index, exact=False) for index in indexes], queries)
        both = rows_of([CompactSearch(index) for index in indexes], queries)
        pairs = [pair for each in zip(exact, both, strict=True) for pair in zip(*each, strict=True)]
        found = [len(np.intersect1d(*pair)) / len(pair[0]) for pair in pairs]
        both_recalls = recalls(both, encoded.image_id)
        alone_recalls = recalls(alone, encoded.image_id)
        sizes.append(
            Size(Path(run).name, str(form), form.row_bytes, alone_recalls, both_recalls, float(np.mean(found)))
        )
    return sizes


WIDTH, HEIGHT, MARGIN, LEGEND = 460, 340, 52, 260
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def picture(sizes: Sequence[Size]) -> str:
    """Rsum over bytes a vector, on a logarithmic axis, as an SVG: a line for each run and type.

    Args:
        sizes: what was measured.
    """
    lines: dict[str, list[tuple[int, float]]] = {}
    for size in sizes:
        name = f"{size.run}, {size.form.partition(':')[0]}"
        lines.setdefault(name, []).append((size.row_bytes, sum(size.alone)))
        if size.form != "float32":
            lines.setdefault(f"{name}, with float32", []).append((size.row_bytes, sum(size.exact)))
    points = [point for line in lines.values() for point in line]
    left, right = (math.log2(end(point[0] for point in points)) for end in (min, max))
    low, high = math.floor(min(y for _, y in points) / 20) * 20, math.ceil(max(y for _, y in points) / 20) * 20
    high = max(high, low + 20)

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (math.log2(x) - left) / max(right - left, 1), (y - low) / (high - low)
        return MARGIN + across * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - up * (HEIGHT - 2 * MARGIN)

    parts = []
    step = 20 * max(1, round((high - low) / 160))
    for y in range(low, high + 1, step):
        at = place(2**left, y)[1]
        parts.append(f'<path class="grid" d="M{MARGIN} {at:.1f}H{WIDTH - MARGIN}"/>')
        parts.append(f'<text x="{MARGIN - 6}" y="{at + 4:.1f}" text-anchor="end">{y}</text>')
    for power in range(math.ceil(left), math.floor(right) + 1):
        at = place(2**power, low)[0]
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{2**power:,}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(*point) for point in sorted(line)]
        path, y = "L".join(f"{a:.1f} {b:.1f}" for a, b in places), MARGIN + 20 * number
        parts.append(f'<path d="M{path}" stroke="{colour}"/>')
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in places]
        parts.append(f'<path d="M{WIDTH - 20} {y}h20" stroke="{colour}"/>')
        parts.append(f'<text x="{WIDTH + 6}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEGEND} {HEIGHT}" role="img">',
            "<title>Recall (rsum) over the bytes of a vector</title>",
            "<style>svg{background:#fff;font:12px sans-serif}path{fill:none;stroke-width:2}text{fill:#1b2a41}"
            ".grid{stroke:#d5dce6;stroke-width:1}</style>",
            *parts,
            f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">bytes a vector</text>',
            f'<text x="{MARGIN}" y="{MARGIN - 20}" text-anchor="middle">rsum</text>',
            "</svg>\n",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv: its arguments (default: those of the process).
    """
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", nargs="+", required=True, metavar="RUN", help="run folders")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder of table and picture")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with tempfile.TemporaryDirectory() as folder:
        sizes = [size for run in options.run for size in measured(run, Path(folder))]
    lines = [*HEAD, *(size.line() for size in sizes)]
    command = " ".join([PROG, "--run", *(Path(run).name for run in options.run)])
    text = (
        "# Recall against the size of an index\n\n"
        f"`{command}`: images and captions of the validation split; int8:256 is the first 256 dimensions as int8.\n"
        "`with float32`: the float32 vectors score the best candidates, 10 for each hit and at least 100.\n\n"
    )
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "index_size.md").write_text(text + "\n".join(lines) + "\n", encoding="utf-8")
    (options.output / "index_size.svg").write_text(picture(sizes), encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    run_command(main)
