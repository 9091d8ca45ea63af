"""The source is told from the first characters of the annotations."""

import gzip
import json
import time

import pytest

from vse_tf.config import DataSettings, TfdsSettings
from vse_tf.errors import UserError
from vse_tf.settings_parser import parse_settings
from vse_tf.source_detection import HEAD_BYTES, kind_of, with_source

IMAGE = {"license": 1, "file_name": "a.jpg", "id": 1}
COCO = {"info": {"images": [1]}, "images": [IMAGE], "annotations": [{"image_id": 1, "id": 2, "caption": "a dog"}]}
SENTENCES = {"images": [{"sentids": [1], "filename": "a.jpg", "split": "train", "sentences": [{"raw": "a dog"}]}]}
ROW = {"image": "a.jpg", "caption": 'a "dog" {and} [a cat]'}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("image,caption\na.jpg,a dog\n", "table"),
        ("image\tcaption\na.jpg\ta dog\n", "table"),
        ("a.jpg#0\ta dog\n", "table"),
        ("", "table"),
        ("{}", "table"),
        (json.dumps([ROW]), "table"),
        (json.dumps([ROW], indent=1), "table"),
        (json.dumps(ROW) + "\n" + json.dumps(ROW), "table"),
        (json.dumps({**ROW, "images": 3}) + "\n", "table"),
        (json.dumps({**ROW, "annotations": ["a dog"]}) + "\n", "table"),
        (json.dumps(COCO), "coco"),
        ("\n " + json.dumps(COCO, indent=1), "coco"),
        (json.dumps({"annotations": COCO["annotations"] * 40_000} | {"images": [IMAGE]}), "coco"),
        (json.dumps({"images": [IMAGE] * 40_000} | COCO), "coco"),
        (json.dumps({"images": [], "annotations": []}), "coco"),
        (json.dumps({"images": []}), "karpathy"),
        (json.dumps(SENTENCES), "karpathy"),
        (json.dumps({"dataset": "coco", "images": SENTENCES["images"] * 20_000}), "karpathy"),
    ],
)
def test_a_file_tells_its_kind(tmp_path, text, kind):
    for number, contents in enumerate((text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode()))):
        path = tmp_path / f"{number}.txt"
        path.write_bytes(contents)
        assert kind_of(str(path)) == kind
    path.write_text(text, encoding="utf-16")
    assert kind_of(str(path)) == kind


def test_a_folder_of_features_is_precomp(tmp_path):
    (tmp_path / "train_ims.npy").touch()
    assert kind_of(str(tmp_path)) == "precomp"
    # ... whose features are their own encoder.
    assert parse_settings(["--data.annotations", str(tmp_path)], "train", "").image.encoder == "features"


def test_only_the_head_is_read(tmp_path):
    path = tmp_path / "captions_train.json"
    path.write_text(json.dumps(COCO)[:-1])
    with path.open("r+b") as file:
        file.truncate(2**40)
    started = time.perf_counter()
    assert kind_of(str(path)) == "coco"
    hostile = tmp_path / "hostile.json"
    hostile.write_text('{"' + '\\"' * HEAD_BYTES)
    assert kind_of(str(hostile)) == "table"
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "a.json",
            '{"a.jpg": ["a dog"],\n"b.jpg": ["a cat"]}',
            r"a\.json is a JSON object with the keys 'a\.jpg, b\.jp",
        ),
        ("a.json", '{"images": [{"path": "a.jpg"},', "with the keys 'images'; say what it is with --data.source"),
        ("", "", "is a folder without .*_ims.npy, .*tar and .*parquet files; name the caption file"),
        ("nowhere.csv", None, r"nowhere\.csv: cannot be read: No such file"),
    ],
)
def test_what_tells_nothing_is_one_line(tmp_path, name, text, wanted):
    if name and text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=wanted) as caught:
        parse_settings(["--data.annotations", str(tmp_path / name)], "train", "")
    assert "\n" not in str(caught.value)


def test_settings_without_a_source(tmp_path):
    table, coco = tmp_path / "a.csv", tmp_path / "b.json"
    table.write_text("image,caption\n")
    coco.write_text(json.dumps(COCO))
    assert with_source(DataSettings()).source == "shapes"
    assert with_source(DataSettings(tfds=TfdsSettings(name="coco_captions"))).source == "tfds"
    assert with_source(DataSettings(annotations=[str(coco), str(coco)])).source == "coco"
    assert with_source(DataSettings(source="karpathy", annotations=str(coco))).source == "karpathy"
    with pytest.raises(UserError, match=r"different kinds: .*a\.csv \(table\), .*b\.json \(coco\)"):
        with_source(DataSettings(annotations=[str(table), str(coco)]))


def test_an_unreadable_file_does_not_hide_the_help(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--data.annotations", "nowhere.csv", "--help"], "train", "")
    assert "All settings" in capsys.readouterr().out
