"""Zero-shot classification against a slow oracle, and what its files may look like."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.test_word_order import bag
from vse_tf import evaluate
from vse_tf.errors import UserError
from vse_tf.evaluation.report import zero_shot_lines
from vse_tf.evaluation.zero_shot import class_vectors, classify
from vse_tf.indexing.labelled_images import labelled_images, read_labels, read_prompts


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_the_results_are_those_of_sorting_every_image(seed, classes):
    random = np.random.default_rng(seed)
    label = random.integers(0, classes, 25)
    # Few different values, so that classes tie.
    image, texts = (random.choice([-1.0, 0.0, 1.0], (n, 3)) for n in (25, classes))
    names = [f"c{number}" for number in range(classes)]
    found = classify(image, texts, label, names)
    top1 = top5 = 0
    confusion = np.zeros((classes, classes), int)
    for vector, right in zip(image, label, strict=True):
        scores = texts @ vector
        better = sum(scores[other] >= scores[right] for other in range(classes) if other != right)
        top1 += better < 1
        top5 += better < 5
        equal = [other for other in range(classes) if scores[other] == scores.max()]
        confusion[right, next((other for other in equal if other != right), right)] += 1
    assert found.top1 == pytest.approx(4 * top1)
    assert found.top5 == pytest.approx(4 * top5)
    assert found.confusion.tolist() == confusion.tolist()
    assert np.trace(found.confusion) == top1
    assert found.top1_interval[0] <= found.top1 <= found.top1_interval[1]


def test_prompts_are_averaged_as_unit_vectors():
    prompts = ["a photo of a {}", "{} and {}"]
    found = class_vectors(["dog", "red cat"], prompts, bag)
    for row, words in enumerate(["dog", "red cat"]):
        wanted = np.mean([bag([prompt.replace("{}", words)])[0] for prompt in prompts], axis=0)
        np.testing.assert_allclose(found[row], wanted / np.linalg.norm(wanted), atol=1e-6)


def test_the_most_frequent_confusions_are_named():
    found = classify(np.eye(3)[[0, 1, 1, 2, 2]], np.eye(3), [0, 0, 0, 1, 2], ["a", "b", "c"])
    assert found.mistaken() == [("a", "b", 2), ("b", "c", 1)]
    assert found.per_class.tolist() == pytest.approx([100 / 3, 0, 100])
    assert "most often mistaken: a as b (2), b as c (1)" in zero_shot_lines(found)


@pytest.fixture
def classes(noise_images, tmp_path):
    """A folder of classes, and a table of the same images."""
    files = sorted(noise_images.glob("*.png"))
    lines = ["image,label"]
    for number, file in enumerate(files):
        folder = tmp_path / "set" / ("dog", "cat", "cup")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name).write_bytes(file.read_bytes())
        lines.append(f"{folder.name}/{file.name},{folder.name}")
    (tmp_path / "set" / "labels.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "labels.txt").write_text("dog\ncat\ta small cat\n\n")
    (tmp_path / "prompts.txt").write_text("a photo of a {}\n{}\n")
    return tmp_path


def test_a_folder_and_a_table_give_the_same(tiny_run, classes, capsys):
    found = []
    for place in ("set", "set/labels.csv"):
        argv = ["--labels", str(classes / "labels.txt"), "--images", str(classes / place)]
        argv += ["--prompts", str(classes / "prompts.txt"), "--output", str(classes / "x.json")]
        evaluate.main(["--run", str(tiny_run), *argv])
        found.append(json.loads((classes / "x.json").read_text()))
        printed = capsys.readouterr()
        assert "8 images, 2 classes" in printed.out
        assert "left out: 4 images of 'cup', which is not among the labels" in printed.err
    assert found[0] == found[1]
    assert found[0]["top5"] == 100.0
    assert np.sum(found[0]["confusion"]) == 8
    assert found[0]["prompts"] == ["a photo of a {}", "{}"]


def test_files_that_cannot_be_used_are_one_line(classes, tiny_run):
    def refused(wanted, call, text=None, name="bad.txt"):
        if text is not None:
            (classes / name).write_text(text)
        with pytest.raises(UserError, match=wanted):
            call(classes / name)

    refused(r"line 2: 'dog' is there twice", read_labels, "dog\ndog\n")
    refused(r"two classes or more, one per line; there is 1", read_labels, "dog\n")
    refused(r"line 2: 'a dog' has no \{\}", read_prompts, "a {}\na dog\n")
    refused(r"no prompt", read_prompts, "\n")
    labels = read_labels(classes / "labels.txt")
    assert labels.words == ("dog", "a small cat")
    refused(
        r"line 1: no column label; the columns are image, kind", lambda p: labelled_images(p, labels), "image,kind\n"
    )
    refused(r"line 2: .*missing", lambda p: labelled_images(p, labels), "image,label\nno.png,dog\n")
    refused(
        r"no image of the 2 classes; there are 'bird'",
        lambda p: labelled_images(p, labels),
        "image,label\nset/dog/00.png,bird\n",
    )
    run = ["--run", str(tiny_run)]
    with pytest.raises(UserError, match="--labels: name the images"):
        evaluate.main([*run, "--labels", str(classes / "labels.txt")])
    with pytest.raises(UserError, match="name the classes with --labels"):
        evaluate.main([*run, "--images", str(classes / "set")])
