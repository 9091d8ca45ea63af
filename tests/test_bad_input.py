"""Bad input through the real command: a clear error, or a counted skip."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import arguments, rows_of
from vse_tf import evaluate, train
from vse_tf.errors import UserError

GOOD = 40


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty good photos and a caption table with splits."""
    monkeypatch.setenv("VSE_TF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(GOOD):
        pixels = rng.integers(0, 255, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.jpg")
        split = ("train", "train", "train", "val")[i % 4]
        rows += [{"image": f"{i}.jpg", "caption": f"photo number {i} {word}", "split": split} for word in ("a", "b")]
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows):
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def add(folder, *rows):
    with (folder / "captions.jsonl").open("a") as file:
        for image, caption in rows:
            file.write(json.dumps({"image": image, "caption": caption, "split": "train"}) + "\n")


def run(folder, **changed):
    values = {
        "data__source": "table",
        "data__annotations": folder / "captions.jsonl",
        "data__images": folder / "images",
        "image__encoder": "cnn",
        "image__size": 16,
        "text__min_count": 1,
        "train__warmup_epochs": 0,
        "train__epochs": 1,
    }
    argv = arguments(folder / "run", **{**values, **changed})
    pairs = zip(argv[::2], argv[1::2], strict=True)
    train.main([part for pair in pairs if not pair[0].startswith("--data.shapes") for part in pair])
    return folder / "run"


def truncated(path):
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:900])


def text_file(path):
    path.write_text("this is no photo")


def animated_webp(path):
    frames = [Image.new("RGB", (20, 20), (i * 40, 0, 0)) for i in range(3)]
    frames[0].save(path, format="WEBP", save_all=True, append_images=frames[1:])


BAD = {"cut.jpg": truncated, "text.jpg": text_file, "film.webp": animated_webp}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_an_error_that_names_it(folder, name):
    BAD[name](folder / "images" / name)
    add(folder, (name, "a broken photo"))
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        run(folder, data__verify="decode")
    assert not (folder / "run").exists()


def test_bad_images_are_left_out_and_listed(folder):
    for name, make in BAD.items():
        make(folder / "images" / name)
        add(folder, (name, "a broken photo"))
    add(folder, ("gone.jpg", "a missing photo"), ("../captions.jsonl", "outside"), ("0.jpg", "  "))
    found = run(folder, data__verify="decode", data__on_bad="skip")
    listed = [json.loads(line) for line in (found / "skipped.jsonl").read_text().splitlines()]
    told = json.dumps(listed)
    for expected in ("cut.jpg", "text.jpg", "film.webp", "gone.jpg", "..", "empty caption"):
        assert expected in told
    results = json.loads((found / "results.json").read_text())
    assert results["provenance"]["data"] == {"train": 30, "val": 10}
    assert results["provenance"]["skipped"] == len(listed) == 6


def test_what_verification_let_through_is_caught_in_training(folder):
    truncated(folder / "images" / "cut.jpg")
    add(folder, ("cut.jpg", "a broken photo"))
    with pytest.raises(UserError, match=r"cut\.jpg.*--data\.on_bad skip"):
        run(folder, data__verify="none")
    found = run(folder, data__verify="none", data__on_bad="skip", train__run_dir=folder / "skipping")
    assert found != folder / "skipping"
    assert "cut.jpg" in (folder / "skipping" / "skipped.jsonl").read_text()
    assert json.loads((folder / "skipping" / "metrics.jsonl").read_text())["step"] == 61 // 16


def test_unusual_but_good_images_train(folder):
    images = folder / "images"
    Image.new("CMYK", (20, 30), (0, 90, 200, 10)).save(images / "cmyk.jpg")
    Image.new("L", (30, 20), 90).save(images / "gray.jpg")
    Image.fromarray((np.arange(400, dtype=np.uint16) * 150).reshape(20, 20)).save(images / "deep.png")
    Image.new("RGBA", (20, 20), (255, 0, 0, 100)).save(images / "alpha.png")
    Image.new("P", (20, 20), 3).save(images / "one.gif")
    for name in ("cmyk.jpg", "gray.jpg", "deep.png", "alpha.png", "one.gif"):
        add(folder, (name, f"an unusual photo {name}"))
    add(folder, ("0.jpg", "word " * 10_000))
    found = run(folder, data__verify="decode")
    assert json.loads((found / "results.json").read_text())["provenance"]["data"]["train"] == 35


def test_all_problems_are_told_at_once_with_their_lines(folder):
    add(folder, ("gone.jpg", "x"), ("1.jpg", ""), ("/etc/hostname", "y"))
    with pytest.raises(UserError) as error:
        run(folder)
    told = str(error.value)
    for expected in ("line 81", "line 82", "line 83", "3 problems", "--data.on_bad skip"):
        assert expected in told


def test_a_broken_table_is_one_line(folder):
    with (folder / "captions.jsonl").open("a") as file:
        file.write('{"image": "0.jpg", \n')
    with pytest.raises(UserError, match=r"captions\.jsonl.*line 81"):
        run(folder)


def test_an_unknown_split_names_those_there_are(folder):
    found = run(folder)
    with pytest.raises(UserError, match=r"no split 'test'.*train.*val"):
        evaluate.main(["--run", str(found), "--split", "test"])


