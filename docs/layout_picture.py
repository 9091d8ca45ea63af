"""Draws the package's layout from its imports, as an SVG.

    python docs/layout_picture.py [--output docs/pictures/layout.svg]

Each box is a package or module directly below `vse_tf/`, with its number of files; a line runs down to every box
that it imports from. A box stands one level above the highest of those that it uses.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from xml.sax.saxutils import escape

PACKAGE = Path(__file__).parents[1] / "vse_tf"
COMMANDS = "commands"
WIDTH, HEIGHT, GAP, RISE, MARGIN = 132, 44, 20, 54, 24


def imports() -> tuple[dict[str, int], dict[str, set[str]]]:
    """Files of each box, and the boxes that it imports from."""
    files: dict[str, int] = {}
    uses: dict[str, set[str]] = {}
    paths = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sorted(PACKAGE.rglob("*.py"))}
    commands = {
        box for path, box in paths.items() if path.parent == PACKAGE and "run_command(main)" in path.read_text()
    }
    for path, name in paths.items():
        if name == "__init__":
            continue
        box = COMMANDS if name in commands else name
        files[box] = files.get(box, 0) + 1
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vse_tf":
                below = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                uses.setdefault(box, set()).update(other for other in below if other in paths.values() and other != box)
    return files, {box: uses.get(box, set()) for box in files}


def levels(uses: dict[str, set[str]]) -> list[list[str]]:
    """The boxes from the lowest level to the highest, by name within a level."""
    height: dict[str, int] = {}

    def visit(box: str) -> int:
        if box not in height:
            height[box] = 1 + max((visit(other) for other in uses[box]), default=-1)
        return height[box]

    for box in uses:
        visit(box)
    return [sorted(box for box in uses if height[box] == level) for level in range(max(height.values()) + 1)]


def reduced(uses: dict[str, set[str]]) -> dict[str, set[str]]:
    """Only the imports that no chain of other imports implies, so that the picture can be read."""
    reach: dict[str, set[str]] = {}

    def below(box: str) -> set[str]:
        if box not in reach:
            reach[box] = uses[box].union(*(below(other) for other in uses[box]))
        return reach[box]

    return {box: {o for o in used if not any(o in below(other) for other in used - {o})} for box, used in uses.items()}


def draw() -> str:
    """The picture as SVG text, the same for the same imports."""
    files, uses = imports()
    rows = levels(uses)
    widest = max(len(row) for row in rows)
    width = 2 * MARGIN + widest * WIDTH + (widest - 1) * GAP
    height = 2 * MARGIN + len(rows) * HEIGHT + (len(rows) - 1) * RISE
    place = {}
    for level, row in enumerate(rows):
        left = (width - len(row) * WIDTH - (len(row) - 1) * GAP) / 2
        for number, box in enumerate(row):
            place[box] = (left + number * (WIDTH + GAP), height - MARGIN - HEIGHT - level * (HEIGHT + RISE))
    lines, boxes = [], []
    for box, used in sorted(reduced(uses).items()):
        for other in sorted(used):
            (x1, y1), (x2, y2) = place[box], place[other]
            start, end = f"{x1 + WIDTH / 2:g} {y1 + HEIGHT:g}", f"{x2 + WIDTH / 2:g} {y2:g}"
            middle = (y1 + HEIGHT + y2) / 2
            curve = f"{x1 + WIDTH / 2:g} {middle:g} {x2 + WIDTH / 2:g} {middle:g}"
            lines.append(f'<path d="M{start} C{curve} {end}"/>')
    for box, (x, y) in sorted(place.items()):
        count = f"{files[box]} files" if files[box] > 1 else "1 file"
        boxes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 19:g}">{escape(box)}</text>'
            f'<text class="count" x="{x + WIDTH / 2:g}" y="{y + 35:g}">{count}</text>'
        )
    style = (
        "svg{background:#fff;font-family:sans-serif}path{fill:none;stroke:#8a97a8;stroke-width:1.2}"
        "rect{fill:#eef3fa;stroke:#35507a}text{font-size:13px;text-anchor:middle;fill:#1b2a41}"
        ".count{font-size:11px;fill:#55657d}"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            "<title>Packages of vse_tf and their imports, from top to bottom</title>",
            f"<style>{style}</style>",
            *lines,
            *boxes,
            "</svg>\n",
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures" / "layout.svg")
    parser.parse_args(argv).output.write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
