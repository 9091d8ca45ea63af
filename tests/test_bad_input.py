"""Bad input through the real command: a clear error, or a counted skip."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.tiny import arguments
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


def test_data_without_val_says_so(folder):
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    write(folder, [row for row in rows if row["split"] == "train"])
    with pytest.raises(UserError, match="no split 'val'"):
        run(folder)
