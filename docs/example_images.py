"""Draws a folder of images and a table of their captions, to try the guides without images of your own.

    python docs/example_images.py [--images photos] [--captions captions.csv] [--count 600] [--size 160]

The scenes are those of the built-in set: two objects and where they are. Each has five captions.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from vse_tf.config import ShapesSettings
from vse_tf.data.shapes import read_shapes


def main(argv: list[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=Path("photos"), help="folder to write them to")
    parser.add_argument("--captions", type=Path, default=Path("captions.csv"), help="table to write")
    parser.add_argument("--count", type=int, default=600, help="number of images")
    parser.add_argument("--size", type=int, default=160, help="width and height in pixels")
    args = parser.parse_args(argv)
    # Training scenes come in pairs.
    settings = ShapesSettings(train_scenes=args.count + args.count % 2, gallery_scenes=4, size=args.size, cache=False)
    split = read_shapes(settings).split("train")
    args.images.mkdir(parents=True, exist_ok=True)
    with args.captions.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "caption"])
        for record in split.records[: args.count]:
            name = f"{record.row:04d}.png"
            Image.fromarray(split.images.load(np.array([record.row]))[0]).save(args.images / name)
            table.writerows([name, caption] for caption in record.captions)
    print(f"{args.images}: {args.count} images; {args.captions}: {5 * args.count} captions")


if __name__ == "__main__":
    main()
