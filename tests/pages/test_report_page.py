"""The page of an evaluation: it lists the expected queries in order, and no text in them is interpreted."""

import base64
import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests.pages.test_contact_sheet import EVIL, read
from tests.tiny import arguments
from tests.warm_python import warm_python
from vse_tf import evaluate, train
from vse_tf.data.records import FileImages, Record, Split
from vse_tf.data.sources.precomp import FeatureImages
from vse_tf.errors import UserError
from vse_tf.evaluation.hubness import split_hubness
from vse_tf.evaluation.metrics import measure
from vse_tf.evaluation.split_results import Compared, SplitResults
from vse_tf.evaluation.word_order import OrderResult, WrongOrder
from vse_tf.pages.report_page import report_page
from vse_tf.pages.thumbnails import MAX_PIXELS
from vse_tf.pages.worst_queries import failures
from vse_tf.plain_embedder import EncodedSplit


def encoded_split(counts, dim=3, seed=0, values=None, rows=None):
    """Embeddings of images with `counts` captions; of few different values, so that scores tie."""
    rng = np.random.default_rng(seed)
    draw = values if values is not None else np.array([-1, 0, 1])
    image = rng.choice(draw, (len(counts), dim)).astype(np.float32)
    image_id = np.repeat(np.arange(len(counts)), counts)
    text = rng.choice(draw, (len(image_id), dim)).astype(np.float32)
    return EncodedSplit(image, text, image_id, np.arange(len(counts)) if rows is None else np.array(rows))


def expected(encoded, count):
    """The definition, query by query over the full score matrix."""
    scores = encoded.image.astype(np.float64) @ encoded.text.T.astype(np.float64)
    right = encoded.image_id[None] == np.arange(len(scores))[:, None]
    both = []
    for matrix, mask in ((scores, right), (scores.T, right.T)):
        found = []
        for query, (row, own) in enumerate(zip(matrix, mask, strict=True)):
            rank = int(np.sum(row[~own] >= row[own].max()))
            if rank:
                first = np.lexsort((np.arange(len(row)), -row))[:5]
                found.append((-rank, -(row.max() - row[own].max()), query, tuple(first)))
        both.append([(query, -rank, -lost, first) for rank, lost, query, first in sorted(found)[:count]])
    return both


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [1, 3, 100])
def test_the_worst_are_those_of_the_definition(seed, count):
    encoded = encoded_split(np.random.default_rng(seed).integers(1, 4, 15), seed=seed)
    for found, wanted in zip(failures(encoded, count), expected(encoded, count), strict=True):
        assert [(one.query, one.rank, one.margin, one.rows) for one in found] == wanted


def test_the_best_correct_item_and_the_similarities():
    image = np.float32([[1, 0], [0, 1]])
    text = np.float32([[0.1, 0], [0.5, 0], [0.9, 0.2], [0.8, 0.3]])
    of_images, of_captions = failures(EncodedSplit(image, text, np.array([0, 0, 1, 1]), np.arange(2)), 9)
    (one,) = of_images
    assert (one.query, one.rank, one.correct, one.rows) == (0, 2, 1, (2, 3, 1, 0))
    assert one.score == 0.5
    np.testing.assert_allclose(one.margin, 0.4, rtol=1e-6)
    np.testing.assert_allclose(one.scores, [0.9, 0.8, 0.5, 0.1], rtol=1e-6)
    assert [(two.query, two.rank, two.correct) for two in of_captions] == [(2, 1, 1), (3, 1, 1)]


def test_a_model_without_errors_has_a_page_that_says_so():
    image = np.eye(3, dtype=np.float32)
    encoded = EncodedSplit(image, image, np.arange(3), np.arange(3))
    assert failures(encoded, 5) == ([], [])
    page = page_of("r", features_split([1, 1, 1]), encoded)
    assert page.count("every query has a correct item first") == 2


def features_split(counts, name=EVIL):
    records = tuple(
        Record(f"{name}{row}", tuple(f"{name} {row}.{i}" for i in range(n)), "test", row)
        for row, n in enumerate(counts)
    )
    return Split("test", records, FeatureImages(np.zeros([len(counts), 2]), np.arange(len(counts))))


def page_of(run, split, encoded, max_pixels=MAX_PIXELS, count=50):
    return report_page(SplitResults(run, split, {"metrics": measure(encoded)}), max_pixels, count)