@pytest.mark.parametrize("name", ["train", "val"])
def test_val_is_taken_out_of_the_only_split(folder, name, capsys):
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    write(folder, [row | {"split": name} for row in rows])
    found = run(folder, data__val_fraction=0.25)
    results = json.loads((found / "results.json").read_text())
    assert results["provenance"]["data"] == {"train": 30, "val": 10}
    assert f"of the 40 images of {name}, 10 are val and 30 train" in capsys.readouterr().out

    def evaluated(*options):
        evaluate.main(["--run", str(found), "--output", str(folder / "found.json"), *options])
        return json.loads((folder / "found.json").read_text())

    # The same images are measured, from the run's own path and from another.
    assert evaluated()["metrics"] == pytest.approx(results["best"]["metrics"])
    moved = folder / "moved.jsonl"
    (folder / "captions.jsonl").rename(moved)
    assert evaluated("--data.annotations", str(moved))["metrics"] == pytest.approx(results["best"]["metrics"])
    # Other data are measured as they are.
    write(folder, [row | {"split": name} for row in rows[:20]])
    (folder / "captions.jsonl").rename(folder / "other.jsonl")
    other = evaluated("--split", name, "--data.annotations", str(folder / "other.jsonl"))
    assert other["provenance"]["data"] == {name: 10}


def test_data_without_val_says_what_helps(folder):
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    write(folder, [row for row in rows if row["split"] == "train"])
    with pytest.raises(UserError, match=r"no split 'val'.*set --data\.val_fraction above 0 to take images of train"):
        run(folder, data__val_fraction=0)
    write(folder, rows[:1])
    with pytest.raises(UserError, match=r"no split 'val'.*two images are needed"):
        run(folder)


def empty(path):
    path.touch()


def noise_behind_a_magic_number(path):
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + np.random.default_rng(1).bytes(500))


def bomb(path):
    Image.new("1", (30_000, 30_000)).save(path)


def one_bit(path):
    Image.new("1", (20, 20)).save(path)


def a_folder(path):
    path.mkdir()


def link_to_text(path):
    path.symlink_to(path.parent.parent / "captions.jsonl")


def dangling_link(path):
    path.symlink_to("nothing.jpg")


TEN_WAYS = {
    "cut.jpg": (truncated, "undecodable"),
    "text.jpg": (text_file, "not a JPEG"),
    "film.webp": (animated_webp, "animated WebP"),
    "empty.jpg": (empty, "empty file"),
    "noise.png": (noise_behind_a_magic_number, "truncated or broken"),
    "bomb.png": (bomb, "900000000 pixels, more than data.max_pixels"),
    "lines.bmp": (one_bit, "BMP of a kind"),
    "folder.jpg": (a_folder, "not a file"),
    "outside.jpg": (link_to_text, "not a JPEG"),
    "dangling.jpg": (dangling_link, "missing image"),
}


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.evidence)])
def test_a_tenth_of_the_images_broken_in_ten_ways(folder, times):
    good = 90 * times
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    for i in range(GOOD, good):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)).save(
            folder / "images" / f"{i}.jpg"
        )
        split = ("train", "train", "train", "val")[i % 4]
        rows.append({"image": f"{i}.jpg", "caption": f"photo number {i} a", "split": split})
    write(folder, rows)
    deterministic = {"train__deterministic": "true", "train__epochs": 2, "data__verify": "decode"}
    run(folder, **deterministic, train__run_dir=folder / "good")
    for turn in range(times):
        for number, (name, (make, _)) in enumerate(TEN_WAYS.items()):
            make(folder / "images" / f"{turn}{name}")
            row = {"image": f"{turn}{name}", "caption": f"broken {number}", "split": ("train", "val")[number % 2]}
            rows.insert((turn * 10 + number) * 9, row)
    write(folder, rows)
    with pytest.raises(UserError) as error:
        run(folder, **deterministic)
    told = str(error.value)
    assert f"{10 * times} problems" in told
    complete = Path(re.search(r"all of them are in (.*); fix them", told)[1]).read_text()
    assert not (folder / "run").exists()
    skipping = folder / "skipping"
    run(folder, **deterministic, data__on_bad="skip", train__run_dir=skipping)
    listed = [json.loads(line) for line in (skipping / "skipped.jsonl").read_text().splitlines()]
    assert len(listed) == 10 * times
    for name, (_, reason) in TEN_WAYS.items():
        found = [problem["what"] for problem in listed if name in problem["what"]]
        assert len(found) == times, name
        assert all(reason in what for what in found), (name, found)
        assert complete.count(reason) >= times
    # The broken ones have left no trace: the weights and the recalls are those of the good rest, to the bit.
    assert rows_of(skipping) == rows_of(folder / "good")


def test_an_image_deleted_between_reading_and_training(folder, monkeypatch):
    from vse_tf.data import sources  # noqa: PLC0415

    def read_and_lose(settings, progress=True):
        collection = sources.read(settings, progress)
        (folder / "images" / "4.jpg").unlink(missing_ok=True)
        return collection

    monkeypatch.setattr("vse_tf.training.trainer.read", read_and_lose)
    photo = (folder / "images" / "4.jpg").read_bytes()
    with pytest.raises(UserError, match=r"4\.jpg: missing image; fix it, or .*--data\.on_bad skip"):
        run(folder)
    (folder / "images" / "4.jpg").write_bytes(photo)
    run(folder, data__on_bad="skip", train__run_dir=folder / "skipping", train__epochs=2)
    (problem,) = (json.loads(line) for line in (folder / "skipping" / "skipped.jsonl").read_text().splitlines())
    assert problem["what"] == "missing image"
    assert problem["where"].endswith("4.jpg")
    assert [row["epoch"] for row in rows_of(folder / "skipping")] == [1, 2]
