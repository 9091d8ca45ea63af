"""A photo and words for what changes, against either alone, on the shapes' `hard` gallery.

    python -m benchmarks.composed --run RUN

The gallery has scenes of two objects in all four arrangements. A query is the photo of one scene, the name of an object
that shall be in it instead of another one, and, in the last row, the name of that other one as what is left out. Its
target is the scene with the one object replaced and everything else as in the photo. The photo itself is left out of
the gallery. Prints the mean reciprocal rank of the target and how often it is the first, and among the first ten.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence

import numpy as np

from vse_tf.data.shape_drawing import DrawnImages, Scene, ShapeObject
from vse_tf.errors import UserError, run_command
from vse_tf.models.folding import search_queries
from vse_tf.models.mixing import Part, mix

PROG = "python -m benchmarks.composed"
Change = tuple[int, int, ShapeObject, ShapeObject]


def changes(scenes: Sequence[Scene]) -> Iterator[Change]:
    """Every scene and target that differ in one object: their rows, the new object and the old one."""
    rows = {(scene.axis, scene.first, scene.second): row for row, scene in enumerate(scenes)}
    for (axis, first, second), row in rows.items():
        for (other_axis, other_first, other_second), target in rows.items():
            if axis == other_axis and (first == other_first) != (second == other_second):
                new, old = (other_second, second) if first == other_first else (other_first, first)
                yield row, target, new, old


def name_of(item: ShapeObject) -> str:
    """An object in words."""
    return f"a {item.size} {item.colour} {item.shape}"


def ranks(queries: np.ndarray, images: np.ndarray, found: Sequence[Change]) -> np.ndarray:
    """The rank of each target, from 1, in the gallery without the query's photo; ties count against it."""
    scores = queries @ images.T
    places = np.arange(len(found))
    target = scores[places, [target for _, target, *_ in found]]
    scores[places, [row for row, *_ in found]] = -np.inf
    return (scores >= target[:, None]).sum(axis=1)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark.

    Args:
        argv: its arguments (default: those of the process).
    """
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, help="folder of a run on the built-in shapes")
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import vse_tf  # noqa: PLC0415
    from vse_tf.data.bad_images import BadImages  # noqa: PLC0415
    from vse_tf.data.shapes import read_shapes  # noqa: PLC0415

    embedder = vse_tf.load(options.run)
    data = embedder.settings.data
    if data.source != "shapes":
        raise UserError(f"--run: {options.run} was trained on {data.source}, not on the built-in shapes")
    split = read_shapes(data.shapes).split("hard")
    encoded = embedder.corrected(embedder.encode_split(split, BadImages("fail", data.max_pixels)))
    assert isinstance(split.images, DrawnImages)
    found = list(changes(split.images.scenes))
    if not found:
        raise UserError("the hard gallery has no two scenes that differ in one object; train with more gallery scenes")
    names = sorted({name_of(item) for _, _, *both in found for item in both})
    vectors = dict(zip(names, embedder.encode_texts(names), strict=True))
    dim, results = embedder.plain_dim, {}
    for name, weights in {
        "the words alone": (0, 1, 0),
        "the photo alone": (1, 0, 0),
        "photo and words": (1, 1, 0),
        "photo and words, without the old object": (1, 1, -1),
    }.items():
        queries = []
        for row, _, new, old in found:
            every = (
                Part(encoded.image[row], "images", weights[0]),
                Part(vectors[name_of(new)], "captions", weights[1]),
                Part(vectors[name_of(old)], "captions", weights[2]),
            )
            queries.append(mix(every, "images", dim).vector)
        places = ranks(search_queries(np.stack(queries), "images", dim), encoded.image, found)
        shares = [float(np.mean(1 / places)), *(float(np.mean(places <= k)) for k in (1, 10))]
        results[name] = dict(zip(("mrr", "hit_at_1", "hit_at_10"), shares, strict=True))
    print(f"{len(split):,} scenes, {len(found):,} changes\n")
    print("| query | mean reciprocal rank | first | among the first ten |\n|---|---|---|---|")
    for name, shares in results.items():
        first, hit, ten = shares.values()
        print(f"| {name} | {first:.3f} | {100 * hit:.1f} % | {100 * ten:.1f} % |")
    print(json.dumps(results))


if __name__ == "__main__":
    run_command(main)
