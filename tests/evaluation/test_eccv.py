"""COCO's larger benchmarks: what is handed to the package `eccv_caption`, what comes back, what is refused."""

import inspect
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.tiny import arguments
from vse_tf import evaluate, train
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.errors import UserError, run_command
from vse_tf.evaluation.eccv import ECCV_METRICS, EccvBenchmark
from vse_tf.evaluation.report import benchmarks_table
from vse_tf.plain_embedder import EncodedSplit

IMAGES, EACH = 12, 5
IMAGE_IDS = [1000 - 7 * i for i in range(IMAGES)]
CAPTION_IDS = [[10 * i + j + 50_000 for j in range(EACH)] for i in range(IMAGES)]


class Metrics:
    """What the package's class of this name does, of as much as is used here."""

    def __init__(self, extra_file_dir=None, verbose=False):
        i2t = dict(zip(IMAGE_IDS, CAPTION_IDS, strict=True))
        self.coco_gts = {"i2t": i2t, "t2i": {number: [image] for image, own in i2t.items() for number in own}}
        wide = {image: own + CAPTION_IDS[(i + 1) % IMAGES][:2] for i, (image, own) in enumerate(i2t.items())}
        self.cxc_gts = {
            "i2t": wide,
            "t2i": {n: [image for image, right in wide.items() if n in right] for n in self.coco_gts["t2i"]},
        }
        # Some queries only, and a right answer that is not in the gallery.
        more = {image: wide[image] + CAPTION_IDS[(i + 2) % IMAGES] for i, image in enumerate(IMAGE_IDS[:5])}
        more[IMAGE_IDS[0]] = [*more[IMAGE_IDS[0]], 99]
        self.eccv_gts = {"i2t": more, "t2i": {n: IMAGE_IDS[: 2 + n % 3] for n in CAPTION_IDS[1]}}

    def compute_all_metrics(
        self,
        i2t_retrieved_items=None,
        t2i_retrieved_items=None,
        target_metrics=("coco_1k_r1", "coco_5k_r1", "cxc_r1", "eccv_r1", "eccv_map_at_r"),
        Ks=(1, 5, 10),  # noqa: N803 - the package's name
        verbose=None,
    ):
        given = {"i2t": i2t_retrieved_items, "t2i": t2i_retrieved_items}
        assert all(isinstance(one, dict) for one in given.values())
        scores = {}
        for side, answers in given.items():
            assert all(type(n) is int for query, found in answers.items() for n in (query, *found))
            if "cxc_recalls" in target_metrics:
                for k in Ks:
                    hits = [bool(set(answers[query][:k]) & set(right)) for query, right in self.cxc_gts[side].items()]
                    scores.setdefault(f"cxc_r{k}", {})[side] = np.mean(hits)
            if "eccv_map_at_r" in target_metrics:
                found = {"r1": [], "rprecision": [], "map_at_r": []}
                for query, right in self.eccv_gts[side].items():
                    hits = np.array([answers[query][place] in right for place in range(len(right))], float)
                    precisions = np.cumsum(hits) / np.arange(1, len(hits) + 1)
                    found["r1"].append(hits[0])
                    found["rprecision"].append(precisions[-1])
                    found["map_at_r"].append(np.mean(precisions * hits))
                for name, values in found.items():
                    if f"eccv_{name}" in target_metrics:
                        scores.setdefault(f"eccv_{name}", {})[side] = np.mean(values)
        return scores


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "eccv_caption", SimpleNamespace(Metrics=Metrics))


def split_of(image_ids, caption_ids):
    records = tuple(
        Record(
            f"{image}.jpg", tuple(f"{n}" for n in own), "test", row, "x.json", image_id=image, caption_ids=tuple(own)
        )
        for row, (image, own) in enumerate(zip(image_ids, caption_ids, strict=True))
    )
    return Split("test", records, FileImages(tuple(record.image for record in records)))


def encoded_of(split, seed=0, dim=4, signal=1.5):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(len(split), dim))
    rows = np.array(split.caption_rows)
    text = signal * image[rows] + rng.normal(size=(len(rows), dim))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    return EncodedSplit(image.astype(np.float32), text.astype(np.float32), rows, np.arange(len(split)))


