"""The benchmarks run, and say what they measured; their figures are no test's business."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import vse_tf
from benchmarks import __main__ as all_benchmarks
from benchmarks import (
    amplification,
    cold_start,
    composed,
    features,
    growth,
    halves,
    index_size,
    objectives,
    packed,
    relevance,
    replicas,
    serving_soak,
    soak,
    towers,
    waiting,
)
from benchmarks import search as search_benchmark
from benchmarks.objectives import MASK_OFF, PLUS_PLUS, TABLES, Variant, slug
from benchmarks.validation import encoded_validation
from tests.serving import models
from tests.tiny import TINY
from tests.warm_python import warm_python
from vse_tf.artifacts.index import Item
from vse_tf.artifacts.index_writer import IndexWriter
from vse_tf.data.shape_drawing import Scene, ShapeObject
from vse_tf.embedder import EncodedSplit
from vse_tf.errors import UserError

SHAPES = {**TINY, "data.source": "shapes", "data.features": "false", "train.batch_size": "16"}


def test_the_table_of_objectives_is_made_and_continued(tmp_path, monkeypatch, capsys):
    variants = {"ConVSE++, both": Variant(PLUS_PLUS, warm_up=0.5, base=0.5)}
    monkeypatch.setattr(objectives, "TABLES", {"objectives": variants})
    output = tmp_path / "results" / "objectives"
    given = [part for key, value in SHAPES.items() for part in (f"--{key}", value)]
    argv = ["--runs", str(tmp_path / "runs"), "--tables", "objectives", "--output", str(output), *given]
    objectives.main([*argv, "--seeds", "0"])
    first = json.loads(output.with_suffix(".json").read_text())
    variants["ConVSE"] = Variant(MASK_OFF)
    objectives.main([*argv, "--seeds", "0"])
    printed = capsys.readouterr().out
    found = json.loads(output.with_suffix(".json").read_text())
    assert found["runs"]["objectives"]["ConVSE++, both"] == first["runs"]["objectives"]["ConVSE++, both"]
    for name, runs in found["runs"]["objectives"].items():
        expected = {"mean": runs["0"]["metrics"]["rsum"], "sd": 0.0}
        assert found["summary"]["objectives"][name]["rsum"] == expected
        gain = runs["0"]["metrics_corrected"]["rsum"] - runs["0"]["metrics"]["rsum"]
        assert found["summary"]["objectives"][name]["gain"] == {"mean": gain, "sd": 0.0}
    folders = {path.name for path in (tmp_path / "runs").iterdir()}
    assert folders == {"objectives-convse-0", "objectives-convsepp-both-0", "objectives-convsepp-both-0-base"}
    config = (tmp_path / "runs" / "objectives-convsepp-both-0" / "config.yaml").read_text()
    assert "name: convse++" in config and "hardness_epochs: 1.0" in config and "epochs: 1\n" in config
    assert "2/2" in printed and "| ConVSE++, both | 1 |" in output.with_suffix(".md").read_text()


def test_spread_over_seeds():
    assert objectives.spread([1.0, 2.0, 6.0]) == {"mean": 3.0, "sd": pytest.approx(7**0.5)}


def test_every_variant_is_a_run_that_the_settings_allow(tmp_path):
    for table, variants in TABLES.items():
        assert len({slug(name) for name in variants}) == len(variants), table
        for name, variant in variants.items():
            stages = objectives.stages(variant, tmp_path / slug(name), 1, 6, ["--data.source", "karpathy"])
            assert sum(settings.train.epochs for settings in stages) == 6


def test_runs_that_differ_in_rounding_are_listed(monkeypatch, capsys):
    ways = {way: replicas.WAYS[way] for way in ("one device", "one device, last bit, first draw")}
    monkeypatch.setattr(replicas, "WAYS", ways)
    given = [part for key, value in SHAPES.items() for part in (f"--{key}", value)]
    replicas.main(["--seeds", "3", *given])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[1] for line in lines[2:]] == list(ways)
    assert lines[2].endswith("| 0.0e+00 |") and not lines[3].endswith("| 0.0e+00 |")


def test_the_losses_are_measured(tmp_path):
    command = ["-m", "benchmarks.losses", "--losses", "convse++", "--batches", "8", "--dim", "4", "--large", "0"]
    done = subprocess.run([*warm_python(), *command], check=True, capture_output=True, text=True)
    (found,) = json.loads(done.stdout)["results"]
    assert (found["loss"], found["batch"], found["form"]) == ("convse++", 8, "dense")
    assert found["ratio"] > 0


def test_waiting_is_a_ratio_to_the_import(monkeypatch, capsys):
    taken = iter([2.0, 3.0, 4.0, 2.4])
    measure = {
        name: lambda: {"seconds": (s := next(taken)), "cpu_s": 2 * s} for name in ("import_tensorflow", "search")
    }
    for name in ("TF_CPP_MIN_LOG_LEVEL", "VSE_TF_CACHE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(waiting, "prepared", lambda *arguments: measure)
    waiting.main(["--repeat", "2"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["search"] == {"seconds": 2.4, "cpu_s": 4.8, "ratio": 1.2, "cpu_ratio": 1.2}


def test_the_feature_cache_is_measured(capsys):
    features.main(["--photos", "32", "--size", "32", "--rounds", "1"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["centre"]["ratio"] > 0 and found["views"]["processor_ratio"] > 0


def test_packed_photos_are_measured(capsys, monkeypatch):
    for name in ("AHEAD", "COUNTED"):
        monkeypatch.setattr(packed, name, 1)
    monkeypatch.setattr(packed, "BATCH", 8)
    packed.main(["--count", "16", "--rounds", "1", "--records", "40"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert all(found[name]["ratio"] > 0 for name in ("files", "tar", "parquet"))
    assert found["opening"]["records"] == 40 and found["opening"]["memory_gb"] > 0


def test_the_exported_towers_are_measured(capsys):
    towers.main(["--rounds", "1", "--units", "8", "--size", "32"])
    found = json.loads(capsys.readouterr().out)
    assert all(found[name][f"{kind}_ms"] > 0 for name in ("text", "texts") for kind in ("tower", "former", "floor"))
    assert found["image"]["ratio"] > 0
    assert [row.figure for row in all_benchmarks.BENCHMARKS["towers"].rows(found)] == [
        found[n]["ratio"] for n in ("text", "image")
    ]


def sampled(mb, files=(9, 9), threads=(5, 5)):
    """Samples of a process that goes evenly from one value to another in five minutes."""
    return [
        soak.Sample(second, *(first + (last - first) * second / 299 for first, last in (mb, files, threads)))
        for second in range(300)
    ]


@pytest.mark.parametrize(
    ("grown", "flat"),
    [
        ({"mb": (800, 800)}, True),
        ({"mb": (800, 820)}, True),
        ({"mb": (800, 900)}, False),
        ({"mb": (800, 800), "files": (9, 40)}, False),
        ({"mb": (800, 800), "threads": (5, 20)}, False),
    ],
)
def test_growth_is_seen(grown, flat):
    assert soak.growth(sampled(**grown))[1] is flat


def test_the_server_is_soaked(tmp_path, capsys):
    for tower, name in ((models.Photo(), "image_tower"), (models.TextTower(), "text_tower")):
        models.save(tower, tmp_path / name / "1", default="serve")
    Image.new("RGB", (30, 20), (200, 10, 10)).save(tmp_path / "red.png")
    writer = IndexWriter(tmp_path / "index", "images", 3)
    writer.commit([writer.write(np.eye(1, 3, dtype=np.float32))], [Item("red.png", path="red.png")], {}, root=tmp_path)
    with pytest.raises(SystemExit) as end:
        options = ["--gallery", str(tmp_path / "index"), "--minutes", "0.1", "--clients", "3"]
        serving_soak.main(["--models", str(tmp_path), *options])
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    # Six seconds are no soak: whether that was flat is chance.
    assert (found["wrong"], found["clients"], end.value.code) == (0, 3, not found["flat"]), printed.err
    assert found["requests"] == sum(kind["requests"] for kind in found["kinds"].values()) > 30
    assert {"text_tower", "image_tower", "bomb", "too large", "hangs up", "thumbnail"} <= found["kinds"].keys()
    assert found["mb_first_last"][0] > 50 and found["files_first_last"][0] > 0
    assert "0 wrong; " in printed.err


def test_small_requests_cost_the_server_little(tmp_path, capsys):
    models.write_towers(tmp_path)
    names = ["a million empty", "100,000 images", "JSON of objects", "bomb of 1 GB"]
    with pytest.raises(SystemExit) as end:
        amplification.main(["--models", str(tmp_path), "--clients", "0", "--only", *names])
    printed = capsys.readouterr()
    found = json.loads(printed.out.splitlines()[-1])
    assert {name: each["status"] for name, each in found["requests"].items()} == {
        "a million empty strings": 413,
        "100,000 images that are none": 413,
        "JSON of objects": 413,
        "JSON of objects elsewhere": 413,
        "a gzip bomb of 1 GB": 413,
    }
    assert all(each["answer_mb"] <= 0.02 for each in found["requests"].values())
    assert (end.value.code, found["within"]) == (False, True), printed.err
    assert "within the limits" in printed.err


class Answers:
    """A connection on which every request gets the same answer."""

    def __init__(self, status, body):
        self.status, self.body = status, body

    def request(self, *_):
        pass

    def getresponse(self):
        return self

    def read(self):
        return self.body


@pytest.mark.parametrize(
    ("status", "values", "printed"),
    [
        (200, [[1, 0], [0, 1]], ""),
        (500, [[1, 0], [0, 1]], "500 in place of 200"),
        (200, [[0, 1], [1, 0]], "other values than alone"),
        (200, [[1, 0]], "other values than alone"),
        (200, [[1, 0], [0, float("nan")]], "other values than alone"),
    ],
)
def test_a_wrong_answer_is_seen(status, values, printed):
    request = serving_soak.predict("text_tower", {"inputs": ["a", "b"]}, rows=np.eye(2))
    found = serving_soak.send(Answers(status, json.dumps({"outputs": values}).encode()), request)
    assert found.startswith(printed) and bool(found) == bool(printed)


def test_several_figures_of_a_benchmark_have_targets(monkeypatch, tmp_path, capsys):
    found = {"training": {"ratio": 1.21}, "evaluation": {"ratio": 1.19}}
    monkeypatch.setattr(all_benchmarks, "run", lambda name: found)
    all_benchmarks.main(["pipeline", "--output", str(tmp_path / "all.json")])
    lines = capsys.readouterr().err.splitlines()
    assert [(line.split()[1], line.split()[-1]) for line in lines] == [("evaluation", "met"), ("training", "MISSED")]
    assert json.loads((tmp_path / "all.json").read_text())["results"] == {"pipeline": found}


def test_some_benchmarks_run_by_name_only(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(all_benchmarks, "run", asked.append)
    by_name = {"growth", "cold_start", "peers"}
    monkeypatch.setattr(
        all_benchmarks,
        "BENCHMARKS",
        {name: dataclasses.replace(each, rows=lambda _: []) for name, each in all_benchmarks.BENCHMARKS.items()},
    )
    all_benchmarks.main([])
    assert set(asked) == all_benchmarks.BENCHMARKS.keys() - by_name
    all_benchmarks.main(["growth"])
    assert asked[-1] == "growth"


def test_growth_is_drawn_beside_that_of_the_data():
    training = [
        {"pairs": n, **{key: 2.0 * n**power for key, power in zip(growth.COLUMNS, (1, 1, 1, 0, 2), strict=True)}}
        for n in (10, 1000)
    ]
    evaluation = [{"images": n, "captions": 5 * n, "ranks_s": n * n, "ratio": 1.1, "extra_mb": 2} for n in (10, 100)]
    search = [
        {"vectors": n, "dim": 64, "batched_queries_per_s": 1 / n, "batched_ratio": 1, "ready_s": 0, "resident_mb": 1}
        for n in (1, 10)
    ]
    found = {"training": training, "evaluation": evaluation, "search": search}
    lines = growth.series(found)
    assert {name: line[-1][1] / line[-1][0] for name, line in lines.items()} == pytest.approx(
        {
            "first step": 1,
            "processor time to it": 1,
            "memory beyond the features": 1,
            "step": 0.01,
            "checkpoint": 100,
            "evaluation": 1,
            "search, dim 64": 1,
        }
    )
    drawn = growth.draw(lines)
    assert drawn.count("<circle") == sum(map(len, lines.values())) and "search, dim 64" in drawn
    markdown = growth.table({**found, "date": "today", "machine": {"cpu": "a", "cores": 2}, "idle": False})
    assert "**not idle**" in markdown and "| 1,000 | 2,000 |" in markdown


def test_generated_captions_are_varied(tmp_path):
    growth.write_data(tmp_path, 500, 4)
    captions = (tmp_path / "train_caps.txt").read_text().splitlines()
    assert len(captions) == len(set(captions)) == 500
    assert len({len(caption.split()) for caption in captions}) > 5
    assert np.load(tmp_path / "train_ims.npy").shape == (100, 4)


def test_a_cold_start_knows_what_it_can_train(monkeypatch):
    for name in ("FLICKR8K", "IMAGE_ENCODER", "TEXT_ENCODER"):
        monkeypatch.delenv(f"VSE_TF_{name}", raising=False)
    assert cold_start.commands() == {cold_start.FIRST: []}
    for name in ("FLICKR8K", "IMAGE_ENCODER", "TEXT_ENCODER"):
        monkeypatch.setenv(f"VSE_TF_{name}", name.lower())
    assert "flickr8k/images" in cold_start.commands()[cold_start.BEST]


def test_a_phase_inside_another_is_not_counted_twice(tmp_path, monkeypatch):
    from vse_tf import display, train  # noqa: PLC0415

    def command(_):
        with display.Phase("outer"), display.Phase("inner"):
            cold_start.time.sleep(0.2)

    monkeypatch.setattr(train, "main", command)
    begin, end = display.Phase.__enter__, display.Phase.__exit__
    try:
        cold_start.train([], tmp_path / "phases.json")
    finally:
        display.Phase.__enter__, display.Phase.__exit__ = begin, end
    seconds = json.loads((tmp_path / "phases.json").read_text())
    assert seconds["inner"] >= 0.2 > seconds["outer"]


def test_a_run_is_measured_on_halves_and_each_look_counted(corrected_run, tmp_path, capsys):
    looks = tmp_path / "looks.json"
    halves.main(["choose", str(corrected_run), "--looks", str(looks)])
    printed = capsys.readouterr().out
    assert "first half" in printed and "| second half" not in printed and "| whole" not in printed
    halves.main(["report", str(corrected_run), "--looks", str(looks)])
    printed = capsys.readouterr().out
    assert "| first half" not in printed and "rsum, whole, corrected" in printed
    assert json.loads(looks.read_text()) == {"first half": 2, "second half": 1}
    stored = json.loads((corrected_run / "results.json").read_text())["best"]["metrics"]["rsum"]
    assert f"rsum, whole, plain: {stored:.1f}" in printed


def test_the_halves_are_those_of_the_file_names():
    names = [f"photos/{number}.jpg" for number in range(1000)]
    first = [halves.in_first_half(name) for name in names]
    assert 430 < sum(first) < 570
    assert first == [halves.in_first_half(f"/elsewhere/{number}.jpg") for number in range(1000)]
    ids = np.array([0, 0, 1, 2, 2])
    encoded = EncodedSplit(np.eye(3), np.arange(5.0)[:, None], ids, np.arange(3))
    found = halves.part(encoded, np.array([True, False, True]))
    assert found.image_id.tolist() == [0, 0, 1, 1] and found.text.ravel().tolist() == [0, 1, 3, 4]
    np.testing.assert_array_equal(found.image, np.eye(3)[[0, 2]])


def test_recall_is_measured_against_the_size_of_an_index(corrected_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(index_size, "SMALLEST", 4)
    index_size.main(["--run", str(corrected_run), "--output", str(tmp_path)])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1:3] for row in rows] == [
        ["float32", "48"], ["float16:8", "32"], ["float16:4", "24"], ["int8:8", "28"], ["int8:4", "24"]
    ]  # fmt: skip
    embedder, _, encoded = encoded_validation(str(corrected_run))
    encoded = embedder.corrected(encoded)
    expected = vse_tf.recalls(encoded.image, encoded.text, encoded.image_id)
    assert [float(value) for value in rows[0][3:7]] == pytest.approx(
        [expected[key] for key in ("t2i_r1", "t2i_r5", "t2i_r10", "rsum")], abs=0.06
    )
    # All rows are candidates, so nothing is lost where the float32 vectors are there.
    assert all(row[7:11] == rows[0][3:7] and float(row[11].rstrip(" |")) == 100 for row in rows)
    assert "int8:4" in (tmp_path / "index_size.md").read_text()
    drawn = (tmp_path / "index_size.svg").read_text()
    assert drawn.count("<circle") == 1 + 2 * 4 and "int8, with float32" in drawn


def test_relevance_is_measured_against_the_bare_score(tiny_run, capsys):
    relevance.main(["--run", str(tiny_run), "--splits", "1", "--queries", "20"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "20 images, a half of them in each gallery; queries: 40 in, 40 out, 40 salad"
    found = json.loads(lines[-1])
    assert all(0 <= area <= 1 for areas in found["auc"].values() for area in areas)
    shares = np.array([found["above"][str(least)] for least in relevance.THRESHOLDS])
    assert (np.diff(shares, axis=0) <= 0).all()
    random = np.random.default_rng(0)
    positive, negative = random.integers(0, 9, 30), random.integers(0, 7, 20)
    slow = np.mean([(a > b) + (a == b) / 2 for a in positive for b in negative])
    assert relevance.auc(positive, negative) == pytest.approx(slow)


def test_a_photo_and_words_are_measured_together(tiny_run, capsys, monkeypatch):
    red, blue, star = (ShapeObject("big", *each) for each in (("red", "circle"), ("blue", "circle"), ("red", "star")))
    scenes = [Scene("horizontal", red, star), Scene("horizontal", blue, star), Scene("vertical", blue, star)]
    assert list(composed.changes(scenes)) == [(0, 1, blue, red), (1, 0, red, blue)]
    # The photo itself does not count, and an equal score counts against the target.
    images = np.float32([[1, 0], [0.6, 0.8], [0.6, 0.8]])
    assert composed.ranks(images[:1], images, [(0, 1, blue, red)]).tolist() == [2]
    monkeypatch.setattr(composed, "changes", lambda scenes: [(0, 3, scenes[3].first, scenes[0].first)])
    composed.main(["--run", str(tiny_run)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "20 scenes, 1 changes" and len(json.loads(lines[-1])) == 4
    monkeypatch.setattr(composed, "changes", lambda scenes: [])
    with pytest.raises(UserError, match="more gallery scenes"):
        composed.main(["--run", str(tiny_run)])


def test_searches_are_compared_with_the_product(monkeypatch, capsys):
    options = ["--vectors", "300", "--dim", "32", "--queries", "8", "--batch", "4", "--repeat", "1"]
    monkeypatch.setattr(sys, "argv", ["search", *options, "--search", "auto", "exact", "--storage", "int8:16"])
    search_benchmark.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["search"] for each in found] == ["auto", "exact"] and found[1]["recall_at_10"] == 1
    for each in found:
        assert min(each["ratio"], each["relevance_ratio"], each["batched_relevance_ratio"]) > 0