def test_captions_and_names_are_escaped():
    encoded = encoded_split([2] * 6)
    page = page_of(EVIL, features_split([2] * 6), encoded, count=4)
    found = read(page)
    assert not {"script", "img", "iframe", "link"} & set(found.tags)
    assert not found.handlers
    assert set(found.sources) == {"#i2t", "#t2i"}
    assert "default-src 'none'" in page
    assert not re.search(r"https?://", page)
    assert "\n" not in re.search("<title>(.*?)</title>", page)[0]
    text = "".join(found.texts)
    assert f"{EVIL} 0.0" in text or f"{EVIL} 1.0" in text
    assert page.count("<article>") == sum(map(len, failures(encoded, 4)))
    assert "date" not in text.lower()
    for name, value in measure(encoded).metrics.items():
        if name in ("i2t_r1", "t2i_r10", "rsum"):
            assert f"{value:.1f}" in text
    page_of("\ud800", features_split([2] * 6, "\ud800"), encoded).encode()


def test_everything_that_was_measured_is_on_the_page():
    """Of evil names too: every section escapes them."""
    split, first, second = features_split([2] * 6), encoded_split([2] * 6, seed=1), encoded_split([2] * 6, seed=2)
    results = SplitResults("run", split, {"metrics": measure(first)})
    results.compared = Compared.of((EVIL, f"other {EVIL}"), results.measured["metrics"], second)
    results.hubness = {"metrics": split_hubness(first)}
    results.order = {"nouns": OrderResult(31, 61.5, (55.5, 66.5), 72.5)}
    results.wrong_order = [WrongOrder(0, "nouns", f"right {EVIL}", f"wrong {EVIL}", 0.25)]
    page = report_page(results, MAX_PIXELS)
    found = read(page)
    assert not {"script", "img", "iframe", "link"} & set(found.tags)
    assert not found.handlers
    assert set(found.sources) == {"#i2t", "#t2i", "#compared"}
    text = "".join(found.texts)
    for wanted in (
        f"Compared with other {EVIL}",
        f"{EVIL}: rank ",
        "Images that changed most",
        results.compared.verdict,
        "72.5 %",
        f"right {EVIL}",
        "nearer by 0.250",
        f"{results.hubness['metrics']['t2i'].most[0][1]} queries",
        "95 % interval",
        *(f"{results.intervals['metrics']['rsum'][end]:.1f}" for end in (0, 1)),
        f"{results.chance['t2i_r5']:.1f}",
    ):
        assert wanted in text, wanted
    # The curve, the differences, and the bars of both directions.
    assert page.count("<svg") == 4
    assert "nan" not in page


def test_queries_that_changed_are_shown_with_both_ranks(tmp_path):
    split = file_split(tmp_path, [1] * 8)
    image = np.eye(8, dtype=np.float32)
    good = EncodedSplit(image, image, np.arange(8), np.arange(8))
    text = image.copy()
    text[[2, 5]] = text[[5, 2]]
    bad = EncodedSplit(image, text, np.arange(8), np.arange(8))
    results = SplitResults("good", split, {"metrics": measure(good)})
    results.compared = Compared.of(("good", "bad"), results.measured["metrics"], bad)
    page = report_page(results, MAX_PIXELS)
    section = page.partition("Captions that changed most")[2].partition("</section>")[0]
    assert re.findall(r"caption (\d)\.0</p>", section) == ["2", "5"]
    assert re.findall(r"<h3>(\w+): rank <b>(\d)</b>", section) == [("good", "1"), ("bad", "8")] * 2


def file_split(folder, counts, names=None):
    records = []
    for row, n in enumerate(counts):
        path = folder / (names[row] if names else f"{row}.png")
        Image.new("RGB", (30, 20), (20 * row, 200, 0)).save(path)
        records.append(Record(str(path), tuple(f"caption {row}.{i}" for i in range(n)), "test", row))
    return Split("test", tuple(records), FileImages(tuple(record.image for record in records)))


def pictures(page):
    """Name and mean colour of each picture."""
    found = re.findall(r'<img alt="([^"]*)" src="data:image/jpeg;base64,([^"]*)">', page)
    opened = ((name, Image.open(io.BytesIO(base64.b64decode(jpeg)))) for name, jpeg in found)
    return [(name, tuple(np.asarray(one).mean((0, 1)))) for name, one in opened]