def by_complete_rankings(metrics, split, encoded):
    """The scores from every query's ranking of its complete gallery."""
    images = np.array([record.image_id for record in split.records])
    captions = np.array([n for record in split.records for n in record.caption_ids])
    sides = []
    for ids, vectors, wanted in ((images, encoded.image, "i2t"), (captions, encoded.text, "t2i")):
        keep = np.isin(ids, list(metrics.coco_gts[wanted]))
        sides.append((ids[keep], vectors[keep].astype(float)))
    ranked = [
        {int(n): ids[np.argsort(-(vectors @ one))][:60].tolist() for n, one in zip(*queries, strict=True)}
        for queries, (ids, vectors) in (sides, sides[::-1])
    ]
    return metrics.compute_all_metrics(*ranked, ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls"))


def agree(found, wanted):
    assert tuple(found) == ECCV_METRICS
    for name, value in found.items():
        benchmark, side, metric = re.fullmatch("(eccv|cxc)_(i2t|t2i)_(.*)", name).groups()
        np.testing.assert_allclose(value, 100 * wanted[f"{benchmark}_{metric}"][side], err_msg=name)


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_are_those_of_complete_rankings(package, seed):
    split = split_of(IMAGE_IDS[::-1], CAPTION_IDS[::-1])
    encoded = encoded_of(split, seed)
    benchmark = EccvBenchmark()
    benchmark.check(split)
    found = benchmark.measure(split, encoded)
    agree(found, by_complete_rankings(Metrics(), split, encoded))
    assert all(0 < value <= 100 for value in found.values())
    assert len(set(found.values())) > 6
    text = benchmarks_table(found)
    assert f"{found['eccv_t2i_map_at_r']:.1f}" in text
    assert len({line.index("|") for line in text.splitlines()}) == 1


def test_items_outside_the_benchmarks_are_ignored(package):
    image_ids = [5, *IMAGE_IDS, 10**30]
    caption_ids = [[1, 2], *([own[0], 90_000 + i, *own[1:]] for i, own in enumerate(CAPTION_IDS)), [-3]]
    split = split_of(image_ids, caption_ids)
    encoded = encoded_of(split, 1)
    found = EccvBenchmark().measure(split, encoded)
    agree(found, by_complete_rankings(Metrics(), split, encoded))
    rows = encoded.image_id.copy()
    inside = [i for i, n in enumerate(n for own in caption_ids for n in own) if 50_000 <= n < 90_000]
    alone = EncodedSplit(encoded.image[1:-1], encoded.text[inside], rows[inside] - 1, np.arange(IMAGES))
    assert EccvBenchmark().measure(split_of(IMAGE_IDS, CAPTION_IDS), alone) == found
    # The first image could not be read: places among the embeddings are not rows of the split.
    seen = rows > 0
    unread = EncodedSplit(encoded.image[1:], encoded.text[seen], rows[seen] - 1, encoded.rows[1:])
    assert EccvBenchmark().measure(split, unread) == found


def test_data_that_does_not_fit_is_one_line(package):
    benchmark = EccvBenchmark()
    for split, named in (
        (split_of([*IMAGE_IDS[:-1], None], CAPTION_IDS), r"no COCO ids in the split 'test' \(x.json\)"),
        (split_of(IMAGE_IDS, [*CAPTION_IDS[:-1], []]), "no COCO ids"),
        (split_of(IMAGE_IDS[1:], CAPTION_IDS[1:]), "1 of the 12 images .* the first is id 1000"),
        (split_of(IMAGE_IDS, [CAPTION_IDS[0][:3], *CAPTION_IDS[1:]]), "2 of the 60 captions .* id 50003"),
        (split_of([*IMAGE_IDS, 1000], [*CAPTION_IDS, [7]]), "COCO id 1000 names more than one of the images"),
        (split_of([*IMAGE_IDS, 4], [*CAPTION_IDS, [50_000]]), "COCO id 50000 names more than one of the captions"),
    ):
        with pytest.raises(UserError, match=named):
            benchmark.check(split)
    split = split_of(IMAGE_IDS, CAPTION_IDS)
    encoded = encoded_of(split)
    seen = encoded.image_id > 0
    left = EncodedSplit(encoded.image[1:], encoded.text[seen], encoded.image_id[seen] - 1, encoded.rows[1:])
    with pytest.raises(UserError, match="1 of the 12 images"):
        benchmark.measure(split, left)


def test_without_the_package_it_says_what_to_install(tiny_run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "eccv_caption", None)
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: evaluate.main(["--run", str(tiny_run), "--metrics", "eccv"]))
    assert stopped.value.code == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "pip install 'vse_tf[eccv]'" in output


