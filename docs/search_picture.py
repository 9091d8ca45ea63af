"""Draws a picture of ten queries and their first five hits among scenes that the model has not seen.

    python docs/search_picture.py --run runs/shapes-convse-0 [--output docs/pictures/search.jpg]

Draws the scenes of the built-in set's `hard` gallery (for each scene there are three with the same words in another
order), and runs the commands embed and search on them. For a collection of your own images the last command is enough:
`python -m vse_tf.search --index INDEX --queries FILE --top_k 5 --picture FILE.jpg`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf import embed, search
from vse_tf.artifacts.run_folder import RunFolder
from vse_tf.data.shapes import read_shapes

QUERIES = 10


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="run folder of the built-in set")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures" / "search.jpg")
    args = parser.parse_args(argv)
    split = read_shapes(RunFolder(args.run).settings().data.shapes).split("hard")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        for record in split.records:
            pixels = split.images.load(np.array([record.row]))[0]
            Image.fromarray(pixels).save(folder / "images" / f"{record.row:04d}.png")
        wanted = np.linspace(0, len(split) - 1, QUERIES).astype(int)
        queries = "".join(f"{split.records[row].captions[0]}\n" for row in wanted)
        (folder / "queries.txt").write_text(queries, encoding="utf-8")
        index = str(folder / "index")
        embed.main(["--run", args.run, "--images", str(folder / "images"), "--output", index])
        arguments = ["--queries", str(folder / "queries.txt"), "--top_k", "5", "--picture", str(args.output)]
        search.main(["--index", index, *arguments])


if __name__ == "__main__":
    main()
