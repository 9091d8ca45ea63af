"""ECCV Caption and CxC: recalls on COCO's test images with more right pairs than its own, by `eccv_caption`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vse_tf.data.records import Record, Split
from vse_tf.errors import UserError
from vse_tf.evaluation.metrics import RECALLS_AT
from vse_tf.evaluation.neighbours import nearest

if TYPE_CHECKING:
    from vse_tf.plain_embedder import EncodedSplit

DIRECTIONS = ("i2t", "t2i")
BENCHMARKS = {"eccv": ("map_at_r", "rprecision", "r1"), "cxc": tuple(f"r{k}" for k in RECALLS_AT)}
ECCV_METRICS = tuple(
    f"{name}_{direction}_{metric}"
    for name, metrics in BENCHMARKS.items()
    for direction in DIRECTIONS
    for metric in metrics
)


class EccvBenchmark:
    """The benchmarks ECCV Caption and CxC, with the pairs of the package `eccv_caption`.

    Their gallery is Karpathy's COCO test split with five captions per image: 5,000 images, 25,000 captions. Other items
    of a split are not ranked.

    Raises:
        UserError: the package is not installed.

    Example:
        benchmark = EccvBenchmark()
        benchmark.check(split)
        benchmark.measure(split, embedder.encode_split(split, bad))["eccv_i2t_map_at_r"]
    """

    def __init__(self) -> None:
        self._metrics = _package().Metrics()
        pairs = self._metrics.coco_gts
        self.images = frozenset(map(int, pairs["i2t"]))
        self.captions = frozenset(map(int, pairs["t2i"]))
        # R-precision and mAP@R need as many items as a query has right ones.
        most = max(len(right) for pairs in self._metrics.eccv_gts.values() for right in pairs.values())
        self.depth = max(most, *RECALLS_AT)

    def check(self, split: Split) -> None:
        """Refuse a split that the benchmarks cannot be measured on, before anything is encoded.

        Raises:
            UserError: its records have no COCO ids, or images or captions of the benchmarks are missing.
        """
        self._select(split.name, split.records)

    def measure(self, split: Split, encoded: EncodedSplit) -> dict[str, float]:
        """mAP@R, R-precision and R@1 of ECCV Caption and the recalls of CxC, all in percent.

        Equal similarities keep the split's order.

        Args:
            split: the split that was encoded.
            encoded: its embeddings.

        Returns:
            A value for each of `ECCV_METRICS`.

        Raises:
            UserError: as `check`, for the images that could be read.
            NonFiniteError: an embedding is not finite.
        """
        images, captions, image_ids, caption_ids = self._select(
            split.name, [split.records[row] for row in encoded.rows]
        )
        image, text = encoded.image[images], encoded.text[captions]
        scores = self._metrics.compute_all_metrics(
            _retrieved(image, text, image_ids, caption_ids, self.depth),
            _retrieved(text, image, caption_ids, image_ids, self.depth),
            # The package returns R-precision only together with mAP@R.
            target_metrics=("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls"),
            Ks=RECALLS_AT,
            verbose=False,
        )
        return {
            f"{name}_{direction}_{metric}": 100.0 * float(scores[f"{name}_{metric}"][direction])
            for name, metrics in BENCHMARKS.items()
            for direction in DIRECTIONS
            for metric in metrics
        }

    def _select(self, name: str, records: Sequence[Record]) -> tuple[NDArray[np.int64], ...]:
        """Positions of the benchmarks' images and captions among the records', and their ids."""
        bare = next((record for record in records if record.image_id is None or not record.caption_ids), None)
        if bare is not None:
            raise UserError(
                f"--metrics eccv: no COCO ids in the split {name!r} ({bare.where or bare.image}); read COCO's captions "
                "with --data.source karpathy (dataset_coco.json) or coco"
            )
        selected = []
        for kind, wanted, numbers in (
            ("images", self.images, [record.image_id for record in records]),
            ("captions", self.captions, [number for record in records for number in record.caption_ids]),
        ):
            places = [place for place, number in enumerate(numbers) if number in wanted]
            ids = [numbers[place] for place in places]
            if missing := wanted.difference(ids):
                raise UserError(
                    f"--metrics eccv: {len(missing)} of the {len(wanted)} {kind} of COCO's test split are not in the "
                    f"split {name!r}, the first is id {min(missing)}; name the complete split with --split"
                )
            if repeated := [number for number, count in Counter(ids).items() if count > 1]:
                raise UserError(
                    f"--metrics eccv: COCO id {repeated[0]} names more than one of the {kind} of the split {name!r}"
                )
            selected.append((np.array(places, np.int64), np.array(ids, np.int64)))
        (images, image_ids), (captions, caption_ids) = selected
        return images, captions, image_ids, caption_ids


def _retrieved(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    query_ids: NDArray[np.int64],
    gallery_ids: NDArray[np.int64],
    depth: int,
) -> dict[int, list[int]]:
    """The ids of each query's nearest items, best first."""
    found = gallery_ids[nearest(query, gallery, depth)[0]]
    return dict(zip(query_ids.tolist(), found.tolist(), strict=True))


def _package() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it recommends a faster JSON reader
            import eccv_caption  # noqa: PLC0415
    except ImportError:
        raise UserError("--metrics eccv needs eccv_caption: pip install 'vse_tf[eccv]', or omit --metrics") from None
    return eccv_caption