def test_data_without_ids_is_refused_before_anything_is_encoded(tiny_run, package):
    with pytest.raises(UserError, match="no COCO ids in the split 'val'"):
        evaluate.main(["--run", str(tiny_run), "--split", "val", "--metrics", "eccv"])


def stand_ins(folder, image_ids, caption_ids):
    """Karpathy's caption file with these ids and noise for images, and a run that takes such images."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    items = []
    for i, (image, own) in enumerate(zip([*range(-24, 0), *image_ids], [*([[-1]] * 24), *caption_ids], strict=True)):
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / "images" / f"{i}.png")
        split = "train" if i < 16 else "val" if i < 24 else "test"
        said = [{"raw": f"words {i} and {j}", "sentid": n} for j, n in enumerate(own)]
        items.append({"filename": f"{i}.png", "split": split, "cocoid": image, "sentences": said})
    (folder / "dataset.json").write_text(json.dumps({"images": items}))
    argv = arguments(
        folder / "run",
        data__source="karpathy",
        data__annotations=folder / "dataset.json",
        data__images=folder / "images",
        data__cache_dir=folder / "cache",
        image__encoder="cnn",
        image__size=16,
        text__min_count=1,
        train__epochs=1,
    )
    drop = {i for i, part in enumerate(argv) if part.startswith("--data.shapes")}
    train.main([part for i, part in enumerate(argv) if i not in drop and i - 1 not in drop])
    return ["--run", str(folder / "run"), "--metrics", "eccv", "--output", str(folder / "found.json")]


def test_the_command_measures_them(tmp_path, package, capsys):
    argv = stand_ins(tmp_path, IMAGE_IDS, CAPTION_IDS)
    evaluate.main(argv)
    output = capsys.readouterr().out
    assert "mAP@R" in output
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["split"] == "test"
    assert set(ECCV_METRICS) < set(found["metrics"])
    assert "i2t_r1" in found["metrics"]
    with pytest.raises(UserError, match=r"12 of the 12 images .* in the split 'val'"):
        evaluate.main([*argv, "--split", "val"])
    broken = tmp_path / "images" / "30.png"
    broken.write_bytes(broken.read_bytes()[:80])
    with pytest.raises(UserError, match="1 of the 12 images"):
        evaluate.main([*argv, "--data.on_bad", "skip"])


REAL = "the test of the real benchmarks needs pip install 'vse_tf[eccv]'"


def real_split(metrics):
    image_ids = list(metrics.coco_gts["i2t"])
    return split_of(image_ids, [metrics.coco_gts["i2t"][image] for image in image_ids])


def test_the_real_package_agrees_with_complete_rankings():
    eccv_caption = pytest.importorskip("eccv_caption", reason=REAL)
    ours, theirs = (inspect.signature(one.compute_all_metrics).parameters for one in (Metrics, eccv_caption.Metrics))
    assert list(ours) == list(theirs)
    metrics = eccv_caption.Metrics()
    split = real_split(metrics)
    encoded = encoded_of(split, dim=16, signal=1.0)
    benchmark = EccvBenchmark()
    assert (len(benchmark.images), len(benchmark.captions), benchmark.depth) == (5000, 25_000, 48)
    benchmark.check(split)
    found = benchmark.measure(split, encoded)
    # The same figures computed by the test, with the real pairs.
    mine = Metrics()
    mine.coco_gts, mine.cxc_gts, mine.eccv_gts = metrics.coco_gts, metrics.cxc_gts, metrics.eccv_gts
    agree(found, by_complete_rankings(mine, split, encoded))
    assert all(1 < value < 99 for value in found.values())


@pytest.mark.evidence
def test_the_command_measures_all_of_the_real_ids(tmp_path):
    eccv_caption = pytest.importorskip("eccv_caption", reason=REAL)
    pairs = eccv_caption.Metrics().coco_gts["i2t"]
    evaluate.main(stand_ins(tmp_path, list(pairs), list(pairs.values())))
    metrics = json.loads((tmp_path / "found.json").read_text())["metrics"]
    # Noise for images: near chance, and no larger benchmark is harder than the smaller one.
    assert 0 <= metrics["i2t_r10"] <= metrics["cxc_i2t_r10"] < 2
    assert set(ECCV_METRICS) < set(metrics)