def test_pictures_are_those_of_the_rows_that_could_be_read(tmp_path):
    split = file_split(tmp_path, [1, 2, 1, 1, 2])
    # The first and the third image could not be read: positions of embeddings are not rows of the split.
    encoded = encoded_split([2, 1, 2], rows=[1, 3, 4], seed=3)
    page = page_of("r", split, encoded)
    found = pictures(page)
    assert {name for name, _ in found} <= {"1.png", "3.png", "4.png"}
    assert found
    for name, colour in found:
        np.testing.assert_allclose(colour, [20 * int(name[0]), 200, 0], atol=6)
    assert str(tmp_path) not in page
    text = "".join(read(page).texts)
    assert not re.search(r"caption [02]\.", text)
    # Captions of the query itself are marked, others are not.
    for section in page.split("<article>")[1:]:
        if "Best correct caption" in section:
            query = re.search(r"<bdi>(\d)\.png", section)[1]
            for mark, row in re.findall(r'<li( class="correct")? dir="auto"><span.*?</span> caption (\d)\.', section):
                assert bool(mark) == (row == query)
        else:
            caption = re.search(r'<p class="caption" dir="auto">caption (\d)\.', section)[1]
            for mark, row in re.findall(r'<li( class="correct")?><figure><img alt="(\d)\.png"', section):
                assert bool(mark) == (row == caption)


def test_a_picture_that_cannot_be_shown_has_a_placeholder(tmp_path):
    split = file_split(tmp_path, [1] * 4)
    (tmp_path / "1.png").write_text("not an image")
    (tmp_path / "2.png").unlink()
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    encoded = encoded_split([1] * 4, seed=1)
    page = page_of("r", split, encoded)
    assert {name for name, _ in pictures(page)} == {"0.png"}
    assert "no picture" in page
    assert not pictures(page_of("r", split, encoded, max_pixels=5))


def test_the_command_writes_the_page(tiny_run, tmp_path):
    page = tmp_path / "errors.html"
    argv = ["-m", "vse_tf.evaluate", "--run", str(tiny_run), "--split", "hard", "--errors", str(page)]
    done = subprocess.run([*warm_python(), *argv, "--errors_count", "3"], check=True, capture_output=True, text=True)
    assert f"written to {page}" in done.stdout
    text = page.read_text()
    assert "on hard" in text
    assert text.count("<article>") == 6
    assert len(pictures(text)) == 3 + 3 * 6
    missing = [*argv[:-1], str(tmp_path / "no" / "errors.html")]
    failed = subprocess.run([*warm_python(), *missing], check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert re.fullmatch(r"error: --errors: the folder .* does not exist\n", failed.stderr)


def test_a_wrong_count_or_page_path_is_one_line(tiny_run, tmp_path):
    argv = ["--run", str(tiny_run), "--split", "val"]
    with pytest.raises(UserError, match="--errors_count"):
        evaluate.main([*argv, "--errors", str(tmp_path / "x.html"), "--errors_count", "0"])
    with pytest.raises(UserError, match="is not a regular file"):
        evaluate.main([*argv, "--errors", str(tmp_path)])


def test_runs_on_files_and_on_features_have_a_page(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    (tmp_path / "images").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 255, (18, 20, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
        lines.append(f"{i}.png,{EVIL.replace(',', '').replace(chr(34), '')} {i % 7},{'train' if i < 20 else 'val'}")
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "precomp").mkdir()
    for name, n in (("train", 20), ("dev", 10)):
        np.save(tmp_path / "precomp" / f"{name}_ims.npy", rng.normal(size=(n, 6)).astype(np.float32))
        (tmp_path / "precomp" / f"{name}_caps.txt").write_text("".join(f"<b>{i % 7} words\n" for i in range(2 * n)))
    common = {"train__epochs": 1, "text__min_count": 1, "data__cache_dir": tmp_path / "cache"}
    sources = {
        "table": {
            "data__annotations": tmp_path / "captions.csv",
            "data__images": tmp_path / "images",
            "image__encoder": "cnn",
            "image__size": 16,
        },
        "precomp": {"data__annotations": tmp_path / "precomp", "image__encoder": "features"},
    }
    for source, changed in sources.items():
        run, page = tmp_path / f"run-{source}", tmp_path / f"{source}.html"
        argv = arguments(run, data__source=source, **common, **changed)
        drop = {i for i, part in enumerate(argv) if part.startswith("--data.shapes")}
        train.main([part for i, part in enumerate(argv) if i not in drop and i - 1 not in drop])
        broken = tmp_path / "images" / "25.png"
        broken.write_bytes(broken.read_bytes()[:80])  # its header is complete
        evaluate.main(["--run", str(run), "--split", "val", "--errors", str(page), "--data.on_bad", "skip"])
        found = read(page.read_text())
        assert "script" not in found.tags
        assert not found.handlers
        names = {name for name, _ in pictures(page.read_text())}
        text = "".join(found.texts)
        if source == "table":
            assert {f"{i}.png" for i in range(20, 30)} > names > {"20.png"}
            assert "25.png" not in text
        else:
            assert not names
            assert "dev_ims.npy[" in text
